"""What a run shows: progress on the terminal, its learning curve, and a summary."""

import csv
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from atomslim.data.in_memory import Samples
from atomslim.data.survey import survey
from atomslim.evaluation.classification import BASE_RATE, baseline_of, class_table, parsed
from atomslim.evaluation.errors import Errors, own_unit
from atomslim.files import atomic_write
from atomslim.inference.process import process_of
from atomslim.parsing import parse_json
from atomslim.progress import Seldom, duration
from atomslim.report.console import plain_console
from atomslim.train.tasks import LearningTask
from atomslim.words import number_of

if TYPE_CHECKING:
    from atomslim.evaluation.errors import Results
    from atomslim.train.loop import Conductor


@contextmanager
def announced(what: str, *, shown: bool) -> Iterator[None]:
    """Show what is being done, and for how long."""
    console = plain_console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as status:
        status.add_task(what)
        yield


def say_labels(tasks: Iterable[LearningTask], *, shown: bool) -> None:
    """Print on stderr which labels the structures of each task have, a line per dataset, in one process."""
    if not shown or process_of(os.environ)[0]:
        return
    for task in tasks:
        own = [dataset for dataset in task.others.values() if not isinstance(dataset, Samples)]  # not the teacher's
        for dataset in (task.dataset, *own):
            sys.stderr.write(f"{survey(dataset).sentence()}\n")


@contextmanager
def warned_once() -> Iterator[None]:
    """Show each warning once while the block runs, however many runs in it raise it."""
    usual = warnings.showwarning
    shown: set[tuple[type[Warning], str]] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> None:
        if (category, str(message)) not in shown:
            shown.add((category, str(message)))
            usual(message, category, *where, **line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def said(lines: Iterable[str], *, shown: bool) -> None:
    """Show lines on stderr literally."""
    for line in lines if shown else ():
        sys.stderr.write(f"{line}\n")


class ProgressBar:
    """Shows how much of a run is done, the last loss and the time left; in lines without a terminal."""

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
        """Show the bar."""
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
        """Estimate the time left from the time since the first step."""
        start, first = self._begun or (0.0, share)
        if share <= first:
            return ""
        return f", {duration((time.monotonic() - start) * (1 - share) / (share - first))} left"

    def stop(self) -> None:
        """Remove the bar."""
        self._bar.stop()


_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#000000")


def draw_learning_curve(folder: str | os.PathLike[str]) -> Path:
    """Draw a finished run's metrics and summary into `learning_curve.png` beside them, and return its path.

    One row of panels for each target: validation errors (mean absolute ones, of labels 1 − ROC-AUC) of all tasks
    against steps, and against seconds of training; dashed: predicting the mean or base rate; stars: the best model on
    the test set.
    """
    root = Path(folder)
    rows = _validations(root / "metrics.csv")
    results = parse_json((root / "summary.json").read_text(encoding="utf-8"))["rows"]
    targets = list(dict.fromkeys(row["target"] for row in results if row["target"] != "energy"))
    tasks = dict.fromkeys(row["task"] for row in results)
    colours = {task: _COLOURS[number % len(_COLOURS)] for number, task in enumerate(tasks)}
    figure = Figure(figsize=(9.0, 2.9 * len(targets) + 0.4), layout="constrained")
    panels = figure.subplots(len(targets), 2, squeeze=False, sharey="row")
    for target, (steps, seconds) in zip(targets, panels, strict=True):
        chosen = [row for row in results if row["target"] == target]
        _panel(steps, rows, chosen, colours, "step", "steps")
        _panel(seconds, rows, chosen, colours, "seconds", "seconds of training")
        steps.set_ylabel(f"validation {_measure(chosen)}, {target}{_unit(chosen)}", fontsize=8)
    lines = [Line2D([], [], color=colour, marker="o", markersize=3, label=task) for task, colour in colours.items()]
    lines.append(Line2D([], [], color="0.4", linestyle="--", linewidth=0.8, label="predicting the mean or base rate"))
    if any(row["test"] for row in results):
        lines.append(Line2D([], [], color="0.4", marker="*", markersize=9, linestyle="", label="best model, test set"))
    figure.legend(handles=lines, loc="outside upper center", ncols=5, fontsize=7, frameon=False)
    path = root / "learning_curve.png"
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return path


def _validations(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["score"]]


def _panel(
    axes: Axes,
    rows: list[dict[str, str]],
    results: list[dict[str, Any]],
    colours: dict[str, str],
    column: str,
    label: str,
) -> None:
    for result in results:
        colour = colours[result["task"]]
        name = error_column(result)
        points = [(float(row[column]), float(row[name])) for row in rows if row.get(name)]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, linewidth=1.2)
        if result["mean_baseline"]:
            axes.axhline(parsed(result["mean_baseline"]).error, color=colour, linestyle="--", linewidth=0.8)
        if result["test"]:
            axes.plot(points[-1][0], parsed(result["test"]).error, "*", color=colour, markersize=9)
    axes.set_yscale("log")
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=7, which="both")
    axes.spines[["top", "right"]].set_visible(False)


