"""Labelling structures by a teacher: sharded, by several processes, resumable, each structure exactly once.

| file | what |
|---|---|
| `labelled.samples` | the labelled structures, in their order; stands for the folder wherever data is named |
| `labelled.extxyz` | the same as extended XYZ |
| `label.json` | teacher with version and settings, what it gives, and the structures that were skipped |

A structure counts once its record is committed; a killed run continues after it when started again.
"""

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ase.io.extxyz import write_xyz

from atomslim.arguments import checked
from atomslim.data.container import FOLDERS, Container
from atomslim.data.staging import Staging, remove_staging, rows_written
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.files import atomic_write
from atomslim.inference.inputs import Input, open_inputs, read_inputs
from atomslim.inference.predict import listed
from atomslim.inference.shards import in_shards
from atomslim.labelling.asking import Asking
from atomslim.labelling.examine import ChangedAnswerError, Given, energy_of, examine, require_same
from atomslim.labelling.folder import claimed, write_note
from atomslim.labelling.sharing import sessions_of
from atomslim.labelling.tally import Skipped, Tally, read_skipped
from atomslim.labelling.teachers import Session, Source, Teacher, teacher_of
from atomslim.labelling.unlabelled import Unlabelled
from atomslim.progress import counted
from atomslim.report.shown import Shown
from atomslim.words import number_of

NAME, EXTXYZ, NOTE = FOLDERS[0], "labelled.extxyz", "label.json"

_LEAST, _PARTS = 32, 1000
"""Fewest structures of a part, and about the largest number of parts."""


@dataclass(frozen=True, repr=False)
class Labelled(Shown):
    """A finished folder of labels."""

    folder: Path
    given: Given
    skipped: tuple[Skipped, ...]
    seconds: float
    """Of this call."""

    @property
    def container(self) -> Container:
        """The labelled structures."""
        return Container(self.folder / NAME)

    def words(self) -> list[str]:
        """Summarise it with its path."""
        return [f"{self.folder}: {self}"]

    def __str__(self) -> str:
        """Summarise it in one line."""
        container = self.container
        size = f"{number_of(len(container), 'structure')}, {number_of(int(container.natoms.sum()), 'atom')}"
        text = f"{size}, with {', '.join(container.targets)}"
        if self.skipped:
            text += f"; {len(self.skipped)} skipped, the first {self.skipped[0].name}: {self.skipped[0].reason}"
        return f"{text} ({self.seconds:.1f} s)"


