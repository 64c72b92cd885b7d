"""What all stages of a run share: its folder, options, teacher, note, and structures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase import Atoms

from atomslim.atoms.sample import Sample
from atomslim.data.container import Container
from atomslim.inference.inputs import Frame
from atomslim.labelling.label import NAME as LABELLED
from atomslim.labelling.label import Labelled, label
from atomslim.labelling.teachers import Session, Source, Teacher, teacher_of
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load
from atomslim.slimming.journal import Journal
from atomslim.slimming.options import SlimOptions

TASK = "potential"
"""Name of the student's task."""

RESERVED = 0.1
"""Fraction of the budget reserved for what comes after the rounds."""


@dataclass(frozen=True)
class Work:
    """What all stages of a run share."""

    folder: Path
    options: SlimOptions
    source: Source
    """The teacher, as given."""
    frames: Sequence[Frame]
    """The structures, as given."""
    journal: Journal
    progress: bool = True

    @property
    def work_folder(self) -> Path:
        """Folder of intermediate files."""
        return self.folder / "work"

    @property
    def done(self) -> Mapping[str, Mapping[str, Any]]:
        """The notes of finished stages."""
        return self.journal.done

    @property
    def tell(self) -> Callable[[str], None]:
        """Prints something on the terminal."""
        return self.journal.tell

    @property
    def structures(self) -> list[Atoms]:
        """The given structures."""
        return [frame.atoms for frame in self.frames]

    @property
    def teacher(self) -> Teacher:
        """The teacher."""
        return teacher_of(self.source, task=self.options.task, python=self.options.teacher_python)

    @contextmanager
    def asking(self) -> Iterator[Session]:
        """Keep the teacher running during the block."""
        session = self.teacher.begin(self.options.timeout)
        try:
            yield session
        finally:
            session.close()

    @property
    def left(self) -> float:
        """Seconds of the budget that stages before the validation may still take."""
        return max((1 - RESERVED) * self.options.seconds - self.journal.seconds, 0.0)

    @property
    def seconds_per_label(self) -> float:
        """Seconds per label, everything included; before there are labels, the teacher's measured cost."""
        found = self.done.get("labels", {})
        return float(found.get("seconds per label", self.done["teacher"]["seconds per structure"]))

    def label(self, structures: Sequence[Path], output: Path, skip: float = 0.0) -> Labelled:
        """Label structures by the teacher; at least a fraction `skip` of them may fail."""
        options = self.options
        return label(
            [str(path) for path in structures],
            self.source,
            output,
            task=options.task,
            processes=options.processes,
            skip=max(options.skip, skip),
            timeout=options.timeout,
            teacher_python=options.teacher_python,
        )

    def labelled(self, name: str) -> list[Sample]:
        """Read the labelled structures in a folder of the run."""
        return list(Container(self.work_folder / name / LABELLED))

    def student(self, stage: str) -> BlockModel:
        """Read the student that a stage ended with."""
        return load(self.folder / self.done[stage]["student"])
