"""A pool of structures to label: near the given ones, from dynamics, and as different from each other as possible.

| file | what |
|---|---|
| `pool.samples` | the structures, without labels, in the order in which they were chosen; stands for the folder |
| `pool.extxyz` | the same as extended XYZ |
| `pool.png` | what is in it |
| `pool.json` | how many of each kind were made, dropped and kept, and by which options |

Farthest-point selection means that the first hundred of a pool are the best hundred.
"""

import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from ase.io.extxyz import write_xyz

from atomslim.arguments import checked
from atomslim.data.container import CANDIDATES, FOLDERS, Container
from atomslim.data.staging import Staging, remove_staging, write_container
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.files import atomic_write
from atomslim.inference.inputs import Input, open_inputs
from atomslim.inference.predict import listed
from atomslim.labelling.changes import Counts, Substitution, changes
from atomslim.labelling.folder import claimed, write_note
from atomslim.labelling.given import given_structures
from atomslim.labelling.pool_figure import figure
from atomslim.labelling.pool_parts import Made, Making, Seed, in_order, made_of, parts_of
from atomslim.labelling.select import Features, all_features, by_distances, by_model, distinct, farthest
from atomslim.labelling.sharing import sessions_of, share
from atomslim.labelling.teachers import Session, Source, Teacher, teacher_of
from atomslim.models.metadata import versions
from atomslim.models.model_file import load
from atomslim.progress import counted
from atomslim.report.shown import Shown

NAME, EXTXYZ, FIGURE, NOTE = FOLDERS[1], "pool.extxyz", "pool.png", "pool.json"

_HIGHEST = 1000.0
"""GPa."""


@dataclass(frozen=True)
class PoolOptions:
    """Options of a pool."""

    size: int = 200
    """Most structures to keep."""
    rattled: int = 10
    strained: int = 10
    volumes: int = 7
    vacancies: int = 0
    substitutions: tuple[str, ...] = ()
    """Such as "Mg=Ca"."""
    temperatures: tuple[float, ...] = (300.0, 600.0, 1200.0)
    """K, of dynamics; there are none without a teacher."""
    pressures: tuple[float, ...] = ()
    """GPa, of dynamics of bulk cells at a pressure, each at one of the temperatures in turn."""
    surfaces: int = 0
    """Slabs of each bulk cell."""
    frames: int = 20
    """Frames of each trajectory."""
    every: int = 25
    """Steps between two frames."""
    starts: int = 4
    """Given structures that dynamics start from, at each temperature."""
    width: float = 0.0
    """Å: cells are repeated until opposite faces are this far apart."""
    features: str = "mini"
    """A model whose features compare structures, or `distances`."""
    seed: int = 0

    @property
    def counts(self) -> Counts:
        """How many copies there are of each structure."""
        exchanged = tuple(self.substitutions)
        return Counts(self.rattled, self.strained, self.volumes, self.vacancies, exchanged, self.surfaces)

    def require_sense(self) -> None:
        """Raise ConfigError for invalid numbers."""
        for text in self.substitutions:
            Substitution.parse(text)
        for name, least in (("size", 1), ("frames", 1), ("every", 1), ("starts", 1), ("seed", 0)):
            _require(name, getattr(self, name), least)
        for name in ("rattled", "strained", "volumes", "vacancies", "surfaces", "width"):
            _require(name, getattr(self, name), 0)
        for temperature in self.temperatures:
            if not (math.isfinite(temperature) and temperature > 0):
                raise ConfigError(f"temperature {temperature:g} K: give one above 0")
        for pressure in self.pressures:
            if not abs(pressure) <= _HIGHEST:
                raise ConfigError(f"pressure {pressure:g} GPa: give one from -{_HIGHEST:g} to {_HIGHEST:g}")
        if self.pressures and not self.temperatures:
            raise ConfigError("pressures: dynamics need temperatures, too")


