"""Dynamics and relaxations by a student, one file each, which end where it leaves the region it knows.

A few frames of each run are kept for labelling: some along the way, and the one with which it left. An explosion
spoils that frame only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.optimize import FIRE

from atomslim.atoms.sample import Sample
from atomslim.data.container import Container
from atomslim.data.splits import evenly
from atomslim.data.staging import write_container
from atomslim.errors import AtomslimError
from atomslim.inference.calculator import Calculator
from atomslim.labelling.changes import A_LITTLE
from atomslim.labelling.dynamics import FRICTION, time_step
from atomslim.slimming.known import APART, Known, apart

LOOK = 5
"""Steps between checks of distances, temperature and energy; forces are checked in every step."""

USELESS = 0.6
"""Frames with atoms closer than this fraction of the shortest labelled distance are useless for training."""

RELAXED = 0.02
"""eV/Å: where relaxations end."""

_FAILURES = (AtomslimError, ArithmeticError, ValueError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class Start:
    """Where a run starts; the same in every round."""

    number: int
    name: str
    atoms: Atoms
    temperature: float
    """K; 0: a relaxation."""


@dataclass(frozen=True)
class Outcome:
    """How a run went."""

    number: int
    start: str
    temperature: float
    steps: int
    """Steps taken."""
    wanted: int
    left: str = ""
    """The sign by which it left the known region; empty if it did not."""
    disagreed: bool = False
    """Whether the last round's student disagreed on forces along the way."""

    @property
    def is_stable(self) -> bool:
        """Whether it stayed in the known region until its end."""
        return not self.left


@dataclass(frozen=True)
class Exploring:
    """What all runs share."""

    student: Calculator
    known: Known
    before: Calculator | None
    """The last round's student."""
    steps: int
    frames: int
    """Along each run."""
    seed: int

    def run(self, start: Start, folder: Path) -> Outcome:
        """Make a run, unless its file exists."""
        path = folder / f"run-{start.number:03d}.samples"
        if not path.is_file():
            run = _Run(self, start)
            run.go()
            samples = [
                Sample.from_ase(atoms, {}, name=f"{start.name}, run {start.number}, step {step}", group=run.kind)
                for step, atoms in run.frames
            ]
            write_container(path, samples, {"run": asdict(run.outcome)})
        return outcome_of(path)


def outcome_of(path: Path) -> Outcome:
    """Read how a run went from its file."""
    return Outcome(**Container(path).metadata["run"])


class _Run:
    """One run."""

    def __init__(self, exploring: Exploring, start: Start) -> None:
        self.exploring, self.start = exploring, start
        self.kind = f"dynamics {start.temperature:g} K" if start.temperature else "relaxation"
        self.frames: list[tuple[int, Atoms]] = []
        self.atoms = start.atoms.copy()
        self.atoms.info, self.atoms.calc = {}, exploring.student
        self.step, self.left, self.disagreed = 0, "", False
        self.random = np.random.default_rng((exploring.seed, start.number))
        self._forces = np.zeros((len(self.atoms), 3))
        self._sane = self.atoms.copy()

    @property
    def outcome(self) -> Outcome:
        """How it went."""
        start = self.start
        steps, disagreed = self.exploring.steps, self.disagreed
        return Outcome(start.number, start.name, start.temperature, self.step, steps, self.left, disagreed)

    def go(self) -> None:
        """Run to the end, or until the known region is left."""
        steps, frames = self.exploring.steps, self.exploring.frames
        kept = {round(steps * (index + 1) / frames) for index in range(frames)}
        try:
            for step in self._steps():
                self.step = step
                self.left = self._sign() or ""
                if self.left:
                    break
                if step in kept or self._disagrees():
                    self._keep(self.atoms)
        except _FAILURES:
            self.left = "failed"
        if self.left or not self.frames:
            self._keep(self._last())

    def _steps(self) -> Iterator[int]:
        """Run step by step; yields the number of each step."""
        atoms, temperature = self.atoms, self.start.temperature
        noise = self.random.standard_normal(atoms.positions.shape)
        atoms.set_positions(atoms.positions + A_LITTLE * noise)
        if temperature:
            spread = np.sqrt(atoms.get_masses() * units.kB * temperature)
            atoms.set_momenta(spread[:, None] * self.random.standard_normal(atoms.positions.shape))
            step, friction = time_step(atoms) * units.fs, FRICTION / units.fs
            moving: Any = Langevin(
                atoms, step, temperature_K=temperature, friction=friction, fixcm=False, rng=self.random
            )
        else:
            moving = FIRE(atoms, logfile=None)
        for number in range(1, self.exploring.steps + 1):
            if not temperature and float(np.linalg.norm(atoms.get_forces(), axis=1).max()) < RELAXED:
                self._keep(atoms)
                return
            moving.step()
            yield number

    def _sign(self) -> str | None:
        """Look for a sign that the run has left the known region."""
        known, forces = self.exploring.known, self.atoms.get_forces()
        jump = float(np.linalg.norm(forces - self._forces, axis=1).max()) if self.step > 1 else 0.0
        self._forces = forces
        if not np.isfinite(jump) or jump > known.force:
            return "force"
        if self.step % LOOK and self.step < self.exploring.steps:
            return None
        energy = self.atoms.get_potential_energy()
        sign = known.leaves(self.atoms, forces, energy, self.start.temperature)
        if sign is None:
            self._sane = self.atoms.copy()
        return sign

    def _disagrees(self) -> bool:
        """Say whether the last round's student first disagrees on forces here; every tenth check looks for it."""
        before = self.exploring.before
        if before is None or self.disagreed or self.step % (10 * LOOK):
            return False
        copy = self.atoms.copy()
        copy.calc = before
        self.disagreed = apart(self._forces, copy.get_forces()) > APART
        return self.disagreed

    def _last(self) -> Atoms:
        """Return the frame with which it ended, or the last sane one if that is useless."""
        useless = not np.isfinite(self.atoms.positions).all() or self.exploring.known.too_near(self.atoms, USELESS)
        return self._sane if useless or self.left == "failed" else self.atoms

    def _keep(self, atoms: Atoms) -> None:
        copy = atoms.copy()
        copy.set_momenta(None)
        self.frames.append((self.step, copy))


def starts_of(samples: Sequence[Sample], temperatures: Sequence[float], runs: int) -> list[Start]:
    """Choose where runs start: given structures and frames of dynamics, evenly, at each temperature in turn.

    One relaxation comes with every five runs, from structures that were rattled or strained.
    """
    calm = [sample for sample in samples if sample.group == "given" or sample.group.startswith("dynamics")]
    tense = [sample for sample in samples if sample.group in {"rattled", "strained", "volumes"}] or calm
    moving = _spread(calm or samples, runs)
    still = _spread(tense or samples, max(1, runs // 5))
    chosen = [(sample, temperatures[index % len(temperatures)]) for index, sample in enumerate(moving)]
    chosen += [(sample, 0.0) for sample in still]
    return [Start(index, one.name, _bare(one), temperature) for index, (one, temperature) in enumerate(chosen)]


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Take so many, evenly spaced; repeats them if there are fewer."""
    if count > len(samples):
        return [samples[index % len(samples)] for index in range(count)]
    return [samples[index] for index in evenly(len(samples), count)]


def _bare(sample: Sample) -> Atoms:
    atoms = sample.to_ase()
    atoms.calc, atoms.info = None, {}
    return atoms
