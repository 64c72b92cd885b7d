"""Slabs of a bulk cell: low-index surfaces, cut at random heights, with vacuum on both sides."""

import math
from itertools import groupby, product
from operator import itemgetter
from typing import TypeAlias

import numpy as np
from ase import Atoms
from ase.build import surface
from numpy.random import Generator

from atomslim.data.generate.labels import Dropped

Facet: TypeAlias = tuple[int, int, int]
"""Miller indices, of the given cell."""

THICK = 7.0
"""Å: least thickness of slabs."""

VACUUM = 6.0
"""Å, on either side."""

_LARGEST = 200
"""Most atoms of a slab."""

_GAP = 5.0
"""Å: a cell with an empty layer this thick is not bulk."""


def is_bulk(atoms: Atoms) -> bool:
    """Say whether a structure is periodic in all directions, without vacuum."""
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        return False
    heights = 1 / np.linalg.norm(atoms.cell.reciprocal().array, axis=1)
    scaled = np.sort(atoms.get_scaled_positions(wrap=True), axis=0)
    gaps = np.diff(scaled, axis=0, append=scaled[:1] + 1).max(axis=0)
    return bool((gaps * heights < np.maximum(_GAP, heights / len(atoms) + 1e-6)).all())


def facets(atoms: Atoms) -> list[Facet]:
    """Return the low-index facets of a cell: one for each distance between planes, the largest first, then the others.

    Facets of one distance are mostly the same by symmetry.
    """
    numbers = (1, 0, -1)
    indices: list[Facet] = [(h, k, m) for h, k, m in product(numbers, numbers, numbers) if (h, k, m) > (0, 0, 0)]
    spacing = 1 / np.linalg.norm(np.array(indices) @ atoms.cell.reciprocal().array, axis=1)
    ordered = sorted(zip((-spacing).round(4).tolist(), indices, strict=True), key=itemgetter(0))
    groups = [[facet for _, facet in group] for _, group in groupby(ordered, key=itemgetter(0))]
    return [group[index] for index in range(len(indices)) for group in groups if index < len(group)]


def slab(atoms: Atoms, facet: Facet, random: Generator) -> Atoms:
    """Cut a slab of a bulk cell; its cell stays periodic across the vacuum. Raises Dropped for too many atoms."""
    shifted = atoms.copy()
    shifted.set_constraint()
    shifted.set_scaled_positions((shifted.get_scaled_positions() + random.uniform(0, 1, 3)) % 1)
    one = surface(shifted, facet, 1, periodic=True)
    layers = max(1, math.ceil(THICK / float(one.cell.lengths()[2]) - 1e-6))
    if layers * len(one) > _LARGEST:
        raise Dropped("a slab would have too many atoms")
    made: Atoms = surface(shifted, facet, layers, vacuum=VACUUM, periodic=True)
    made.info = {}
    return made
