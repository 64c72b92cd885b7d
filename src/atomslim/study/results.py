"""What a study found, gathered from its cells: errors by strategy, blocks and seed."""

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from atomslim.study.cells import Cell, Kind
from atomslim.study.options import DownstreamOptions, Strategy, StudyOptions
from atomslim.study.runner import Board

MILLI = 1000.0

_LOST = 1.01
"""Where slicing adds less than a hundredth to the error, there is nothing to win back."""


@dataclass(frozen=True)
class Spread:
    """A number over seeds: their mean, their standard deviation (None for one seed) and how many there are."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """Summarise values; None where there are none."""
        found = [value for value in values if math.isfinite(value)]
        if not found:
            return None
        return cls(mean(found), stdev(found) if len(found) > 1 else None, len(found))

    def __str__(self) -> str:
        """Write it with three digits that count, and the deviation beside it."""
        return f"{self.mean:.3g}" if self.deviation is None else f"{self.mean:.3g} ± {self.deviation:.2g}"


@dataclass(frozen=True)
class Variant:
    """One way to make the model smaller; ``blocks`` None is the full model."""

    strategy: Strategy
    blocks: int | None


@dataclass(frozen=True)
class Curve:
    """Validation error against seconds of training."""

    variant: Variant
    seconds: list[float]
    errors: list[float]


class Results:
    """Everything that the finished cells of a study found."""

    def __init__(self, board: Board, options: StudyOptions) -> None:
        self.board, self.options = board, options

    @property
    def variants(self) -> list[Variant]:
        """The full model and every cut of it, as the pre-training table has them."""
        strategies: list[Strategy] = [*self.options.realign]
        if self.options.distill is not None:
            strategies.append("distilled")
        cuts = [Variant(strategy, blocks) for blocks in self.options.blocks for strategy in strategies]
        return [Variant("full", None), *cuts]

    def reduced(self, variant: Variant, task: str, target: str = "forces") -> Spread | None:
        """Return the validation error of a variant on a pre-training task, in milli-units (meV/Å), over seeds."""
        kind: Kind = "distill" if variant.strategy == "distilled" else "reduce"
        found = self._found(Cell(kind, variant.strategy, variant.blocks, seed) for seed in self.options.seeds)
        errors = [result["errors"].get(task, {}).get(target) for result in found]
        return Spread.of(error["mae"] * MILLI for error in errors if error)

    def recovered(self, variant: Variant, task: str) -> float | None:
        """Return the share of what slicing lost that a variant wins back: 1 is the full model, 0 the sliced one."""
        values = [
            self.reduced(one, task) for one in (Variant("full", None), Variant("sliced", variant.blocks), variant)
        ]
        if any(value is None for value in values):
            return None
        full, sliced, own = (value.mean for value in values if value is not None)
        return (sliced - own) / (sliced - full) if sliced > _LOST * full else None

    def tuned_variants(self, downstream: DownstreamOptions) -> list[Variant]:
        """Return the variants that were fine-tuned on a dataset."""
        full = [Variant("full", None)] if "full" in downstream.strategies else []
        cut = [strategy for strategy in downstream.strategies if strategy != "full"]
        return full + [Variant(strategy, blocks) for blocks in self.options.blocks for strategy in cut]

    def tuned(self, downstream: DownstreamOptions, variant: Variant) -> Spread | None:
        """Return the test error (validation error without a test set) after fine-tuning, in milli-units, over seeds."""
        found = self._found(self._tune_cells(downstream, variant))
        rows = [self._row(result, downstream.target) for result in found]
        errors = [row["test"] or row["after"] for row in rows if row]
        return Spread.of(error["mae"] * MILLI for error in errors if error)

    def curves(self, downstream: DownstreamOptions) -> list[Curve]:
        """Return validation error against training time of every fine-tuning of the first seed."""
        curves = []
        for variant in self.tuned_variants(downstream):
            for result in self._found(list(self._tune_cells(downstream, variant))[:1]):
                rows = _metrics(self.board.folder / result["run"] / "metrics.csv")
                name = f"{downstream.name}/{downstream.target}/mae"
                shown = [(float(row["seconds"]), float(row[name])) for row in rows if row.get(name)]
                curves.append(Curve(variant, [at for at, _ in shown], [error * MILLI for _, error in shown]))
        return curves

    @property
    def relevance(self) -> dict[str, Any] | None:
        """What the relevance cell found."""
        return self.board.result(Cell("relevance"))

    @property
    def speed(self) -> dict[str, Any] | None:
        """What the efficiency cell found."""
        return self.board.result(Cell("speed"))

    def parameters(self, variant: Variant) -> int | None:
        """Return the number of weights of a variant."""
        kind: Kind = "distill" if variant.strategy == "distilled" else "reduce"
        found = self._found(Cell(kind, variant.strategy, variant.blocks, seed) for seed in self.options.seeds)
        return int(found[0]["parameters"]) if found else None

    def _tune_cells(self, downstream: DownstreamOptions, variant: Variant) -> Iterable[Cell]:
        return (Cell("tune", variant.strategy, variant.blocks, seed, downstream.name) for seed in self.options.seeds)

    def _found(self, cells: Iterable[Cell]) -> list[dict[str, Any]]:
        names = {cell.name: cell for cell in cells}
        return [result for cell in names.values() if (result := self.board.result(cell)) is not None]

    def _row(self, result: dict[str, Any], target: str) -> dict[str, Any] | None:
        path = self.board.folder / result["run"] / "summary.json"
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return next((row for row in rows if row["target"] == target), None)


def _metrics(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
