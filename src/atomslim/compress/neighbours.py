"""Neighbour reduction: the same weights with fewer neighbours, since a model's cost is proportional to its edges.

Changes outputs.
"""

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from atomslim.errors import ConfigError
from atomslim.measure.accuracy import Accuracy, Errors
from atomslim.measure.batches import TaskedData, batches, datasets, spread_out
from atomslim.models.block_model import BlockModel
from atomslim.models.gemnet_oc.graphs import GraphSettings

Model = TypeVar("Model", bound=BlockModel)


def with_neighbours(model: Model, neighbours: int) -> Model:
    """Return a copy whose tasks take at most `neighbours` main neighbours of an atom, the other graphs in proportion.

    Raises ConfigError for less than one.
    """
    if neighbours < 1:
        raise ConfigError(f"{neighbours} neighbours: give 1 or more")
    small = copy.deepcopy(model)
    small.tasks = {
        name: task.model_copy(
            update={
                "graph": GraphSettings.from_neighbours(task.graph.cutoff, neighbours, symmetrise=task.graph.symmetrise)
            }
        )
        for name, task in model.tasks.items()
    }
    small.history = [
        *model.history,
        {
            "operation": "reduce neighbours",
            "changes outputs": True,
            "neighbours before": {name: task.graph.main for name, task in model.tasks.items()},
            "neighbours after": neighbours,
        },
    ]
    return small


@dataclass(frozen=True)
class NeighbourRow:
    """Errors of one task, and seconds per structure, with at most so many neighbours."""

    neighbours: int
    task: str
    edges: float
    """Edges of the main graph per atom."""
    seconds: float
    """Per structure, its graphs included; the median of the repeats."""
    errors: dict[str, Errors]


@dataclass(frozen=True)
class NeighbourScan:
    """What fewer neighbours cost and gain."""

    rows: list[NeighbourRow]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {"rows": [asdict(row) for row in self.rows]}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show it as a table, speed relative to the first row of the task."""
        del console, options
        table = Table("task", "neighbours", "edges per atom", "speed-up", "errors (MAE)")
        first = {row.task: row.seconds for row in reversed(self.rows)}
        for row in self.rows:
            errors = ", ".join(f"{name} {error.mae:.4g} {error.unit}" for name, error in row.errors.items())
            speed = f"{first[row.task] / row.seconds:.2f} ×"
            table.add_row(row.task, str(row.neighbours), f"{row.edges:.1f}", speed, errors)
        yield table


def neighbour_scan(
    model: BlockModel,
    data: TaskedData,
    neighbours: Sequence[int],
    *,
    limit: int = 64,
    batch_size: int = 4,
    repeats: int = 3,
) -> NeighbourScan:
    """Measure errors and speed of a model with different numbers of neighbours, repeats taken in turn.

    Raises as `atomslim.measure.batches.datasets` does.
    """
    variants = {count: with_neighbours(model, count).eval() for count in neighbours}
    rows = []
    for task, dataset in datasets(model, data).items():
        samples = spread_out(dataset, limit)
        times: dict[int, list[float]] = {count: [] for count in variants}
        for _ in range(repeats):
            found = {}
            for count, variant in variants.items():
                accuracy, edges, atoms = Accuracy(dataset.info.units), 0, 0
                start = time.perf_counter()
                for batch in batches(variant, task, samples, batch_size):
                    accuracy.add(variant.predict(batch.atoms, task, batch.topology), batch.targets, batch.atoms)
                    edges, atoms = edges + len(batch.topology.main.source), atoms + batch.atoms.num_atoms
                times[count].append((time.perf_counter() - start) / len(samples))
                found[count] = edges / atoms, accuracy.result()
        rows += [
            NeighbourRow(count, task, found[count][0], statistics.median(times[count]), found[count][1])
            for count in variants
        ]
    return NeighbourScan(rows)
