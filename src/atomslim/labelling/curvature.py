"""Rows of the Hessian from a teacher's forces, without derivatives of the teacher.

For the row of a coordinate with unit vector u: H u = (F(x − h u) − F(x + h u)) / 2h + O(h²).
"""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from atomslim.atoms import from_ase
from atomslim.labelling.teachers import Session
from atomslim.labelling.unlabelled import Unlabelled

STEP = 0.01
"""Å."""


def hessian_row(session: Session, atoms: Atoms, seed: int) -> NDArray[np.float64]:
    """Return u and H u side by side, (n, 6), eV/Å², of one atom and direction at random, fixed atoms left out.

    Raises Unlabelled where the teacher gives no forces for the displaced structures, or all atoms are fixed.
    """
    random = np.random.default_rng(seed)
    free = np.flatnonzero(~from_ase(atoms).fixed.numpy())
    if not len(free):
        raise Unlabelled("all atoms are fixed, so there is no row of the Hessian")
    direction = np.zeros((len(atoms), 3))
    direction[random.choice(free), random.integers(3)] = 1.0
    return np.hstack(
        [direction, (_forces(session, atoms, -direction) - _forces(session, atoms, direction)) / (2 * STEP)]
    )


def _forces(session: Session, atoms: Atoms, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    moved = atoms.copy()
    moved.set_constraint()
    moved.positions += STEP * direction
    found = session.ask(moved)
    if "forces" not in found:
        raise Unlabelled("there are no forces for a row of the Hessian")
    return found["forces"]
