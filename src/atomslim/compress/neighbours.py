"""Neighbour reduction: the same weights with fewer neighbours, since a model's cost is proportional to its edges.

Changes outputs.
"""

import copy
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from atomslim.atoms import Sample
from atomslim.benchmarking.speed import count_flops
from atomslim.benchmarking.turns import Gain, Rounds, take_turns
from atomslim.data import Dataset
from atomslim.errors import ConfigError
from atomslim.evaluation.accuracy import Accuracy
from atomslim.evaluation.batches import TaskedData, batches, datasets, spread_out
from atomslim.evaluation.errors import Errors
from atomslim.evaluation.reference_gap import on_reference_of
from atomslim.files import atomic_write
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.modes import evaluating
from atomslim.models.tasks import Task

Model = TypeVar("Model", bound=BlockModel)


def with_neighbours(model: Model, neighbours: float) -> Model:
    """Return a copy whose tasks take fewer neighbours of an atom, in the main graph and in proportion in the others.

    ``neighbours`` is a whole number, the most that any task may take (a task that takes fewer already stays as it is),
    or a fraction below 1 of what each task takes. Other caps of a family shrink in proportion. The weights are the
    same. Raises ConfigError for anything else, and for a family that takes all neighbours within its cutoff.
    """
    family_of(model).require("neighbour caps")
    small = copy.deepcopy(model)
    small.tasks = _reduced(model.tasks, neighbours)
    entry = {
        "operation": "reduce neighbours",
        "changes outputs": True,
        "neighbours before": {name: task.graph.typical_neighbours for name, task in model.tasks.items()},
        "neighbours after": {name: task.graph.typical_neighbours for name, task in small.tasks.items()},
    }
    small.history = [*model.history, entry]
    return small


@dataclass(frozen=True)
class NeighbourRow:
    """Errors of one task, and seconds per structure, with at most so many neighbours."""

    neighbours: float
    task: str
    edges: float
    """Edges per atom."""
    times: tuple[float, ...]
    """Seconds per structure, its graphs included, in each round."""
    flops: int
    """Of all structures."""
    errors: dict[str, Errors]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, the shortest time as ``seconds``."""
        return {**asdict(self), "seconds": min(self.times)}


@dataclass(frozen=True)
class NeighbourScan:
    """What fewer neighbours cost and gain; the first row of a task is the unchanged model."""

    rows: list[NeighbourRow]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {"rows": [{**row.as_dict(), "speed-up": self.speed_up(row).as_dict()} for row in self.rows]}

    def speed_up(self, row: NeighbourRow) -> Gain:
        """Speed-up of a row over the unchanged model."""
        first = next(first for first in self.rows if first.task == row.task)
        return Gain.of(first.times, row.times, first.flops / max(row.flops, 1))

    def words(self) -> Iterator[str]:
        """Say which speed-ups are unclear, and why."""
        for row in self.rows:
            gain = self.speed_up(row)
            if not gain.reliable:
                yield f"{row.task}, {row.neighbours:g} neighbours: {gain.words()}."

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show it as a table."""
        del console, options
        table = Table("task", "neighbours", "edges per atom", "speed-up", "error")
        for row in self.rows:
            errors = "\n".join(f"{name} {error}" for name, error in row.errors.items())
            table.add_row(row.task, f"{row.neighbours:g}", f"{row.edges:.1f}", str(self.speed_up(row)), errors)
        yield table
        yield from self.words()


def neighbour_scan(
    model: BlockModel,
    data: TaskedData,
    neighbours: Sequence[float],
    *,
    limit: int = 64,
    batch_size: int = 4,
    repeats: int = 5,
) -> NeighbourScan:
    """Measure errors and speed of a model, unchanged and with fewer neighbours, in turns.

    ``neighbours`` are what `with_neighbours` takes; those that do not change a task give no row. At most `limit`
    structures of each task, evenly over its data. Raises as `atomslim.evaluation.batches.datasets` and
    `with_neighbours` do.
    """
    family_of(model).require("neighbour caps")
    reduced = [_reduced(model.tasks, count) for count in neighbours]
    rows: list[NeighbourRow] = []
    for name, dataset in datasets(model, data).items():
        tasks = {
            task.graph.typical_neighbours: task for task in (model.tasks[name], *(tasks[name] for tasks in reduced))
        }
        samples = on_reference_of(model, name, spread_out(dataset, limit))
        cases = [_Case(model, task, dataset, samples, batch_size) for task in tasks.values()]
        for case in cases:
            case.warm_up()
        take_turns(cases, repeats)
        rows += [case.row() for case in cases]
    return NeighbourScan(rows)


def _reduced(tasks: Mapping[str, Task], neighbours: float) -> dict[str, Task]:
    if not (neighbours >= 1 and neighbours % 1 == 0) and not 0 < neighbours < 1:
        raise ConfigError(f"{neighbours:g} neighbours: give a whole number, or a fraction between 0 and 1")
    return {name: task.model_copy(update={"graph": task.graph.fewer(neighbours)}) for name, task in tasks.items()}


@dataclass
class _Case:
    """One task with one number of neighbours, and the times so far."""

    model: BlockModel
    task: Task
    dataset: Dataset
    samples: list[Sample]
    batch_size: int
    rounds: Rounds = field(default_factory=lambda: Rounds.of("seconds"))
    estimate: float = 0.0
    flops: int = 0
    edges: float = 0.0
    errors: dict[str, Errors] = field(default_factory=dict)

    def warm_up(self) -> None:
        self.flops = count_flops(self.run)
        self.estimate = self.run()["seconds"]

    def fill(self, seconds: float) -> None:
        self.rounds.fill(self.run, seconds)

    def run(self) -> dict[str, float]:
        accuracy, edges, atoms = Accuracy(self.dataset.info.units, labels=self.task.labels), 0, 0
        start = time.perf_counter()
        with _evaluated_with(self.model, self.task):
            for batch in batches(self.model, self.task.name, self.samples, self.batch_size):
                outputs = self.model.predict(batch.atoms, self.task.name, batch.topology)
                accuracy.add(outputs, batch.targets, batch.atoms, batch.names)
                edges, atoms = edges + len(batch.topology.edges().source), atoms + batch.atoms.num_atoms
        taken = time.perf_counter() - start
        self.edges, self.errors = edges / atoms, accuracy.result()
        return {"seconds": taken}

    def row(self) -> NeighbourRow:
        times = tuple(seconds / len(self.samples) for seconds in self.rounds.parts["seconds"])
        return NeighbourRow(
            self.task.graph.typical_neighbours or 0, self.task.name, self.edges, times, self.flops, self.errors
        )


@contextmanager
def _evaluated_with(model: BlockModel, task: Task) -> Iterator[None]:
    """Temporarily replace one of a model's tasks, in evaluation mode."""
    own = model.tasks
    model.tasks = {**own, task.name: task}
    try:
        with evaluating(model):
            yield
    finally:
        model.tasks = own
