"""Frames of molecular dynamics by a teacher, at a temperature: Langevin, from a structure that is rattled a little."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from numpy.random import Generator

from atomslim.data.generate.labels import Dropped, require_apart
from atomslim.labelling.changes import A_LITTLE
from atomslim.labelling.teachers import Session
from atomslim.labelling.unlabelled import Unlabelled

FRICTION = 0.02
"""1/fs."""

HOT = 5.0
"""A frame hotter than this many times the temperature, and 500 K, has exploded."""


def time_step(atoms: Atoms) -> float:
    """Return the usual step of dynamics in fs: 1 where there is hydrogen, else 2."""
    return 1.0 if 1 in atoms.numbers else 2.0


class Asked(Calculator):
    """Lets ASE's dynamics ask a session."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as ASE has it

    def __init__(self, session: Session) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = session

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Ask; raises Unlabelled where there is no answer."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        found = self._session.ask(atoms)
        if "forces" not in found:
            raise Unlabelled("there are no forces")
        self.results = {"energy": float(found["energy"]), "forces": found["forces"]}


def trajectory(
    atoms: Atoms, temperature: float, frames: int, every: int, session: Session, random: Generator
) -> Iterator[Atoms]:
    """Give frames, each with its energy and forces as results; ends early, silently, where atoms fly apart.

    Args:
        atoms: where it starts.
        temperature: K.
        frames: how many.
        every: steps between two; of 1 fs where there is hydrogen, else 2 fs.
        session: gives the forces.
        random: draws velocities and the thermostat's noise.

    Raises:
        Unlabelled: there are no forces in the beginning.

    """
    copy = atoms.copy()
    copy.info, copy.calc = {}, Asked(session)
    copy.set_positions(copy.positions + A_LITTLE * random.standard_normal(copy.positions.shape))
    copy.get_forces()
    spread = np.sqrt(copy.get_masses() * units.kB * temperature)
    copy.set_momenta(spread[:, None] * random.standard_normal(copy.positions.shape))
    step = time_step(copy) * units.fs
    dynamics = Langevin(copy, step, temperature_K=temperature, friction=FRICTION / units.fs, fixcm=False, rng=random)
    for _ in range(frames):
        try:
            dynamics.run(every)
            require_apart(copy)
        except (Unlabelled, Dropped, ArithmeticError):
            return
        if not np.isfinite(copy.positions).all() or copy.get_temperature() > HOT * temperature + 500:
            return
        yield copy
