"""Progress, rate and time left: a bar on a terminal, otherwise a line every so often.

It goes to stderr. Nothing is shown for what takes less than two seconds. Long loops of the library are quiet unless a
command shows their progress (`shown`); labels, pools and training show it unless they are told not to.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from atomslim.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress

SOON = 2.0
"""Seconds before anything is shown on a terminal."""
FIRST, PERIOD = 10.0, 60.0
"""Seconds before the first line without a terminal, and the most between two lines; intervals double until then."""

AGAIN = 0.2
"""Seconds between two drawings of a bar."""

T = TypeVar("T")


class _State:
    """Whether long loops may show progress, and whether one does: two bars at a time would overwrite each other."""

    allowed = False
    busy = False


@contextmanager
def shown() -> Iterator[None]:
    """Let long loops show their progress, as commands do."""
    before, _State.allowed = _State.allowed, True
    try:
        yield
    finally:
        _State.allowed = before


class Seldom:
    """Says when a line is due: after ten seconds, then less and less often, finally once a minute."""

    def __init__(self) -> None:
        self._gap = FIRST
        self._due = time.monotonic() + FIRST

    def due(self) -> bool:
        """Say whether it is time, and count from now if it is."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._gap = min(2 * self._gap, PERIOD)
        self._due = now + self._gap
        return True


class Advance(Protocol):
    """Takes how much is done, optionally the total, and a note."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show it."""
        ...


@contextmanager
def counted(what: str, total: int | None = None, before: int = 0, unit: str = "structures") -> Iterator[Advance]:
    """Show how many of `total` are done, how many a second, and the time left; `before` were done already."""
    if _State.busy:
        yield _silent
        return
    _State.busy = True
    counter = (_Bar if sys.stderr.isatty() else _Lines)(what, total, before, unit)
    try:
        yield counter
    finally:
        _State.busy = False
        counter.close()


def tracked(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    unit: str = "structures",
    size: Callable[[T], int] = lambda _: 1,
) -> Iterator[T]:
    """Yield the items, and show progress if a command allows it; an item counts as its ``size``."""
    if not _State.allowed or _State.busy:
        yield from items
        return
    with counted(what, total, unit=unit) as advance:
        done = 0
        for item in items:
            yield item
            done += size(item)
            advance(done)


def _silent(done: int, total: int | None = None, note: str = "") -> None:
    """Show nothing: another count is being shown."""
    del done, total, note


class _Counter:
    """Counts from `before`; subclasses show it."""

    def __init__(self, what: str, total: int | None, before: int, unit: str) -> None:
        self.what, self.total, self.before, self.unit = printable(what), total, before, unit
        self.begun = time.monotonic()

    def rate(self, done: int) -> float:
        """Return how many were done per second since it began."""
        return (done - self.before) / max(time.monotonic() - self.begun, 1e-9)

    def sentence(self, done: int, note: str) -> str:
        """Describe the progress in one line."""
        of = f" of {self.total:,}" if self.total else ""
        parts = [f"{done:,}{of} {self.unit}"]
        if rate := self.rate(done):
            parts.append(f"{rate:.3g}/s")
            parts += [f"{duration((self.total - done) / rate)} left"] if self.total else []
        return ", ".join([*parts, *([printable(note)] if note else [])])


class _Lines(_Counter):
    """A line every so often."""

    def __init__(self, what: str, total: int | None, before: int, unit: str) -> None:
        super().__init__(what, total, before, unit)
        self._seldom = Seldom()

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        self.total = total or self.total
        if self._seldom.due():
            sys.stderr.write(f"{self.what}: {self.sentence(done, note)}\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Do nothing: what was written stays."""


class _Bar(_Counter):
    """A bar that appears after two seconds, and is removed at the end."""

    _bar: "Progress | None" = None
    _drawn = 0.0

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        self.total = total or self.total
        now = time.monotonic()
        if now - self._drawn < AGAIN or now - self.begun < SOON:
            return
        self._drawn = now
        if self._bar is None:
            self._bar = _rich_bar()
            self._bar.add_task(self.what, total=self.total)
        task = self._bar.task_ids[0]
        self._bar.update(task, completed=done, total=self.total, description=self._text(done, note), refresh=True)

    def _text(self, done: int, note: str) -> str:
        return f"{self.what}: {self.sentence(done, note)}"

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()


def _rich_bar() -> "Progress":
    """Start a bar of rich's, whose text is ours; no thread draws it, which would disturb what is timed."""
    from rich.console import Console  # noqa: PLC0415 - quick commands do not need it
    from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

    console = Console(stderr=True, markup=False, emoji=False)
    columns = BarColumn(), TextColumn("{task.description}", markup=False)
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
    bar.start()
    return bar


def duration(seconds: float) -> str:
    """Write a time as people say it: 40 s, 12 min, 3.5 h, 2 d."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"
