# %% [markdown]
# # Is the physics still right?
#
# A cut model with a good error can still melt a crystal. The checks here are those that one looks at before one
# trusts a potential; each has a bar. The model that was cut is the reference.

# %%
from ase.build import molecule

import atomslim

MODEL = "mini-smooth"
TASK = "molecules"
DATA = "mini:molecules"
LIMIT = 64  # structures that the readout is fitted to
ALONE = ("forces", "symmetry", "smoothness")  # checks that need no reference
CHECKS = "quick"  # or "full", or names of checks

# %% [markdown]
# ## A model and its cut

# %%
full = atomslim.load(MODEL)
small = atomslim.keep_blocks(full, 3, realign="least-squares", calibration={TASK: DATA}, limit=LIMIT)
structures = {"water": molecule("H2O"), "ethanol": molecule("CH3CH2OH")}

# %% [markdown]
# ## By itself
#
# Are forces the slope of the energy? Does anything depend on how a structure lies in space? What has no reference is
# held against a bar of its own.

# %%
alone = atomslim.validate(full, structures, task=TASK, checks=ALONE, progress=False)
alone

# %% [markdown]
# ## Against the full model
#
# `against` takes a model, any ASE calculator, or labelled data. With `output="validation"` the measurements are kept,
# and a report is written beside them.

# %%
found = atomslim.validate(small, structures, against=full, task=TASK, checks=CHECKS, progress=False)
found

# %% [markdown]
# What fails says what to do about it: the page "Is the physics right?" goes through the checks.

# %%
sorted({verdict.check for verdict in found.failed})
