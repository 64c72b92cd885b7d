# %% [markdown]
# # Cut JMP
#
# A pre-trained model becomes smaller: its blocks are scored, the least relevant ones removed, the readout fitted in
# closed form, and the full model teaches the cut one. The error and the time of each stand side by side in the end.
#
# `mini`, the small JMP model that comes with atomslim, stands in for a checkpoint of the authors', so that everything
# runs within minutes on a laptop. For a real one, change the line below: `MODEL = "jmp-l.pt"`.

# %%
from ase.build import molecule

import atomslim

MODEL = "mini"  # or "jmp-l.pt"
DATA = "mini:molecules"  # labelled structures like those you care about: a file, or a dataset by name
LIMIT = 64  # structures for scores, for the fit and for the comparison
STEPS = 200  # of distillation; or a budget of wall clock, see below

# %% [markdown]
# ## Look
#
# A checkpoint is read without running anything in it. A model says in a few lines what it is.

# %%
model = atomslim.load(MODEL)
model

# %% [markdown]
# Its tasks are the data sets that it was pre-trained on. One of them is near to the structures here; data are named
# with it. Every fifth structure is kept for the comparison in the end.

# %%
task = "molecules" if "molecules" in model.tasks else "ani1x"
samples = list(atomslim.open_dataset(DATA))
held_out = samples[::5]
data = {task: [sample for number, sample in enumerate(samples) if number % 5]}
samples[0]

# %% [markdown]
# ## Score the blocks
#
# Each interaction block gets three scores, and beside them what leaving it out does to the errors.

# %%
scores = atomslim.block_relevance(model, data, limit=LIMIT)
scores

# %% [markdown]
# ## Cut
#
# The two blocks that matter least go. `sliced` only drops their columns of the readout; `least-squares` also fits
# what is left to the full model, which takes no gradient steps.

# %%
kept = [block for block in model.block_ids if block not in scores.lowest(2)]
sliced = atomslim.keep_blocks(model, kept)
fitted = atomslim.keep_blocks(model, kept, realign="least-squares", calibration=data, limit=LIMIT)
fitted

# %% [markdown]
# ## Distil
#
# The cut model learns to answer as the full one does: forces, energies and features. `budget="30min"` in place of
# `steps` trains for that long. With `output="runs/kd"` the run is kept in a folder, and goes on after a kill.

# %%
distilled = atomslim.distill(fitted, model, data, steps=STEPS, validate_against="teacher")

# %% [markdown]
# ## Compare
#
# Errors, parameters, FLOPs and times. The models take turns, so that a busy machine favours none.

# %%
models = {"full": model, "sliced": sliced, "least squares": fitted, "distilled": distilled}
report = atomslim.compare(models, {task: held_out}, limit=LIMIT)
report.write("compare")  # compare.html and others
report

# %% [markdown]
# ## Use
#
# Save the model, and run it wherever ASE takes a calculator.

# %%
atomslim.save(distilled, "small.safetensors")
atoms = molecule("CH3CH2OH")
atoms.calc = atomslim.Calculator("small.safetensors", task=task)
print(f"{atoms.get_potential_energy():.3f} eV")