@dataclass(frozen=True, repr=False)
class Pool(Shown):
    """A finished pool."""

    folder: Path
    kinds: Mapping[str, Mapping[str, int]]
    """Made, dropped and kept, by kind."""
    alike: int
    """Duplicate structures."""
    seconds: float

    @property
    def container(self) -> Container:
        """The structures."""
        return Container(self.folder / NAME)

    def words(self) -> list[str]:
        """Summarise it with its path."""
        return [f"{self.folder}: {self}"]

    def __str__(self) -> str:
        """Summarise it in one line."""
        kept = ", ".join(f"{kind} {count['kept']} of {count['made']}" for kind, count in self.kinds.items())
        made, dropped = (sum(count[what] for count in self.kinds.values()) for what in ("made", "dropped"))
        others = [f"{self.alike} duplicates"] * (self.alike > 0) + [f"{dropped} not possible"] * (dropped > 0)
        return f"{len(self.container)} of {made} structures{' (' + ', '.join(others) + ')' if others else ''}: {kept}"


@checked
def pool(
    structures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    teacher: Source | None = None,
    *,
    task: str | None = None,
    processes: int = 1,
    timeout: float | None = None,
    teacher_python: str | os.PathLike[str] | None = None,
    reader: Mapping[str, str] | None = None,
    **options: Any,
) -> Pool:
    """Make structures to label, in a folder that every command accepts; run again, it continues where it stopped.

    Args:
        structures: files, folders, containers or datasets, as `atomslim.inference.inputs` says.
        output: the folder.
        teacher: runs the dynamics: a model, its file or name, `ase:MODULE:CLASS?NAME=VALUE`, a calculator or a
            function that makes one. A cheap one will do, since its labels are not kept. None: no dynamics.
        task: the task to use, if the model has several.
        processes: trajectories at once, each in its own process.
        timeout: time limit in seconds for a step of dynamics.
        teacher_python: the interpreter that a named teacher is installed in.
        reader: options of the readers of the structures, such as ``{"length_unit": "bohr"}``.
        options: of `PoolOptions`.

    Warns:
        AtomslimWarning: trajectories that cannot start.

    Raises:
        ConfigError: an unknown teacher or option, or a folder that holds something else.
        StructureError, DataError: structures that cannot be read; names file and record.
        OSError: a file that is missing or cannot be written.

    """
    start = time.perf_counter()
    chosen = _options(options)
    who = None if teacher is None else teacher_of(teacher, task=task, python=teacher_python)
    if processes < 1 or (processes > 1 and who is not None and who.recipe is None):
        raise ConfigError(f"processes {processes}: 1 or more, and 1 for a teacher that is an object of this process")
    run = _Run(Path(output), chosen, open_inputs(listed(structures), reader), who, timeout)
    made = run.make(processes)
    return replace(made, seconds=time.perf_counter() - start)


