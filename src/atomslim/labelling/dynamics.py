"""Frames of molecular dynamics by a teacher, from a slightly rattled structure.

At a temperature: Langevin. At a pressure, too: Berendsen's thermostat and barostat, whose cell keeps its shape.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nptberendsen import NPTBerendsen
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.random import Generator

from atomslim.data.generate.labels import Dropped, require_apart
from atomslim.labelling.changes import A_LITTLE
from atomslim.labelling.teachers import Session
from atomslim.labelling.unlabelled import Unlabelled

FRICTION = 0.02
"""1/fs."""

COUPLING = 100.0
"""fs, to the thermostat; twice that to the barostat."""

COMPRESSIBILITY = 0.02
"""1/GPa: softer cells reach the pressure later, harder ones earlier."""

HOT = 5.0
"""A frame hotter than this many times the temperature, and 500 K, has exploded."""


def time_step(atoms: Atoms) -> float:
    """Return the usual time step of dynamics in fs: 1 with hydrogen, else 2."""
    return 1.0 if 1 in atoms.numbers else 2.0


class Asked(Calculator):
    """Lets ASE's dynamics ask a session."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self, session: Session) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = session

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Ask; raises Unlabelled if there is no answer."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        found = self._session.ask(atoms, brief=True)
        for name in ("forces", "stress"):
            if name in properties and name not in found:
                raise Unlabelled(f"there {'are' if name == 'forces' else 'is'} no {name}")
        self.results = {"energy": float(found["energy"])}
        self.results |= {name: found[name] for name in ("forces", "stress") if name in found}
        if "stress" in found and found["stress"].shape == (3, 3):
            self.results["stress"] = full_3x3_to_voigt_6_stress(found["stress"])


def trajectory(
    atoms: Atoms,
    temperature: float,
    frames: int,
    every: int,
    session: Session,
    random: Generator,
    *,
    pressure: float | None = None,
) -> Iterator[Atoms]:
    """Give frames, each with its energy and forces as results; ends early, silently, if atoms fly apart.

    Args:
        atoms: where it starts.
        temperature: K.
        frames: how many.
        every: steps between two; of 1 fs with hydrogen, else 2 fs.
        session: gives the forces.
        random: draws velocities and the thermostat's noise.
        pressure: GPa; None: at constant volume.

    Raises:
        Unlabelled: there are no forces at the start, or no stress that a pressure needs.

    """
    copy = atoms.copy()
    copy.info, copy.calc = {}, Asked(session)
    copy.set_positions(copy.positions + A_LITTLE * random.standard_normal(copy.positions.shape))
    copy.get_forces()
    if pressure is not None:
        copy.get_stress()
    spread = np.sqrt(copy.get_masses() * units.kB * temperature)
    copy.set_momenta(spread[:, None] * random.standard_normal(copy.positions.shape))
    dynamics = _dynamics(copy, temperature, pressure, random)
    for _ in range(frames):
        try:
            dynamics.run(every)
            require_apart(copy)
        except (Unlabelled, Dropped, ArithmeticError):
            return
        if not np.isfinite(copy.positions).all() or copy.get_temperature() > HOT * temperature + 500:
            return
        yield copy


def _dynamics(atoms: Atoms, temperature: float, pressure: float | None, random: Generator) -> MolecularDynamics:
    step = time_step(atoms) * units.fs
    if pressure is None:
        return Langevin(atoms, step, temperature_K=temperature, friction=FRICTION / units.fs, fixcm=False, rng=random)
    return NPTBerendsen(
        atoms,
        step,
        temperature_K=temperature,
        pressure_au=pressure * units.GPa,
        taut=COUPLING * units.fs,
        taup=2 * COUPLING * units.fs,
        compressibility_au=COMPRESSIBILITY / units.GPa,
        fixcm=False,
    )
