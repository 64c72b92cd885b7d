"""Asking a teacher for the labels of many structures, in parts of a container."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from atomslim.atoms.sample import HESSIAN, Sample
from atomslim.data.staging import Part
from atomslim.inference.inputs import Frame
from atomslim.labelling.curvature import hessian_row
from atomslim.labelling.examine import Given
from atomslim.labelling.sharing import share
from atomslim.labelling.tally import Skipped, Tally, read_skipped, write_skipped
from atomslim.labelling.teachers import Session
from atomslim.labelling.unlabelled import Unlabelled


@dataclass
class Asking:
    """Writes the parts of a container of labels."""

    folder: Path
    """Where they grow."""
    given: Given
    tally: Tally
    hessian: bool = False
    """Whether each structure gets a row of the Hessian."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, parts: Iterator[tuple[int, list[Frame]]], sessions: Sequence[Session]) -> None:
        """Label all structures of some parts; sessions share them."""
        share(parts, sessions, self._label, self._stop)

    def _label(self, wanted: tuple[int, list[Frame]], session: Session) -> None:
        number, frames = wanted
        with Part(self.folder, number) as part:
            skipped = read_skipped(self.folder, number)
            for frame in frames[len(part) + len(skipped) :]:
                if self._stop.is_set():
                    return
                self._add(part, number, frame, session, skipped)
            if not self._stop.is_set():
                part.finish()

    def _add(self, part: Part, number: int, frame: Frame, session: Session, skipped: list[Skipped]) -> None:
        """Label a structure, or note why it has no labels, once everything before it is saved."""
        try:
            labels = self.given.kept(session.ask(frame.atoms))
            if self.hessian:
                labels |= {HESSIAN: hessian_row(session, frame.atoms, frame.number)}
        except Unlabelled as reason:
            if self._stop.is_set():  # the process was ended; it is not the structure's fault
                return
            part.commit()
            skipped.append(Skipped(frame.number, frame.name, str(reason)))
            write_skipped(self.folder, number, skipped)
            self.tally.count(skipped[-1])
            return
        part.append(Sample.from_ase(frame.atoms, labels, name=frame.name, group=frame.group))
        self.tally.count()
