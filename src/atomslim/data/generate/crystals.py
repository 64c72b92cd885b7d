"""Crystals, layers and the smallest supercells in which no atom is nearer to its own image than a given distance.

Sublattices of index d are enumerated by their Hermite normal forms; one is wide enough if it contains none of the short
vectors of the lattice (v is in it where v H⁻¹ is integer).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

WIDTH = 8.25
"""Å: least distance between images, unstrained; 8 Å are left under the largest strain."""

HEIGHT = 20.0
"""Å: height of the cell of layers."""

_REACH = 5
"""Lattice vectors are looked at up to this many steps; enough for cells as compact as these."""

_LARGEST = 64
"""Largest number of primitive cells in a supercell."""


@dataclass(frozen=True)
class Solid:
    """One row of the table of solids."""

    name: str
    """What it is, such as "MgO(001)"."""
    kind: Literal["rocksalt", "zincblende", "square", "hexagonal", "octahedral"]
    elements: tuple[str, ...]
    lattice: float
    """Å: lattice constant, by GFN1-xTB; of layers, in the plane."""
    layers: int = 0
    """Number of layers; 0: bulk."""

    @property
    def periodic(self) -> int:
        """Number of directions in which the supercell is widened."""
        return 2 if self.layers else 3


@cache
def widened(solid: Solid) -> Atoms:
    """Build the smallest sufficient supercell; layers at right angles to z in a 20 Å cell, tagged 0 below, 1 above."""
    unit = _unit(solid)
    atoms = make_supercell(unit, smallest_supercell(unit.cell.array, solid.periodic))
    reduced, _ = minkowski_reduce(atoms.cell.array, [True, True, not solid.layers])
    atoms.set_cell(reduced)
    atoms.set_pbc(True)
    atoms.wrap()
    if solid.layers:
        atoms.set_tags(np.where(atoms.positions[:, 2] > atoms.positions[:, 2].max() - _SKIN, 1, 0))
    return atoms


def smallest_supercell(cell: NDArray[np.float64], directions: int, width: float = WIDTH) -> NDArray[np.int64]:
    """Integer matrix (3, 3) of the smallest supercell whose lattice has no vector shorter than `width` (Å).

    Args:
        cell: rows are the primitive lattice vectors (Å).
        directions: how many of them, from the first, may grow.
        width: least length of a lattice vector (Å).

    """
    steps = [range(-_REACH, _REACH + 1) if axis < directions else range(1) for axis in range(3)]
    vectors = np.array([vector for vector in product(*steps) if any(vector)])
    short = vectors[np.linalg.norm(vectors @ cell, axis=1) < width]
    for index in range(1, _LARGEST + 1):
        forms = np.array(list(_hermite_forms(index, directions)))
        fractional = np.einsum("vi,hij->hvj", short, np.linalg.inv(forms))
        contained = (np.abs(fractional - np.rint(fractional)) < 1e-6).all(axis=2)
        wide = ~contained.any(axis=1)
        if wide.any():
            return np.asarray(forms[wide.argmax()])
    raise ValueError(f"no supercell of up to {_LARGEST} cells is {width} Å wide")


def _hermite_forms(index: int, directions: int) -> Iterator[list[list[int]]]:
    """All sublattices of an index, as upper triangular matrices."""
    for a, b in product(range(1, index + 1), repeat=2):
        if index % (a * b) or (directions == 2 and a * b != index):
            continue
        c = index // (a * b)
        for d, e, f in product(range(b), range(c), range(c)):
            yield [[a, d, e], [0, b, f], [0, 0, c]]


_SKIN = 1.6
"""Å: atoms this near to the highest one are the surface."""


def _unit(solid: Solid) -> Atoms:
    a, elements = solid.lattice, solid.elements
    match solid.kind:
        case "square":
            return _square(elements, a, solid.layers)
        case "hexagonal":
            return _hexagonal(elements, a, solid.layers)
        case "octahedral":
            return _octahedral(elements, a)
        case kind:
            return bulk("".join(elements), kind, a=a)


def _square(elements: tuple[str, ...], a: float, layers: int) -> Atoms:
    """Layers of rock salt along (001), two atoms each."""
    edge, first, second = a / np.sqrt(2), *elements
    sites = [(0.0, 0.0), (0.5, 0.5)]
    atoms = Atoms(cell=[edge, edge, HEIGHT])
    for layer in range(layers):
        for symbol, site in zip((first, second), sites[:: 1 if layer % 2 == 0 else -1], strict=True):
            atoms += Atoms(symbol, [(site[0] * edge, site[1] * edge, 3 + layer * a / 2)])
    return atoms


def _hexagonal(elements: tuple[str, ...], a: float, layers: int) -> Atoms:
    """Flat honeycomb layers, each atom above one of the other kind."""
    cell = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, HEIGHT]])
    sites = np.array([(1 / 3, 2 / 3, 0), (2 / 3, 1 / 3, 0)])
    atoms = Atoms(cell=cell)
    for layer in range(layers):
        order = elements if layer % 2 == 0 else elements[::-1]
        atoms += Atoms(order, sites @ cell + (0, 0, 3 + layer * _BETWEEN * a))
    return atoms


_BETWEEN = 0.75
"""Distance of two honeycomb layers in units of their lattice constant, about as the ultrathin films of ZnO have it."""


def _octahedral(elements: tuple[str, ...], a: float) -> Atoms:
    """One layer MX₂ of the CdI₂ type; a third element is bound to X on both sides, as in brucite."""
    metal, other, *cap = elements
    cell = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, HEIGHT]])
    half = 0.33 * a
    sites = [(0, 0, 0), (1 / 3, 2 / 3, half / HEIGHT), (2 / 3, 1 / 3, -half / HEIGHT)]
    symbols = [metal, other, other, *(2 * cap)]
    if cap:
        sites += [(x, y, z + np.sign(z) * 0.97 / HEIGHT) for x, y, z in sites[1:]]
    return Atoms(symbols, np.array(sites) @ cell + (0, 0, 6), cell=cell)
