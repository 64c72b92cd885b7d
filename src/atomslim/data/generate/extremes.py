"""Structures at the edges of a domain, so that potentials have no holes there.

| kind | what | in |
|---|---|---|
| pairs | every element as an isolated atom, and all pairs at all distances | all domains |
| squeezed | the domain's own structures, two neighbouring atoms pushed together | all domains |
| contacts | the same, two atoms without a bond moved towards each other, any part of the way | all domains |
| cells | bulk insulators, compressed, stretched, sheared and rattled, with their stress | oxides |

Contacts are what hot atoms run into: two hydrogen atoms of one carbon atom, say, which neither a pair alone nor bonds
pushed together say anything about.

Isolated atoms have no cell; they give reference energies. Their electrons are paired as far as the level of theory
pairs those of the other structures, which is not an atom's ground state: the references belong to these data only.
"""

from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.random import Generator
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.generate.crystals import Solid, widened
from atomslim.data.generate.labels import Labeller

Sampler = Callable[[int, Generator, Labeller], Iterator[Sample]]
"""Gives labelled structures of group `number` without end."""

LARGEST_FORCE = 60.0
"""eV/Å: the repulsive wall is steeper than anything else."""

APART = (0.5, 2.0)
"""Distance of an isolated pair, in units of the sum of their covalent radii."""

SQUEEZED = (0.55, 0.85)
"""Distance of two atoms that are pushed together, in the same units; below 1.8 they are neighbours."""

CONTACT = (1.3, 3.2)
"""Two atoms are without a bond and near each other from the first, in the same units, to the second, in Å."""

VOLUME, SHEAR, RATTLE = 0.08, 0.03, 0.3
"""Largest isotropic strain of lengths, largest component of the strain on top, and of the noise (Å)."""

CELLS = (
    Solid("MgO", "rocksalt", ("Mg", "O"), 4.4),
    Solid("LiF", "rocksalt", ("Li", "F"), 4.27),
    Solid("LiCl", "rocksalt", ("Li", "Cl"), 5.0),
    Solid("NaCl", "rocksalt", ("Na", "Cl"), 5.5),
    Solid("KCl", "rocksalt", ("K", "Cl"), 6.1),
    Solid("KBr", "rocksalt", ("K", "Br"), 6.5),
    Solid("LiBr", "rocksalt", ("Li", "Br"), 5.5),
    Solid("ZnS", "zincblende", ("Zn", "S"), 5.41),
)
"""Insulators whose bulk fits a cell of 8 Å with at most some 40 atoms."""

_NEIGHBOURS = 1.8


def pairs(elements: tuple[str, ...], size: int) -> Sampler:
    """Give isolated atoms, in the first groups of `size`, then pairs of elements at random distances, all in turn."""
    everything = [*((element,) for element in elements), *combinations_with_replacement(elements, 2)]

    def sample(number: int, random: Generator, label: Labeller) -> Iterator[Sample]:
        label.group, label.largest_force = f"atoms and pairs {number}", LARGEST_FORCE
        index = number * size
        while True:
            symbols = everything[_turn(index, len(elements), len(everything))]
            if (labelled := label(_apart(symbols, random))) is not None:
                yield labelled
            index += 1

    return sample


def squeezed(ordinary: Sampler) -> Sampler:
    """Give frames of a domain with two neighbouring atoms pushed together."""

    def sample(number: int, random: Generator, label: Labeller) -> Iterator[Sample]:
        for frame in ordinary(number, random, label):
            label.largest_force = LARGEST_FORCE
            if (labelled := label(_pushed(frame.to_ase(), random))) is not None:
                yield labelled

    return sample


def contacts(ordinary: Sampler) -> Sampler:
    """Give frames of a domain with two atoms that have no bond anywhere between where they are and too near."""

    def sample(number: int, random: Generator, label: Labeller) -> Iterator[Sample]:
        for frame in ordinary(number, random, label):
            label.largest_force = LARGEST_FORCE
            if (labelled := label(_in_contact(frame.to_ase(), random))) is not None:
                yield labelled

    return sample


def cells(number: int, random: Generator, label: Labeller) -> Iterator[Sample]:
    """Give strained and rattled frames of one bulk insulator, with stress."""
    solid = CELLS[number % len(CELLS)]
    label.group, label.stress, label.largest_force = f"{solid.name} strained", True, LARGEST_FORCE
    ideal = widened(solid)
    while True:
        atoms = ideal.copy()
        atoms.set_cell(ideal.cell.array @ _deformation(random), scale_atoms=True)
        atoms.positions += random.uniform(0.0, RATTLE) * random.standard_normal(atoms.positions.shape)
        if (labelled := label(atoms)) is not None:
            yield labelled


def _turn(index: int, alone: int, count: int) -> int:
    """Index into the list: isolated atoms first and once, then the pairs again and again, in a mixed order."""
    if index < alone:
        return index
    turn, inside = divmod(index - alone, count - alone)
    return alone + int(np.random.default_rng(turn).permutation(count - alone)[inside])


def _apart(symbols: tuple[str, ...], random: Generator) -> Atoms:
    """One atom, or two at a random distance; short ones are as frequent as long ones."""
    atoms = Atoms(symbols)
    if len(atoms) == 2:
        low, high = np.log(APART)
        atoms.positions[1, 2] = np.exp(random.uniform(low, high)) * covalent_radii[atoms.numbers].sum()
    return atoms


def _pushed(atoms: Atoms, random: Generator) -> Atoms:
    """Push two neighbouring atoms, drawn at random, towards each other; fixed ones stay where they are."""
    distance, sums = _distances(atoms)
    return _nearer(atoms, distance < _NEIGHBOURS * sums, random.uniform(*SQUEEZED) * sums, random)


def _in_contact(atoms: Atoms, random: Generator) -> Atoms:
    """Move two atoms without a bond, drawn at random, a part of the way to the nearest of the pairs that are pushed."""
    distance, sums = _distances(atoms)
    near = (distance > CONTACT[0] * sums) & (distance < CONTACT[1])
    nearest = SQUEEZED[0] * sums
    return _nearer(atoms, near, nearest + random.uniform() * (distance - nearest), random)


def _distances(atoms: Atoms) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances (n, n) of all atoms, and the sums of their covalent radii (Å)."""
    radii = covalent_radii[atoms.numbers]
    return atoms.get_all_distances(mic=bool(atoms.pbc.any())), radii[:, None] + radii


def _nearer(atoms: Atoms, choices: NDArray[np.bool_], wanted: NDArray[np.float64], random: Generator) -> Atoms:
    """Draw two atoms from the choices (n, n), and bring them as near as wanted; fixed ones stay where they are."""
    free = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        free[constraint.index] = False
    drawn = np.argwhere(np.triu(choices, 1) & (free[:, None] | free))
    if not len(drawn):
        return atoms
    i, j = drawn[random.integers(len(drawn))]
    vector = atoms.get_distance(i, j, mic=bool(atoms.pbc.any()), vector=True)
    step = vector * max(0.0, 1 - wanted[i, j] / np.linalg.norm(vector))
    part = 0.5 if free[i] and free[j] else float(free[i])
    atoms.positions[i] += part * step
    atoms.positions[j] -= (1 - part) * step
    return atoms


def _deformation(random: Generator) -> NDArray[np.float64]:
    strain = random.uniform(-SHEAR, SHEAR, (3, 3))
    return np.asarray((1 + random.uniform(-VOLUME, VOLUME)) * np.eye(3) + (strain + strain.T) / 2)
