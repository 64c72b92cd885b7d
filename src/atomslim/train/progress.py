"""How far a training is: a bar on stderr where that is a terminal, else a line every so often."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from atomslim.data.in_memory import Samples
from atomslim.data.survey import survey
from atomslim.inference.process import process_of
from atomslim.progress import Seldom, duration
from atomslim.report.console import plain_console
from atomslim.train.tasks import LearningTask


@contextmanager
def announced(what: str, *, shown: bool) -> Iterator[None]:
    """Show what is being done, and for how long, while it lasts."""
    console = plain_console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as status:
        status.add_task(what)
        yield


def say_labels(tasks: Iterable[LearningTask], *, shown: bool) -> None:
    """Say on stderr which labels the structures of each task have, one line for each dataset; one process does."""
    if not shown or process_of(os.environ)[0]:
        return
    for task in tasks:
        own = [dataset for dataset in task.others.values() if not isinstance(dataset, Samples)]  # not the teacher's
        for dataset in (task.dataset, *own):
            sys.stderr.write(f"{survey(dataset).sentence()}\n")


def said(lines: Iterable[str], *, shown: bool) -> None:
    """Show lines on stderr as they are."""
    for line in lines if shown else ():
        sys.stderr.write(f"{line}\n")


class ProgressBar:
    """Shows how much of a run is done, the last loss and the time that is left; without a terminal in lines."""

    def __init__(self, *, shown: bool) -> None:
        console = plain_console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
        )
        self._bar = Progress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
        )
        self._task: TaskID | None = None
        self._operation = self._text = ""
        self._lines = shown and not console.is_terminal and not process_of(os.environ)[0]
        self._begun: tuple[float, float] | None = None

    def start(self, operation: str) -> None:
        """Begin to show the bar."""
        self._operation = operation
        self._task = self._bar.add_task(operation, total=1.0)
        self._bar.start()
        self._seldom = Seldom()

    def say(self, text: str) -> None:
        """Show a text beside the operation's name."""
        self._text = text
        if self._task is not None:
            self._bar.update(self._task, description=f"{self._operation}: {text}")

    def update(self, share: float) -> None:
        """Show how much is done, from 0 to 1."""
        if self._task is None:
            return
        self._bar.update(self._task, completed=share)
        self._begun = self._begun or (time.monotonic(), share)
        if self._lines and self._seldom.due():
            sys.stderr.write(f"{self._operation}: {share:.0%}, {self._text}{self._left(share)}\n")
            sys.stderr.flush()

    def _left(self, share: float) -> str:
        """Say how long it will take, by how long it took since the first step."""
        start, first = self._begun or (0.0, share)
        if share <= first:
            return ""
        return f", {duration((time.monotonic() - start) * (1 - share) / (share - first))} left"

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()
