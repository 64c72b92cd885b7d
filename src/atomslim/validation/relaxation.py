"""Relaxations: each is made once for all checks that need it, and ends early if it makes no progress."""

import os
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS

from atomslim.validation.measurement import NotDoneError, Settings, memory_of, stress_of, with_calculator

PATIENCE = 40
"""Steps without progress after which a relaxation is given up: non-gradient forces may never vanish."""


def relaxed(atoms: Atoms, calculator: Calculator, settings: Settings, *, cell: bool = False) -> Atoms:
    """Relax positions, and the cell if asked for, until no force is above ``fmax`` (eV/Å), in ``steps`` at most.

    Raises NotDoneError if it does not converge, or forces stop decreasing.
    """
    known = memory_of(calculator)
    parts = (atoms.numbers, atoms.positions, np.asarray(atoms.cell), atoms.pbc)
    key = ("relaxed", b"".join(part.tobytes() for part in parts), settings["fmax"], settings["steps"], cell)
    if key not in known:
        try:
            known[key] = _relax(with_calculator(atoms, calculator), settings, cell=cell)
        except NotDoneError as error:
            known[key] = error
    found = known[key]
    if isinstance(found, NotDoneError):
        raise NotDoneError(str(found))
    return with_calculator(found, calculator)


def _relax(moved: Atoms, settings: Settings, *, cell: bool) -> Atoms:
    if cell:
        stress_of(moved)  # refuses a calculator without stress
    smallest, since = np.inf, 0
    what: Any = FrechetCellFilter(moved) if cell else moved
    with LBFGS(what, logfile=os.devnull, maxstep=0.1) as optimiser:
        for done, converged in enumerate(optimiser.irun(fmax=settings["fmax"], steps=settings["steps"])):
            if converged:
                return moved.copy()  # without the calculator, which would be kept alive otherwise
            forces = optimiser.optimizable.gradient_norm(optimiser.optimizable.get_gradient())
            if not np.isfinite(forces):
                raise NotDoneError("the relaxation reaches forces that are not finite")
            smallest, since = (forces, done) if forces < 0.98 * smallest else (smallest, since)
            if done - since >= PATIENCE:
                raise NotDoneError(
                    f"the relaxation makes no progress: forces stay above {smallest:.2g} eV/Å (asked for: "
                    f"{settings['fmax']:g}), as happens if they are not the gradient of the energy"
                )
    raise NotDoneError(f"the relaxation has not converged in {settings['steps']} steps")
