"""A structure that can be turned with mouse, finger or arrow keys, as part of a self-contained HTML page."""

import html
import json
from itertools import product

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from numpy.typing import NDArray

from atomslim.words import number_of

_BOND = 1.2
"""Atoms closer than this multiple of the sum of their covalent radii are joined by a stick."""

_BALL = 0.45
"""Radius of a ball in covalent radii."""


def structure_view(atoms: Atoms, caption: str) -> str:
    """Write a structure as balls and sticks in the colours of its elements, with its cell, as a part of a page."""
    content = html.escape(json.dumps(_content(atoms), separators=(",", ":")))
    label = html.escape(f"{atoms.get_chemical_formula()}, {number_of(len(atoms), 'atom')}")
    return (
        f'<figure><canvas class="structure" tabindex="0" role="img" aria-label="{label}" '
        f'data-structure="{content}"></canvas><figcaption>{html.escape(caption)}</figcaption></figure>'
    )


def _content(atoms: Atoms) -> dict[str, object]:
    """Return points (atoms, then corners of the cell) relative to the atoms' centre in Å, and the pairs joined."""
    corners = _corners(atoms)
    points = np.concatenate([atoms.positions, corners])
    radii = covalent_radii[atoms.numbers]
    middle = (atoms.positions.min(0) + atoms.positions.max(0)) / 2
    return {
        "points": (points - middle).round(3).tolist(),
        "colours": [_hex(jmol_colors[number]) for number in atoms.numbers],
        "radii": (_BALL * radii).round(3).tolist(),
        "bonds": _bonds(atoms.positions, radii),
        "edges": [[len(atoms) + first, len(atoms) + second] for first, second in _edges()] if len(corners) else [],
    }


def _corners(atoms: Atoms) -> NDArray[np.float64]:
    """Return the corners of the cell (8, 3) in Å, or none of a structure without one."""
    if atoms.cell.rank < 3 or not atoms.pbc.any():
        return np.zeros((0, 3))
    return np.array(list(product((0.0, 1.0), repeat=3))) @ np.asarray(atoms.cell)


def _edges() -> list[tuple[int, int]]:
    """Return pairs of corners that differ in one coordinate."""
    return [(corner, corner | bit) for corner in range(8) for bit in (1, 2, 4) if not corner & bit]


def _bonds(positions: NDArray[np.float64], radii: NDArray[np.float64]) -> list[list[int]]:
    """Return pairs of atoms that are close to each other; bonds through the cell's faces are left out."""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    near = np.triu(distances < _BOND * (radii[:, None] + radii[None]), k=1)
    pairs: list[list[int]] = np.argwhere(near).tolist()
    return pairs


def _hex(colour: NDArray[np.float64]) -> str:
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in colour)