def error_column(row: Mapping[str, Any]) -> str:
    """Return the column of the metrics for a summary's row."""
    measured: Mapping[str, Any] = next((row[kind] for kind in ("mean_baseline", "after", "test") if row[kind]), {})
    return f"{row['task']}/{row['target']}/{'error' if 'roc_auc' in measured else 'mae'}"


def _measure(results: list[dict[str, Any]]) -> str:
    found = _first(results)
    return "MAE" if found is None else found.measure


def _unit(results: list[dict[str, Any]]) -> str:
    found = _first(results)
    return f" ({found.unit})" if found is not None and found.measure == "MAE" else ""


def _first(results: list[dict[str, Any]]) -> Errors | None:
    found = next(
        (row["mean_baseline"] or row["after"] for row in results if row["mean_baseline"] or row["after"]), None
    )
    return None if found is None else parsed(found)


@dataclass(frozen=True)
class Row:
    """Errors of one target; None where nothing was measured."""

    task: str
    target: str
    mean_baseline: Errors | None
    """Of predicting the mean (base rate of binary labels) and no forces, on the validation set."""
    before: Errors | None
    """Of the model before the first step, on the validation set."""
    after: Errors | None
    """Of the last validation."""
    test: Errors | None
    """Of the best model on the test set."""
    test_own_unit: Errors | None
    """The same in the unit of the dataset's files."""


