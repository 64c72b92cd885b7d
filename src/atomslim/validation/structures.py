"""Kinds of structures, and the default structures of checks."""

from collections.abc import Collection
from typing import Literal

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.spacegroup import crystal
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from atomslim.benchmarking.structures import aspirin, water
from atomslim.validation.measurement import height

Kind = Literal["molecule", "crystal", "slab", "liquid"]

VACUUM = 6.0
"""Å: empty space along a cell vector above which a structure is a slab (or a molecule in a box)."""

MANY = 4
"""Least number of separate molecules in a periodic cell of a liquid."""


def kind_of(atoms: Atoms) -> Kind:
    """Classify a structure by its periodicity, by gaps in it, and by the molecules in its cell."""
    if not atoms.pbc.any():
        return "molecule"
    gaps = [axis for axis in range(3) if not atoms.pbc[axis] or _gap(atoms, axis) > VACUUM]
    if len(gaps) == 3:
        return "molecule"
    if gaps:
        return "slab"
    return "liquid" if molecules_in(atoms) >= MANY else "crystal"


def molecules_in(atoms: Atoms) -> int:
    """Count finite molecules in a periodic cell: groups of bonded atoms that hold none of their own images."""
    first, second, shift = neighbor_list("ijS", atoms, natural_cutoffs(atoms, mult=1.15))
    graph = coo_matrix((np.ones(len(first)), (first, second)), shape=(len(atoms), len(atoms)))
    count, label = connected_components(graph, directed=False)
    if count < MANY or np.bincount(label).max() < 2:
        return 0
    return count if not _endless(len(atoms), first, second, shift) else 0


QUICK = ("MgO", "Cu", "water molecule", "ethanol")
"""The built-in structures of the quick set."""


def built_in(elements: Collection[int] | None, *, quick: bool = False) -> dict[str, Atoms]:
    """Return the built-in structures whose elements a model knows; all of them if that is unknown."""
    found = {
        "Si": bulk("Si"),
        "MgO": bulk("MgO", "rocksalt", a=4.21),
        "NaCl": bulk("NaCl", "rocksalt", a=5.64),
        "Cu": bulk("Cu"),
        "TiO2": _rutile(),
        "water molecule": molecule("H2O"),
        "ammonia": molecule("NH3"),
        "ethanol": molecule("CH3CH2OH"),
        "aspirin": aspirin(),
        "water": water(32),
    }
    known = None if elements is None else set(elements)
    if quick:
        found = {name: found[name] for name in QUICK}
    return {name: atoms for name, atoms in found.items() if known is None or set(atoms.numbers.tolist()) <= known}


def _rutile() -> Atoms:
    found: Atoms = crystal(
        ["Ti", "O"], [(0, 0, 0), (0.3053, 0.3053, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
    )
    return found


def _gap(atoms: Atoms, axis: int) -> float:
    """Return the widest empty layer (Å) along a cell vector."""
    along = np.sort(atoms.cell.complete().scaled_positions(atoms.positions)[:, axis] % 1)
    return float(np.diff(np.append(along, along[0] + 1)).max() * height(atoms, axis))


def _endless(count: int, first: np.ndarray, second: np.ndarray, shift: np.ndarray) -> bool:
    """Say whether bonds lead from an atom to its own image: walk over bonds and compare the cells reached."""
    cells: dict[int, tuple[int, ...]] = {}
    bonds: dict[int, list[tuple[int, np.ndarray]]] = {}
    for one, other, cell in zip(first.tolist(), second.tolist(), shift, strict=True):
        bonds.setdefault(one, []).append((other, cell))
    for start in range(count):
        if start in cells:
            continue
        cells[start], waiting = (0, 0, 0), [start]
        while waiting:
            atom = waiting.pop()
            for other, cell in bonds.get(atom, []):
                there = tuple(np.add(cells[atom], cell).tolist())
                if other not in cells:
                    cells[other] = there
                    waiting.append(other)
                elif cells[other] != there:
                    return True
    return False
