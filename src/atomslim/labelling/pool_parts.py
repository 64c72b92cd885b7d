"""The candidates of a pool, part by part: a part depends on the seed and its inputs only."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from atomslim.atoms.sample import Sample
from atomslim.data.generate.labels import Dropped, require_apart
from atomslim.data.staging import Part, part_paths
from atomslim.files import atomic_write
from atomslim.labelling.changes import Counts, changes, repeated
from atomslim.labelling.dynamics import trajectory
from atomslim.labelling.surfaces import is_bulk
from atomslim.labelling.teachers import Session
from atomslim.labelling.unlabelled import Unlabelled
from atomslim.parsing import parse_json

KINDS = ("given", "rattled", "strained", "volumes", "vacancies", "substitutions", "dynamics", "surfaces")
"""Kinds of structures, in the order of the random numbers."""


@dataclass(frozen=True)
class Seed:
    """A given structure."""

    number: int
    name: str
    atoms: Atoms


@dataclass(frozen=True)
class Wanted:
    """What a part holds: given structures, changed ones, or a trajectory of the first at a temperature."""

    number: int
    kind: str
    seeds: tuple[Seed, ...]
    temperature: float = 0.0
    pressure: float | None = None
    """GPa; None: at constant volume."""

    @property
    def state(self) -> str:
        """Describe the conditions of dynamics."""
        return f"{self.temperature:g} K" + ("" if self.pressure is None else f", {self.pressure:g} GPa")


@dataclass
class Made:
    """The results of a part."""

    made: Counter[str] = field(default_factory=Counter)
    """Structures by kind."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Structures with overlapping atoms, and frames that were not reached, by kind."""
    energies: dict[str, list[float]] = field(default_factory=dict)
    """eV/atom, of the frames of each kind of dynamics, relative to the first."""
    forces: dict[str, list[float]] = field(default_factory=dict)
    """eV/Å: rms, likewise."""
    reasons: list[str] = field(default_factory=list)
    """Why dynamics failed."""

    def add(self, other: "Made") -> None:
        """Add the results of another part."""
        self.made.update(other.made)
        self.dropped.update(other.dropped)
        for mine, theirs in ((self.energies, other.energies), (self.forces, other.forces)):
            for kind, values in theirs.items():
                mine.setdefault(kind, []).extend(values)
        self.reasons += other.reasons

    def as_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**vars(self), "made": dict(self.made), "dropped": dict(self.dropped)}

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "Made":
        """Return what `as_dict` gave."""
        return cls(**{**found, "made": Counter(found["made"]), "dropped": Counter(found["dropped"])})


def in_order(kind: str) -> tuple[int, float, float]:
    """Return what kinds are sorted by: as above, dynamics by their temperature, then their pressure."""
    name, _, state = kind.partition(" ")
    temperature, _, pressure = state.partition(", ")
    return KINDS.index(name), float(temperature.removesuffix(" K") or 0), float(pressure.removesuffix(" GPa") or -1e9)


def made_of(folder: Path, part: int) -> Made:
    """Read the results of a part."""
    return Made.read(parse_json(_note(folder, part).read_bytes()))