@dataclass(frozen=True)
class Summary:
    """The outcome of a run."""

    operation: str
    folder: str
    rows: list[Row]
    steps: int
    best_step: int
    epochs: float
    training_seconds: float
    """Wall-clock time of the steps alone."""
    waiting_share: float
    """Fraction of it spent waiting for data."""
    validation_seconds: float
    structures_per_second: float
    parameters: int
    budget: str = ""
    """Wall-clock budget of the run, if any."""

    @classmethod
    def of(cls, conductor: "Conductor", parameters: int) -> "Summary":
        """Collect the results of a run."""
        clock = conductor.standing.clock
        seconds = max(clock.seconds, 1e-9)
        return cls(
            operation=conductor.operation,
            folder=str(conductor.folder.path),
            rows=list(_rows(conductor)),
            steps=clock.steps,
            best_step=conductor.standing.best_step,
            epochs=clock.epoch + clock.position / clock.epoch_length,
            training_seconds=clock.seconds,
            waiting_share=clock.waiting_seconds / seconds,
            validation_seconds=clock.validation_seconds,
            structures_per_second=clock.structures / seconds,
            parameters=parameters,
            budget=next((str(limit) for limit in conductor.options.limits if limit.unit == "seconds"), ""),
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and texts."""
        rows = [{name: _plain(value) for name, value in vars(row).items()} for row in self.rows]
        return {**vars(self), "rows": rows}

    def sentences(self) -> list[str]:
        """List the errors of the best model by target."""
        found = []
        for row in self.rows:
            told = {"last validation": row.after, "test": row.test, "predicting the mean": row.mean_baseline}
            said = ", ".join(f"{what} {_cell(value)}" for what, value in told.items() if value is not None)
            found.append(f"{row.task}, {row.target}: {said or 'not measured'}")
        return found

    @property
    def worse_than_before(self) -> list[Row]:
        """Targets whose validation error grew."""
        return [row for row in self.rows if row.before and row.after and row.after.error > row.before.error]

    @property
    def worse_than_mean(self) -> list[Row]:
        """Targets on which the last model is worse than predicting the mean or base rate."""
        return [
            row for row in self.rows if row.mean_baseline and row.after and row.after.error > row.mean_baseline.error
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show it as a table."""
        del console, options
        known = [value for row in self.rows if (value := row.after or row.mean_baseline) is not None]
        predicted = f"predict the {baseline_of(known)}"
        table = Table("task", "target", predicted, "before", "after", "test", "test, own unit")
        for row in self.rows:
            cells = (row.mean_baseline, row.before, row.after, row.test, row.test_own_unit)
            table.add_row(row.task, row.target, *(_cell(value) for value in cells))
        measures = dict.fromkeys(value.measure for value in known)
        what = " and ".join("mean absolute errors" if name == "MAE" else name.removeprefix("1 − ") for name in measures)
        yield f"{what[:1].upper()}{what[1:]}; the first three on the validation set, the test with the best model"
        yield table
        yield from self._of_labels()
        yield (
            f"{number_of(self.steps, 'step')} ({self.epochs:.3g} epochs), best at {self.best_step}; "
            f"{self.training_seconds:.1f} s of training ({self.waiting_share:.1%} waiting for data), "
            f"{self.validation_seconds:.1f} s of validation; "
            f"{self.structures_per_second:.3g} structures/s; {self.parameters:,} parameters; in {self.folder}"
        )
        if self.budget:
            yield f"{self.budget} were {self.steps} steps here: steps={self.steps} repeats the run at any speed."
        for row in self.worse_than_before:
            yield f"Note: {row.task}/{row.target} ended worse than before the first step; the best model was kept."
        for row in self.worse_than_mean:
            numbers = f"{_cell(row.after)} against {_cell(row.mean_baseline)}"
            what = "mean" if row.after is None else baseline_of([row.after])
            yield f"Note: {row.task}/{row.target} ended worse than predicting the {what}: {numbers}; train for longer."

    def _of_labels(self) -> Iterator[RenderableType]:
        """Show all metrics of binary labels, on the test set if there is one, and which are not defined."""
        several = len({row.task for row in self.rows}) > 1
        tested = any(row.test for row in self.rows)
        kinds = {"best, test" if tested else "last, validation": "test" if tested else "after"}
        kinds |= {f"{BASE_RATE}, validation": "mean_baseline"}
        found = {
            who: {
                f"{row.task}, {row.target}" if several else row.target: value
                for row in self.rows
                if (value := getattr(row, kind))
            }
            for who, kind in kinds.items()
        }
        table = class_table(found)
        if table is not None:
            yield table.rich()
            yield table.note


def _rows(conductor: "Conductor") -> Iterator[Row]:
    for task in conductor.tasks:
        for name, value in conductor.latest.get(task.name, conductor.baselines["mean"][task.name]).items():
            test = _find(conductor.tests, task.name, name)
            yield Row(
                task=task.name,
                target=name,
                mean_baseline=_find(conductor.baselines.get("mean", {}), task.name, name),
                before=_find(conductor.baselines.get("loaded", {}), task.name, name),
                after=value if conductor.latest else None,
                test=test,
                test_own_unit=None if test is None else own_unit(test, task.dataset.info.units_in_file),
            )


def _find(results: "Results", task: str, name: str) -> Errors | None:
    return results.get(task, {}).get(name)


def _plain(value: object) -> object:
    return vars(value) if isinstance(value, Errors) else value


def _cell(value: Errors | None) -> str:
    if value is None:
        return ""
    return f"{value.mae:.4g} {value.unit}" if "/mol" in value.unit else str(value)
