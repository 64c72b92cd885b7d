"""What a run achieved: baselines, validation and test errors in meV and in the dataset's own unit, and times."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table

from atomslim.evaluation.class_table import BASE_RATE, class_table
from atomslim.evaluation.classification import baseline_of
from atomslim.evaluation.errors import Errors, own_unit

if TYPE_CHECKING:
    from atomslim.train.conductor import Conductor
    from atomslim.train.validation import Results


@dataclass(frozen=True)
class Row:
    """Errors of one target; None where nothing was measured."""

    task: str
    target: str
    mean_baseline: Errors | None
    """Of predicting the mean (of labels, the base rate) and no forces, on the validation set."""
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
    """Wall clock of the steps alone."""
    waiting_share: float
    """Share of it spent waiting for data."""
    validation_seconds: float
    structures_per_second: float
    parameters: int
    budget: str = ""
    """Wall clock that the run was given, if it was."""

    @classmethod
    def of(cls, conductor: "Conductor", parameters: int) -> "Summary":
        """Collect what a run left behind."""
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
        """Say the errors of the best model target by target."""
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
        """Targets that the last model gets worse than predicting the mean (of labels, the base rate) does."""
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
            f"{self.steps} steps ({self.epochs:.3g} epochs), best at {self.best_step}; {self.training_seconds:.1f} s "
            f"of training ({self.waiting_share:.1%} waiting for data), {self.validation_seconds:.1f} s of validation; "
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
        """Show all metrics of labels of 0 and 1, on the test set where there is one, and what is not defined."""
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