@dataclass
class Making:
    """Makes the parts in a folder."""

    folder: Path
    seed: int
    counts: Counts
    width: float
    frames: int
    every: int
    tell: Callable[[int], None]
    """Called with the number of new structures."""
    stop: threading.Event = field(default_factory=threading.Event)

    def make(self, wanted: Wanted, session: Session | None = None) -> None:
        """Make a part, unless it exists; an unfinished one is started again."""
        if _note(self.folder, wanted.number).exists():
            return
        for path in part_paths(self.folder, wanted.number):
            path.unlink(missing_ok=True)
        made = Made()
        with Part(self.folder, wanted.number) as part:
            for sample in self._samples(wanted, session, made):
                part.append(sample)
                self.tell(1)
        if self.stop.is_set():  # dynamics may have ended early
            return
        with atomic_write(_note(self.folder, wanted.number)) as temporary:
            temporary.write_text(json.dumps(made.as_json()), encoding="utf-8")

    def _samples(self, wanted: Wanted, session: Session | None, made: Made) -> Iterator[Sample]:
        if wanted.kind == "dynamics":
            if session is not None:
                yield from self._dynamics(wanted, session, made)
            return
        for seed in wanted.seeds:
            atoms = repeated(seed.atoms, self.width)
            if wanted.kind == "given":
                made.made["given"] += 1
                yield _sample(atoms, seed.name, "given")
            else:
                yield from self._changed(seed, atoms, made)

    def _changed(self, seed: Seed, atoms: Atoms, made: Made) -> Iterator[Sample]:
        for kind, makers in changes(atoms, self.counts, seed.atoms, self.width).items():
            for number, make in enumerate(makers):
                try:
                    changed = make(np.random.default_rng((self.seed, KINDS.index(kind), seed.number, number)))
                    require_apart(changed)
                except Dropped:
                    made.dropped[kind] += 1
                    continue
                made.made[kind] += 1
                yield _sample(changed, f"{seed.name}; {kind} {number}", kind)

    def _dynamics(self, wanted: Wanted, session: Session, made: Made) -> Iterator[Sample]:
        seed, kind = wanted.seeds[0], f"dynamics {wanted.state}"
        pressed = () if wanted.pressure is None else (round(1e6 * wanted.pressure) % 2**32,)
        state = (int(wanted.temperature), *pressed)
        random = np.random.default_rng((self.seed, KINDS.index("dynamics"), seed.number, *state))
        atoms = repeated(seed.atoms, self.width)
        energies: list[float] = []
        try:
            moving = trajectory(
                atoms, wanted.temperature, self.frames, self.every, session, random, pressure=wanted.pressure
            )
            for frame in moving:
                energies.append(frame.get_potential_energy() / len(frame))
                forces = frame.calc.results["forces"]
                made.energies.setdefault(kind, []).append(energies[-1] - energies[0])
                made.forces.setdefault(kind, []).append(float(np.sqrt((forces**2).mean())))
                made.made[kind] += 1
                yield _sample(frame, f"{seed.name}; {kind}, frame {len(energies) - 1}", kind)
        except Unlabelled as reason:
            made.reasons.append(f"{seed.name}: {reason}")
        made.dropped[kind] += self.frames - len(energies)


def parts_of(
    seeds: Sequence[Seed], temperatures: Sequence[float], starts: int, pressures: Sequence[float] = ()
) -> tuple[list[Wanted], list[Wanted]]:
    """List the parts without a session, given structures first, and those with one.

    Each pressure goes with one temperature, in turn.
    """
    size = max(16, -(-len(seeds) // 500))
    chunks = [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]
    plain = [Wanted(number, "given", chunk) for number, chunk in enumerate(chunks)]
    plain += [Wanted(len(chunks) + number, "changed", chunk) for number, chunk in enumerate(chunks)]
    chosen = np.unique(np.linspace(0, len(seeds) - 1, min(starts, len(seeds))).astype(int)).tolist()
    states: list[tuple[float, float | None]] = [(temperature, None) for temperature in temperatures]
    ladder = list(zip(cycle(temperatures), pressures, strict=False))
    runs = [(seeds[number], state) for number in chosen for state in states]
    runs += [(seeds[number], state) for number in chosen for state in ladder if is_bulk(seeds[number].atoms)]
    moving = [Wanted(len(plain) + number, "dynamics", (seed,), *state) for number, (seed, state) in enumerate(runs)]
    return plain, moving


def _sample(atoms: Atoms, name: str, kind: str) -> Sample:
    return Sample.from_ase(atoms, {}, name=name, group=kind)


def _note(folder: Path, part: int) -> Path:
    return folder / f"{part:06d}.json"
