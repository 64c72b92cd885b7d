"""Asking a teacher for the labels of many structures: by several threads, a session each, part after part."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from atomslim.atoms.sample import Sample
from atomslim.data.staging import Part
from atomslim.inference.inputs import Frame
from atomslim.labelling.examine import Given
from atomslim.labelling.tally import Skipped, Tally, read_skipped, write_skipped
from atomslim.labelling.teachers import Session
from atomslim.labelling.unlabelled import Unlabelled

T = TypeVar("T")


@dataclass
class Asking:
    """Writes the parts of a container of labels."""

    folder: Path
    """Where they grow."""
    given: Given
    tally: Tally
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, parts: Iterator[tuple[int, list[Frame]]], sessions: Sequence[Session]) -> None:
        """Label all structures of some parts; sessions share them. What one raises ends the others."""
        if len(sessions) == 1:
            self._label(parts, sessions[0])
            return
        shared = _Shared(parts)
        with ThreadPoolExecutor(len(sessions)) as pool:
            jobs = [pool.submit(self._label, shared, session) for session in sessions]
            ended: set[Future[None]] = set()
            try:
                ended, _ = wait(jobs, return_when=FIRST_EXCEPTION)
                errors = [error for job in ended if (error := job.exception()) is not None]
            finally:
                self._stop.set()
                for session in sessions if len(ended) < len(jobs) else ():
                    session.stop()
        if errors:
            raise errors[0]

    def _label(self, parts: Iterator[tuple[int, list[Frame]]], session: Session) -> None:
        for number, frames in parts:
            with Part(self.folder, number) as part:
                skipped = read_skipped(self.folder, number)
                for frame in frames[len(part) + len(skipped) :]:
                    if self._stop.is_set():
                        return
                    self._add(part, number, frame, session, skipped)
                part.finish()

    def _add(self, part: Part, number: int, frame: Frame, session: Session, skipped: list[Skipped]) -> None:
        """Label a structure, or note why it has no labels, once what comes before it is safe."""
        try:
            labels = self.given.kept(session.ask(frame.atoms))
        except Unlabelled as reason:
            if self._stop.is_set():  # the process was ended, not the structure at fault
                return
            part.commit()
            skipped.append(Skipped(frame.number, frame.name, str(reason)))
            write_skipped(self.folder, number, skipped)
            self.tally.count(skipped[-1])
            return
        part.append(Sample.from_ase(frame.atoms, labels, name=frame.name, group=frame.group))
        self.tally.count()


class _Shared(Iterator[T]):
    """An iterator that several threads take from."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source, self._lock = source, threading.Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._source)
