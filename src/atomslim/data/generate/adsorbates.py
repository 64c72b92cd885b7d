"""Adsorbates on slabs of metals: random positions and orientations, then some steps down the forces, all of them kept.

The slabs have two layers, the lower one fixed, 3 × 3 atoms each, so that the cell is at least 8 Å wide (the Γ point
alone is sampled), and one height of cell for all, 20 Å: tblite sums its electrostatics over the cell of each atom,
and its energy creeps with the vacuum. Lattice constants are GFN1-xTB's own. Metals are those that it keeps together;
aluminium and nickel are not among them. In half of the groups one to three atoms of the surface are of another metal.
"""

from collections.abc import Callable, Iterator

import numpy as np
from ase import Atoms
from ase.build import fcc100, fcc111
from ase.constraints import FixAtoms
from numpy.random import Generator
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.generate.adsorb import ADSORBATES, adsorbed
from atomslim.data.generate.labels import Labeller

LATTICE = {"Cu": 3.78, "Rh": 4.03, "Pd": 4.07, "Ag": 4.19, "Ir": 4.07, "Pt": 4.18, "Au": 4.23}
"""Å: lattice constants of the face-centred cubic metals, by GFN1-xTB."""

FACETS: dict[str, Callable[..., Atoms]] = {"111": fcc111, "100": fcc100}
HEIGHT = 20.0
"""Å: height of the cell."""

STEPS = 4
"""Frames of each short relaxation."""

RATTLE = 0.1
"""Å: largest standard deviation of the noise on the first of them."""

_DOWNHILL, _FARTHEST = 0.03, 0.15
"""A step: Å for each eV/Å, and Å at most."""


def sample(number: int, random: Generator, label: Labeller) -> Iterator[Sample]:
    """Give frames of short relaxations on the slab of group `number` without end."""
    del number
    surface, label.group = slab(random)
    while True:
        atoms = adsorbed(surface, tuple(ADSORBATES), random)
        free = atoms.get_tags() > 0
        atoms.positions[free] += random.uniform(0.0, RATTLE) * random.standard_normal((int(free.sum()), 3))
        yield from downhill(atoms, label, STEPS)


def downhill(atoms: Atoms, label: Labeller, frames: int) -> Iterator[Sample]:
    """Relax a structure by a few steps, and give all frames; ends early where one is dropped."""
    for _ in range(frames):
        labelled = label(atoms)
        if labelled is None:
            return
        yield labelled
        atoms.positions[~labelled.fixed] += _step(labelled.targets["forces"][~labelled.fixed])


def slab(random: Generator) -> tuple[Atoms, str]:
    """Draw a slab, and say what it is: "Cu(111) 2Pt"."""
    metal = _drawn(random, tuple(LATTICE))
    facet = _drawn(random, tuple(FACETS))
    atoms = FACETS[facet](metal, (3, 3, 2), a=LATTICE[metal], vacuum=2.0, periodic=True)
    atoms.cell[2] = (0, 0, HEIGHT)
    atoms.set_tags(2 - atoms.get_tags())  # ASE counts layers from above
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 0))
    other = _drawn(random, tuple(name for name in LATTICE if name != metal))
    count = int(random.integers(1, 4)) if random.random() < 0.5 else 0
    exchanged = random.choice(np.flatnonzero(atoms.get_tags() == 1), count, replace=False)
    atoms.symbols[exchanged] = other
    return atoms, f"{metal}({facet})" + (f" {count}{other}" if count else "")


def _step(forces: NDArray[np.float64]) -> NDArray[np.float64]:
    length = _DOWNHILL * np.linalg.norm(forces, axis=1, keepdims=True)
    return _DOWNHILL * forces * np.minimum(1.0, _FARTHEST / np.maximum(length, 1e-9))


def _drawn(random: Generator, choices: tuple[str, ...]) -> str:
    return choices[random.integers(len(choices))]
