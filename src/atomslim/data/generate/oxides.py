"""Oxides and other insulators, in bulk and as layers: strained, rattled, some atoms exchanged, some with a guest.

Only solids whose atoms are far apart fit a cell of 8 Å with few atoms; the others are there as layers of one or two
atoms' thickness, as ultrathin films are. Barium oxide is not among them: its charges do not converge. Lattice constants
are GFN1-xTB's own. All cells are sampled at the Γ point.
"""

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from numpy.random import Generator

from atomslim.atoms.sample import Sample
from atomslim.data.generate.adsorb import CLOSED_SHELL, adsorbed
from atomslim.data.generate.adsorbates import downhill
from atomslim.data.generate.crystals import Solid, widened
from atomslim.data.generate.labels import Labeller

SOLIDS = (
    Solid("MgO(001)", "square", ("Mg", "O"), 4.40, 1),
    Solid("MgO(001) bilayer", "square", ("Mg", "O"), 4.42, 2),
    Solid("CaO(001)", "square", ("Ca", "O"), 4.60, 1),
    Solid("SrO(001)", "square", ("Sr", "O"), 5.0, 1),
    Solid("LiF(001)", "square", ("Li", "F"), 4.2, 1),
    Solid("LiF(001) bilayer", "square", ("Li", "F"), 4.2, 2),
    Solid("LiCl(001)", "square", ("Li", "Cl"), 5.1, 1),
    Solid("NaF(001)", "square", ("Na", "F"), 4.6, 1),
    Solid("NaCl(001)", "square", ("Na", "Cl"), 5.5, 1),
    Solid("NaCl(001) bilayer", "square", ("Na", "Cl"), 5.5, 2),
    Solid("KCl(001) bilayer", "square", ("K", "Cl"), 6.1, 2),
    Solid("ZnO layer", "hexagonal", ("Zn", "O"), 3.29, 1),
    Solid("ZnO bilayer", "hexagonal", ("Zn", "O"), 3.29, 2),
    Solid("BeO layer", "hexagonal", ("Be", "O"), 2.68, 1),
    Solid("BN layer", "hexagonal", ("B", "N"), 2.50, 1),
    Solid("AlN layer", "hexagonal", ("Al", "N"), 3.13, 1),
    Solid("GaN layer", "hexagonal", ("Ga", "N"), 3.21, 1),
    Solid("SiC layer", "hexagonal", ("Si", "C"), 3.10, 1),
    Solid("TiO2 layer", "octahedral", ("Ti", "O"), 2.99, 1),
    Solid("SnO2 layer", "octahedral", ("Sn", "O"), 3.22, 1),
    Solid("SiO2 layer", "octahedral", ("Si", "O"), 2.85, 1),
    Solid("CaF2 layer", "octahedral", ("Ca", "F"), 3.6, 1),
    Solid("MgCl2 layer", "octahedral", ("Mg", "Cl"), 3.64, 1),
    Solid("Mg(OH)2 layer", "octahedral", ("Mg", "O", "H"), 3.14, 1),
    Solid("NaCl", "rocksalt", ("Na", "Cl"), 5.5),
    Solid("NaBr", "rocksalt", ("Na", "Br"), 5.97),
    Solid("KCl", "rocksalt", ("K", "Cl"), 6.1),
    Solid("KBr", "rocksalt", ("K", "Br"), 6.5),
    Solid("LiBr", "rocksalt", ("Li", "Br"), 5.5),
    Solid("ZnS", "zincblende", ("Zn", "S"), 5.41),
)

MATES = {
    "Li": "Na", "Na": "Li K", "K": "Na", "Be": "Mg", "Mg": "Ca Zn", "Ca": "Mg Sr", "Sr": "Ca Ba", "Ba": "Sr",
    "Zn": "Mg", "B": "Al", "Al": "Ga", "Ga": "Al", "Si": "Ge", "Ge": "Si", "Ti": "Sn", "Sn": "Ti",
    "F": "Cl", "Cl": "F Br", "Br": "Cl", "O": "S", "S": "O", "C": "Si",
}  # fmt: skip
"""Elements that may stand in for each other, since they have as many electrons to give or take."""

STRAIN = 0.03
"""Largest component of the strain; of layers, in the plane."""

RATTLE = 0.12
"""Å: largest standard deviation of the noise."""

STEPS = 2
"""Frames of each short relaxation."""

_EXCHANGED, _GUESTS = 0.75, 0.4
_MOST_EXCHANGED = 4


def elements() -> set[str]:
    """Give all elements of the solids and of what is exchanged in them."""
    mates = {mate for found in MATES.values() for mate in found.split()}
    return mates.union(*(solid.elements for solid in SOLIDS))


def sample(number: int, random: Generator, label: Labeller) -> Iterator[Sample]:
    """Give frames of the solid of group `number` without end."""
    solid = SOLIDS[int(np.random.default_rng(number // len(SOLIDS)).permutation(len(SOLIDS))[number % len(SOLIDS)])]
    pure = widened(solid).copy()
    label.group = solid.name + exchange(pure, random)
    label.stress = not solid.layers
    while True:
        atoms = strained(pure, solid, random)
        if solid.layers and random.random() < _GUESTS:
            atoms = adsorbed(atoms, CLOSED_SHELL, random)
        atoms.positions += random.uniform(0.0, RATTLE) * random.standard_normal(atoms.positions.shape)
        yield from downhill(atoms, label, STEPS)


def exchange(atoms: Atoms, random: Generator) -> str:
    """Exchange up to four atoms of an element in most of the groups; say what was done: " 2Ca"."""
    if random.random() > _EXCHANGED:
        return ""
    sites = [site for site, symbol in enumerate(atoms.symbols) if symbol in MATES]
    symbol = atoms.symbols[sites[random.integers(len(sites))]]
    mates = MATES[symbol].split()
    mate = mates[random.integers(len(mates))]
    same = np.flatnonzero(atoms.symbols == symbol)
    count = int(random.integers(1, min(_MOST_EXCHANGED, len(same)) + 1))
    atoms.symbols[random.choice(same, count, replace=False)] = mate
    return f" {count}{mate}"


def strained(atoms: Atoms, solid: Solid, random: Generator) -> Atoms:
    """Deform a copy by a random symmetric strain."""
    strain = random.uniform(-STRAIN, STRAIN, (3, 3))
    strain = (strain + strain.T) / 2
    strain[solid.periodic :] = strain[:, solid.periodic :] = 0.0
    result = atoms.copy()
    result.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return result