@dataclass
class _Run:
    """The making of one pool."""

    folder: Path
    options: PoolOptions
    inputs: Sequence[Input]
    teacher: Teacher | None
    timeout: float | None
    made: Made = field(default_factory=Made)

    def make(self, processes: int) -> Pool:
        """Make what is missing."""
        seeds = [Seed(frame.number, frame.name, frame.atoms) for frame in given_structures(self.inputs)]
        features = self._features(seeds)
        session = None if self.teacher is None else self.teacher.begin(self.timeout)
        try:
            with claimed(self.folder, NOTE, self._plan(len(seeds), session)) as note:
                if not note:
                    write_note(self.folder / NOTE, self._plan(len(seeds), session))
                if not (self.folder / NAME).exists():
                    self._candidates(seeds, session, processes)
                    self._choose(features, len(seeds))
                return self._write_rest(self._plan(len(seeds), session))
        finally:
            if session is not None:
                session.close()

    def _features(self, seeds: Sequence[Seed]) -> Features:
        if self.options.features == "distances":
            elements = {number for seed in seeds for number in seed.atoms.numbers.tolist()}
            makers = (what.partition("=")[2] for what in self.options.substitutions)
            return by_distances([*elements, *(atomic_numbers[name.strip()] for name in makers)])
        return by_model(load(self.options.features))

    def _plan(self, count: int, session: Session | None) -> dict[str, Any]:
        teacher = None if self.teacher is None or session is None else {"name": self.teacher.name, **session.what}
        inputs = [one.identity() for one in self.inputs]
        own = {"options": asdict(self.options), "versions": versions()}
        return {"structures": inputs, "count": count, "teacher": teacher, **own}

    def _candidates(self, seeds: Sequence[Seed], session: Session | None, processes: int) -> None:
        """Make all candidates, unless they exist."""
        path = self.folder / CANDIDATES
        if path.exists():
            remove_staging(path)
            return
        options = self.options
        plain, moving = parts_of(seeds, options.temperatures, options.starts, options.pressures)
        moving = moving if session is not None else []
        with Staging(path, {}) as staging, counted("pool", _expected(seeds, options, len(moving))) as advance:
            done = Counter[str]()

            def tell(count: int) -> None:
                done["structures"] += count
                advance(done["structures"])

            making = Making(
                staging.folder, options.seed, options.counts, options.width, options.frames, options.every, tell
            )
            for wanted in plain:
                making.make(wanted)
            if session is not None and self.teacher is not None:
                with sessions_of(self.teacher, session, min(processes, len(moving)), self.timeout) as sessions:
                    share(iter(moving), sessions, making.make, making.stop)
            for wanted in (*plain, *moving):
                self.made.add(made_of(staging.folder, wanted.number))
            self._say_failed(len(moving))
            staging.merge(len(plain) + len(moving), {"made": self.made.as_json()})

    def _say_failed(self, trajectories: int) -> None:
        failed = self.made.reasons
        if failed and self.teacher is not None:
            text = f"{self.teacher.name}: no dynamics in {len(failed)} of {trajectories} trajectories; {failed[0]}"
            warnings.warn(text, AtomslimWarning, stacklevel=5)

    def _choose(self, features: Features, given: int) -> None:
        """Choose among the candidates, and write the pool."""
        candidates = Container(self.folder / CANDIDATES)
        with counted("features", len(candidates)) as advance:
            found = all_features(candidates, features, advance)
        if not np.isfinite(found).all():
            raise DataError(f"{self.options.features}: its features are not finite here: choose --features distances")
        different = distinct(found)
        groups = candidates.groups
        moving = np.array([groups[number].startswith("dynamics") for number in different.tolist()])
        chosen, distances = farthest(found[different], self.options.size, int((different < given).sum()), moving)
        numbers = different[chosen]
        metadata = {
            "dataset": "pool",
            "title": "Structures to label",
            "licence": "that of the given structures",
            "citation": "that of the given structures",
            "level_of_theory": "none",
            "units": {},
            "options": {},
            "made": candidates.metadata["made"],
            "alike": len(found) - len(different),
            "distances": [0.0 if math.isinf(value) else round(value, 6) for value in distances.tolist()],
        }
        write_container(self.folder / NAME, (candidates[number] for number in numbers.tolist()), metadata)

    def _write_rest(self, plan: Mapping[str, Any]) -> Pool:
        """Write the files that describe the pool."""
        (self.folder / CANDIDATES).unlink(missing_ok=True)
        container = Container(self.folder / NAME)
        remove_staging(container.path)
        made = Made.read(container.metadata["made"])
        kept = Counter(container.groups)
        kinds = {
            kind: {"made": made.made.get(kind, 0), "dropped": made.dropped.get(kind, 0), "kept": kept[kind]}
            for kind in sorted(made.made | made.dropped, key=in_order)
        }
        with atomic_write(self.folder / EXTXYZ) as temporary, temporary.open("w", encoding="utf-8") as file:
            for sample in container:
                atoms = sample.to_ase()
                atoms.info |= {"source": sample.name, "kind": sample.group}
                write_xyz(file, atoms)
        with atomic_write(self.folder / FIGURE) as temporary:
            figure(container, kinds, made).savefig(temporary, format="png", dpi=150)
        alike = container.metadata["alike"]
        write_note(self.folder / NOTE, {**plan, "kinds": kinds, "alike": alike, "failed": made.reasons})
        return Pool(self.folder, kinds, alike, 0.0)


def _options(given: Mapping[str, Any]) -> PoolOptions:
    known = {name.name for name in fields(PoolOptions)}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ConfigError(f"pool: there is no option {unknown[0]!r} (there are {', '.join(sorted(known))})")
    options = PoolOptions(**given)
    options.require_sense()
    return options


def _expected(seeds: Sequence[Seed], options: PoolOptions, trajectories: int) -> int:
    copies = sum(len(makers) for seed in seeds for makers in changes(seed.atoms, options.counts).values())
    return len(seeds) + copies + trajectories * options.frames


def _require(name: str, value: float, least: float) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ConfigError(f"{name} {value:g}: give {least} or more")
