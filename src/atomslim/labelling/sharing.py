"""Work shared among sessions of a teacher, a thread for each; an error in one ends the others."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from atomslim.labelling.teachers import Session, Teacher

T = TypeVar("T")


@contextmanager
def sessions_of(teacher: Teacher, first: Session, count: int, timeout: float | None) -> Iterator[list[Session]]:
    """Open the other sessions beside the first, and close them at the end."""
    others = [teacher.begin(timeout) for _ in range(count - 1)]
    try:
        yield [first, *others]
    finally:
        for session in others:
            session.close()


def share(
    items: Iterator[T], sessions: Sequence[Session], work: Callable[[T, Session], None], stop: threading.Event
) -> None:
    """Do the work for all items; `stop` tells running threads that another one has failed."""
    if len(sessions) == 1:
        _work_through(items, sessions[0], work, stop)
        return
    shared = _Shared(items)
    with ThreadPoolExecutor(len(sessions)) as pool:
        jobs = [pool.submit(_work_through, shared, session, work, stop) for session in sessions]
        ended: set[Future[None]] = set()
        try:
            ended, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            errors = [error for job in ended if (error := job.exception()) is not None]
        finally:
            stop.set()
            for session in sessions if len(ended) < len(jobs) else ():
                session.stop()
    if errors:
        raise errors[0]


def _work_through(
    items: Iterator[T], session: Session, work: Callable[[T, Session], None], stop: threading.Event
) -> None:
    for item in items:
        if stop.is_set():
            return
        work(item, session)


class _Shared(Iterator[T]):
    """An iterator that several threads share."""

    def __init__(self, source: Iterator[T]) -> None:
        self._source, self._lock = source, threading.Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._source)