@checked
def label(  # noqa: PLR0913 -- the options of a command
    structures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    teacher: Source,
    output: str | os.PathLike[str],
    *,
    task: str | None = None,
    processes: int = 1,
    skip: float = 0.05,
    timeout: float | None = None,
    teacher_python: str | os.PathLike[str] | None = None,
    hessian: bool = False,
    options: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Labelled:
    """Label structures with a teacher, into a dataset folder; run again, it continues where it stopped.

    Energies and atomic energies in eV, forces in eV/Å, and stress of cells in eV/Å³, as far as the teacher gives them.
    If a calculator gives a free energy (electronic temperature), it is used as the energy, since forces are its
    gradient.

    Args:
        structures: files, folders, containers or datasets, as `atomslim.inference.inputs` says; labels in them are
            not used.
        teacher: a model, its file or name; `ase:MODULE:CLASS?NAME=VALUE`; in Python also a calculator, or a function
            that makes one.
        output: the folder.
        task: the task to use, if the model has several.
        processes: how many structures to label at once, each in its own process, with one thread unless
            OMP_NUM_THREADS is set.
        skip: fraction of structures that may fail: an error, no answer in time, wrong shapes or non-finite numbers.
            They are left out, and recorded in `label.json`.
        timeout: time limit per structure in seconds.
        teacher_python: the interpreter that a named teacher is installed in; needs ASE and NumPy, atomslim for models.
        hessian: also label each structure with one row of the Hessian, of an atom and direction at random, by forces
            of two displaced copies: three calls instead of one.
        options: of the readers of the structures, such as ``{"length_unit": "bohr"}``.
        tell: called with a sentence on what the teacher gives, before anything is labelled.

    Warns:
        AtomslimWarning: forces that are not the gradient of the energy, and other things wrong with the teacher.

    Raises:
        ConfigError: an unknown teacher, one that cannot be made, invalid options, or a folder that holds
            something else.
        StructureError, DataError: structures that cannot be read; names file and record.
        AtomslimError: too many structures without labels; answers that differ for one structure.
        OSError: a file that is missing or cannot be written.

    """
    start = time.perf_counter()
    _require_sense(processes, skip, timeout)
    who = teacher_of(teacher, task=task, python=teacher_python)
    if processes > 1 and who.recipe is None:
        raise ConfigError(f"processes {processes}: {who.name} is an object of this process: name it, or use one")
    inputs = open_inputs(listed(structures), options)
    total = sum(1 for _ in read_inputs(inputs))
    run = _Run(Path(output), who, inputs, Tally(who.name, total, skip), timeout, tell, hessian)
    run.label(processes)
    return Labelled(run.folder, run.given, tuple(run.tally.ordered()), time.perf_counter() - start)


@dataclass
class _Run:
    """The labelling of one folder."""

    folder: Path
    teacher: Teacher
    inputs: Sequence[Input]
    tally: Tally
    timeout: float | None
    tell: Callable[[str], None]
    hessian: bool = False
    given: Given = field(default_factory=lambda: Given(()))

    def label(self, processes: int) -> None:
        """Label the rest, and write the files."""
        session = self.teacher.begin(self.timeout)
        try:
            plan = self._plan(session.what)
            with claimed(self.folder, NOTE, plan) as note:
                self._begin(session, plan, note)
                if not (self.folder / NAME).exists():
                    self._write_container(session, plan, processes)
                self._write_rest(plan)
        finally:
            session.close()

    def _plan(self, what: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs and options of a folder: the same for every call that may continue it."""
        teacher = {"name": self.teacher.name, **what}
        inputs = [one.identity() for one in self.inputs]
        return {"structures": inputs, "count": self.tally.total, "teacher": teacher, "hessian": self.hessian}

    def _begin(self, session: Session, plan: Mapping[str, Any], note: Mapping[str, Any]) -> None:
        """Examine what the teacher gives, unless that was noted, and print it."""
        if "gives" in note:
            self.given = Given(**note["gives"])
        else:
            self.given = self._examined(session)
            write_note(self.folder / NOTE, {**plan, "gives": asdict(self.given)})
        if self.hessian and "forces" not in self.given.labels:
            raise ConfigError(f"{self.teacher.name}: gives no forces, so there are no rows of the Hessian")
        self.tell(self.given.sentence(self.teacher.name))
        for fault in self.given.faults:
            warnings.warn(fault, AtomslimWarning, stacklevel=5)

    def _examined(self, session: Session) -> Given:
        """Examine the teacher on the first structure that it gives labels for."""
        failed: list[Skipped] = []
        for frame in read_inputs(self.inputs):
            try:
                return examine(session, frame.atoms, frame.number, self.teacher.name)
            except Unlabelled as reason:
                failed.append(Skipped(frame.number, frame.name, str(reason)))
                self.tally.require_few(failed)
        raise ConfigError(f"{self.teacher.name}: no labels for any structure; {failed[0].name}: {failed[0].reason}")

    def _write_container(self, session: Session, plan: Mapping[str, Any], processes: int) -> None:
        path, tally = self.folder / NAME, self.tally
        size = max(_LEAST, -(-tally.total // _PARTS))
        parts = range(-(-tally.total // size))
        with Staging(path, plan, spoilt_by=ChangedAnswerError) as staging:
            tally.skipped = [one for part in parts for one in read_skipped(staging.folder, part)]
            tally.done = sum(rows_written(staging.folder, part) for part in parts) + len(tally.skipped)
            tally.require_few(tally.skipped)
            wanted = [not (staging.folder / f"{part:06d}.done").exists() for part in parts]
            frames = in_shards(read_inputs(self.inputs, lambda number: wanted[number // size]), size)
            with (
                counted("label", tally.total, tally.done) as tally.advance,
                sessions_of(self.teacher, session, min(processes, sum(wanted)), self.timeout) as sessions,
            ):
                Asking(staging.folder, self.given, tally, self.hessian).run(frames, sessions)
            self._require_unchanged(session)
            staging.merge(len(parts), self._metadata(plan))

    def _require_unchanged(self, session: Session) -> None:
        """Ask for the first structure once more, at the end; raises ChangedAnswerError if its energy has changed."""
        frame = next(read_inputs(self.inputs, lambda number: number == self.given.first))
        try:
            energy = energy_of(session.ask(frame.atoms))
        except Unlabelled:
            return
        require_same(self.teacher.name, self.given.energy, energy, len(frame.atoms))

    def _metadata(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata of the container."""
        return {
            "dataset": "labelled",
            "title": f"Labels by {self.teacher.name}",
            "licence": "that of the structures and of the teacher",
            "citation": "that of the teacher",
            "level_of_theory": self.teacher.name,
            "units": {},
            "options": {},
            "labelled": {**plan, "gives": asdict(self.given)},
            "skipped": [asdict(one) for one in self.tally.ordered()],
        }

    def _write_rest(self, plan: Mapping[str, Any]) -> None:
        """Write the same as extended XYZ, unless it exists."""
        container = Container(self.folder / NAME)
        remove_staging(container.path)
        self.tally.skipped = [Skipped(**one) for one in container.metadata["skipped"]]
        if not (self.folder / EXTXYZ).exists():
            self._write_extxyz(container, plan["teacher"])
        skipped = [asdict(one) for one in self.tally.skipped]
        write_note(self.folder / NOTE, {**plan, "gives": asdict(self.given), "skipped": skipped})

    def _write_extxyz(self, container: Container, teacher: Mapping[str, Any]) -> None:
        """Write extended XYZ, each structure with its teacher."""
        what = {"teacher": teacher["name"], "teacher_is": json.dumps({**teacher["versions"], **teacher["settings"]})}
        with atomic_write(self.folder / EXTXYZ) as temporary, temporary.open("w", encoding="utf-8") as file:
            for sample in container:
                atoms = sample.to_ase()
                atoms.info |= {"source": sample.name, **({"group": sample.group} if sample.group else {}), **what}
                write_xyz(file, atoms)


def _require_sense(processes: int, skip: float, timeout: float | None) -> None:
    if processes < 1:
        raise ConfigError(f"processes {processes}: give 1 or more")
    if not 0 <= skip < 1:
        raise ConfigError(f"skip {skip:g}: give the fraction of structures that may fail, from 0 to below 1")
    if timeout is not None and not (timeout > 0 and math.isfinite(timeout)):
        raise ConfigError(f"timeout {timeout:g}: give a time limit in seconds, above 0")
