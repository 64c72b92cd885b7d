# %% [markdown]
# # A fast student of a slow teacher
#
# One call makes a small model of a large one, for one system: the teacher labels structures near yours, a student
# that is fast enough learns from them, moves by itself, is corrected where it leaves what it knows, and is validated.
#
# Here `mini-smooth`, which comes with atomslim, teaches a small model of ethanol. Any model can be the teacher:
# `TEACHER = "sevennet:7net-0"`, or an ASE calculator by its import path, `"ase:MODULE:CLASS?NAME=VALUE"`.

# %%
from pathlib import Path

from ase.build import molecule
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.units import fs

import atomslim

TEACHER = "mini-smooth"
TASK = "molecules"  # whose heads answer; None where the teacher has a single one
FOLDER = Path("student")
OPTIONS = {"speedup": 1.5, "budget": "15min", "temperatures": (300, 600)}

# %% [markdown]
# ## Your system
#
# One structure does, and more are better: other conformers, phases, defects. Labels are not needed.

# %%
write("system.xyz", molecule("CH3CH2OH"))

# %% [markdown]
# ## Slim
#
# `speedup` asks for a speed, `budget` is the wall clock of everything but the validation. The run can be killed: the
# same call goes on where it was. `student="small.safetensors"` names a model to train, instead of one chosen by its
# speed.

# %%
done = atomslim.slim("system.xyz", TEACHER, FOLDER, task=TASK, tell=print, **OPTIONS)

# %% [markdown]
# ## What came out
#
# Bars that were asked for, what was found, and whether they hold. `report.html` in the folder has all of it.

# %%
print(*done.sentences, sep="\n")
{name: ("holds" if good else "does not hold", found) for name, (asked, found, good) in done.bars.items()}

# %% [markdown]
# ## Use
#
# The student is one file. Ten femtoseconds of dynamics with it, from a displaced start:

# %%
atoms = read("system.xyz")
atoms.calc = atomslim.Calculator(done.model)
atoms.rattle(0.05, seed=0)
start = atoms.get_total_energy()
VelocityVerlet(atoms, timestep=0.5 * fs).run(20)
print(f"total energy: {1000 * (atoms.get_total_energy() - start) / len(atoms):.2f} meV an atom away from the start")
