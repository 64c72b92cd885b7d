"""How far a long run is, and how long it will take: a bar on a terminal, else a line every minute; on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atomslim.report.console import plain_console

PERIOD = 60.0
"""Seconds between two lines."""


class Advance(Protocol):
    """Told how much is done, and how much of that to no avail."""

    def __call__(self, done: int, skipped: int = 0) -> None:
        """Show it."""
        ...


@contextmanager
def counted(what: str, total: int, before: int = 0) -> Iterator[Advance]:
    """Show how many structures of `total` are done; `before` of them were done when it began."""
    console = plain_console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what, total, before)
        return
    columns = (
        TextColumn(what, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[skipped]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=before, skipped="")

        def advance(done: int, skipped: int = 0) -> None:
            bar.update(task, completed=done, skipped=f"{skipped} skipped" if skipped else "")

        yield advance


class _Lines:
    """A line every minute, with the time that is left."""

    def __init__(self, what: str, total: int, before: int) -> None:
        self._what, self._total, self._before = what, total, before
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, skipped: int = 0) -> None:
        now = time.monotonic()
        if now - self._last < PERIOD:
            return
        self._last = now
        left = (now - self._start) / max(done - self._before, 1) * (self._total - done)
        unusable = f", {skipped} skipped" if skipped else ""
        sys.stderr.write(f"{self._what}: {done} of {self._total} structures{unusable}, {left / 60:.0f} min left\n")
        sys.stderr.flush()
