"""Elastic constants and crystal symmetry: which are equal, and which are independent.

A rotation R acts on Voigt's stress by a matrix B(R); constants satisfy C = B C Bᵀ for every R of the point group
(Nye, Physical Properties of Crystals, chapter VIII). The average over the group projects onto such constants.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from atomslim.validation.measurement import FloatArray, NotDoneError, imported

PAIRS = sorted(
    ((i, j) for i in range(6) for j in range(i, 6)), key=lambda pair: (max(pair) > 2, pair[0] != pair[1], pair)
)
"""Of the 21 constants: C11, C22, C33, then C12, C13, C23, then C44, C55, C66, and the rest."""


def point_group(atoms: Atoms) -> list[FloatArray]:
    """Return the rotations (3, 3), proper and improper, of a crystal's point group in Cartesian coordinates.

    Raises NotDoneError without spglib, or if it finds no symmetry.
    """
    spglib = imported("spglib")
    given = (np.asarray(atoms.cell), atoms.get_scaled_positions(), atoms.numbers)
    with warnings.catch_warnings():  # deprecation of its error reporting
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.get_symmetry(given, symprec=1e-3)
    if found is None:
        raise NotDoneError("no symmetry was found in the crystal")
    lattice = np.asarray(atoms.cell).T
    unique = np.unique(np.asarray(found["rotations"]), axis=0)
    return [lattice @ turn @ np.linalg.inv(lattice) for turn in unique]


def averaged(constants: FloatArray, turns: Sequence[FloatArray]) -> FloatArray:
    """Average constants (6, 6) over a point group."""
    return _averaged(constants, [_on_stress(turn) for turn in turns])


def independent(turns: Sequence[FloatArray]) -> list[tuple[int, int]]:
    """Return the indices of constants that determine all the others, in the order of their names."""
    matrices, rows = [_on_stress(turn) for turn in turns], []
    for pair in PAIRS:
        one = np.zeros((6, 6))
        one[pair] = one[pair[::-1]] = 1.0
        found = _averaged(one, matrices)
        rows.append([found[other] for other in PAIRS])
    allowed = np.array(rows)  # a row for each kind of constants that symmetry allows
    chosen: list[int] = []
    for column in range(len(PAIRS)):
        if np.linalg.matrix_rank(allowed[:, [*chosen, column]], tol=1e-6) > len(chosen):
            chosen.append(column)
    return sorted(PAIRS[column] for column in chosen)


def _averaged(constants: FloatArray, matrices: Sequence[FloatArray]) -> FloatArray:
    return np.asarray(np.mean([matrix @ constants @ matrix.T for matrix in matrices], axis=0))


def _on_stress(turn: FloatArray) -> FloatArray:
    """Return the matrix (6, 6) by which a rotation acts on Voigt's stress."""
    images = [turn @ voigt_6_to_full_3x3_stress(unit) @ turn.T for unit in np.eye(6)]
    return np.array([full_3x3_to_voigt_6_stress(image) for image in images]).T
