"""A progress bar on stderr, and what is done before there is one, where that is a terminal."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from atomslim.data.in_memory import Samples
from atomslim.data.survey import survey
from atomslim.inference.process import process_of
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
    """Shows how much of a run is done and the last loss."""

    def __init__(self, *, shown: bool) -> None:
        console = plain_console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
        )
        self._bar = Progress(
            *columns, TimeElapsedColumn(), console=console, transient=True, disable=not (shown and console.is_terminal)
        )
        self._task: TaskID | None = None
        self._operation = ""

    def start(self, operation: str) -> None:
        """Begin to show the bar."""
        self._operation = operation
        self._task = self._bar.add_task(operation, total=1.0)
        self._bar.start()

    def say(self, text: str) -> None:
        """Show a text beside the operation's name."""
        if self._task is not None:
            self._bar.update(self._task, description=f"{self._operation}: {text}")

    def update(self, share: float) -> None:
        """Show how much is done, from 0 to 1."""
        if self._task is not None:
            self._bar.update(self._task, completed=share)

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()
