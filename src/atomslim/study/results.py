"""The results of a study, gathered from its cells: errors by strategy, blocks and seed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import geometric_mean, mean, stdev
from typing import Any, Literal

from atomslim.benchmarking.turns import Gain
from atomslim.report.page import number
from atomslim.study.cells import Cell, Kind
from atomslim.study.options import DISTILLED, DownstreamOptions, Strategy, StudyOptions, is_for
from atomslim.study.runner import Board

MILLI = 1000.0

FULL = "full"

MEASURES = ("1 − ROC-AUC", "log loss")
"""Metrics of binary labels, used where units would be."""

_LOST = 1.01
"""If slicing adds less than a hundredth to the error, there is nothing to recover."""

_NO_BETTER = 0.98
"""Fraction of the error of predicting the mean above which a model is no better than that."""


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
        """Write it with three significant digits, and the deviation."""
        return number(self.mean) if self.deviation is None else f"{number(self.mean)} ± {number(self.deviation, 2)}"


@dataclass(frozen=True)
class Variant:
    """One way to make the model smaller, by blocks or finer units; with none, the full model."""

    strategy: Strategy
    blocks: int | None
    without: str = ""
    cutoff: float | None = None

    @property
    def cut(self) -> tuple[int | None, str, float | None]:
        """What is left out, whatever the strategy; the same for the full model alone."""
        return self.blocks, self.without, self.cutoff

    @property
    def sliced(self) -> "Variant":
        """The same cut, neither fitted nor trained."""
        return replace(self, strategy="sliced")


FULL_MODEL = Variant("full", None)


@dataclass(frozen=True)
class Curve:
    """Validation error against seconds or steps of training."""

    variant: Variant
    used: list[float]
    errors: list[float]


class Results:
    """The results of all finished cells of a study.

    Errors of energies and forces are in milli-units (meV, meV/Å), others in the dataset's units.
    """

    def __init__(self, board: Board, options: StudyOptions) -> None:
        self.board, self.options = board, options

    @property
    def tasks(self) -> list[str]:
        """The pre-training tasks."""
        return [task.name for task in self.options.mix]

    @property
    def blocks(self) -> int | None:
        """Blocks of the full model, if the relevance or the efficiency cell has counted them."""
        if self.relevance is not None:
            return len(self.relevance["blocks"]) - 1
        return None if self.speed is None else max(map(int, self.speed["models"]))

    @property
    def variants(self) -> list[Variant]:
        """The full model and every cut of it, as in the pre-training table."""
        return [FULL_MODEL, *self._of_blocks(self._strategies), *self.finer]

    @property
    def finer(self) -> list[Variant]:
        """Cuts by what they leave out, with the strategies that apply; shorter cutoffs are not re-aligned."""
        return self._finer_by(self._strategies, self.options.of_cutoffs)

    def _finer_by(self, strategies: Sequence[Strategy], of_cutoffs: Sequence[Strategy]) -> list[Variant]:
        cuts = [Variant(one, None, cut) for cut in self.options.without for one in strategies if is_for(one, cut)]
        return cuts + [Variant(one, None, cutoff=cutoff) for cutoff in self.options.cutoffs for one in of_cutoffs]

    def _of_blocks(self, strategies: Sequence[Strategy]) -> list[Variant]:
        return [Variant(one, blocks) for blocks in self.options.blocks for one in strategies if is_for(one, "")]

    @property
    def _strategies(self) -> list[Strategy]:
        distilled = () if self.options.distill is None else self.options.distill.strategies
        return [*self.options.realign, *distilled]

    def reduced(self, variant: Variant, task: str, target: str = "forces") -> Spread | None:
        """Return the validation error of a variant on a pre-training task over seeds."""
        errors = [result["errors"].get(task, {}).get(target) for result in self._reduced(variant)]
        return _spread(error for error in errors if error)

    def learned(self, variant: Variant, task: str) -> Curve:
        """Return a student's validation error of forces against steps of distillation, the first seed."""
        found = self._reduced(variant)[:1]
        rows = [row for result in found for row in result.get("curve", ()) if row.get(task) is not None]
        return Curve(variant, [row["step"] for row in rows], [MILLI * row[task] for row in rows])

    def by_structures(self, task: str) -> dict[int, Spread]:
        """Return the best validation error of forces in distillation by number of training structures, over seeds."""
        counts = () if self.options.distill is None else self.options.distill.structures
        strategy, blocks, cut = self.options.learning_curve
        found: dict[int, Spread] = {}
        for count in counts:
            cells = [Cell("distill", strategy, blocks, seed, "", cut, None, count) for seed in self.options.seeds]
            rows = [[row[task] for row in result["curve"] if row.get(task)] for result in self._found(cells)]
            spread = Spread.of(MILLI * min(errors) for errors in rows if errors)
            found |= {} if spread is None else {count: spread}
        return found

    def no_forces(self, task: str) -> float | None:
        """Return the error of predicting no forces against what validation in distillation compares with (meV/Å)."""
        students = [one for one in self.variants if one.strategy in DISTILLED.values()]
        known = (result.get("nothing", {}).get(task) for one in students for result in self._reduced(one)[:1])
        return next((MILLI * value for value in known if value), None)

    def nothing(self, task: str, target: str = "forces") -> Spread | None:
        """Return the validation error of predicting the mean (no forces) on a pre-training task."""
        full = self.board.result(Cell("reduce")) or {}
        return _spread(error for error in [full.get("mean", {}).get(task, {}).get(target)] if error)

    def share(self, variant: Variant, task: str) -> Spread | None:
        """Return the root mean square error of forces in per cent of that of predicting none, over seeds."""
        full = self.board.result(Cell("reduce")) or {}
        none = full.get("mean", {}).get(task, {}).get("forces", {}).get("rmse")
        found = [result["errors"].get(task, {}).get("forces") for result in self._reduced(variant)]
        return Spread.of(100 * error["rmse"] / none for error in found if error) if none else None

    def growth(self, variant: Variant) -> float | None:
        """Return a variant's force error relative to the full model's: the geometric mean over tasks."""
        pairs = [(self.reduced(FULL_MODEL, task), self.reduced(variant, task)) for task in self.tasks]
        ratios = [own.mean / full.mean for full, own in pairs if full is not None and own is not None and full.mean]
        return geometric_mean(ratios) if ratios else None

    def recovered(self, variant: Variant, task: str) -> float | None:
        """Return the fraction of the loss from slicing that a variant recovers: 1 for the full model, 0 if sliced."""
        values = [self.reduced(one, task) for one in (FULL_MODEL, variant.sliced, variant)]
        if any(value is None for value in values):
            return None
        full, sliced, own = (value.mean for value in values if value is not None)
        return (sliced - own) / (sliced - full) if sliced > _LOST * full else None

    def tuned_variants(self, downstream: DownstreamOptions) -> list[Variant]:
        """Return the variants that were fine-tuned on a dataset."""
        full = [FULL_MODEL] if FULL in downstream.strategies else []
        cut = [strategy for strategy in downstream.strategies if strategy != FULL]
        finer = self._finer_by(cut, [strategy for strategy in cut if strategy in self.options.of_cutoffs])
        return [*full, *self._of_blocks(cut), *finer]

    def tuned(self, downstream: DownstreamOptions, variant: Variant) -> Spread | None:
        """Return the best model's test error (validation error without a test set) after fine-tuning, over seeds."""
        found = self._found(self._tune_cells(downstream, variant))
        return _spread(error for result in found if (error := result["errors"].get(downstream.target)))

    def steps(self, downstream: DownstreamOptions, variant: Variant) -> list[int]:
        """Return the steps of a variant's runs of fine-tuning, by seed."""
        return [
            int(result["steps"]) for result in self._found(self._tune_cells(downstream, variant)) if "steps" in result
        ]

    def unit(self, downstream: DownstreamOptions) -> str:
        """Return the displayed unit of a dataset's errors; empty while nothing is finished."""
        return next((_shown_unit(error["unit"]) for error in self._tuned_errors(downstream)), "")

    def quantity(self, downstream: DownstreamOptions) -> str:
        """Name a dataset's error: the target with its unit, or the metric of binary labels."""
        unit = self.unit(downstream)
        return f"{unit}, {downstream.target}" if unit in MEASURES else f"MAE, {downstream.target} ({unit})"

    def mean_baseline(self, downstream: DownstreamOptions) -> float | None:
        """Return the validation error of predicting the mean; None while nothing is finished."""
        known = (error for error in self._tuned_errors(downstream) if error.get("mean") is not None)
        return next((float(error["mean"] * _factor(error["unit"])) for error in known), None)

    def nothing_learned(self, downstream: DownstreamOptions) -> bool:
        """Say whether no model is clearly better than predicting the mean, both on the validation set."""
        known = [error for error in self._tuned_errors(downstream) if error.get("mean") is not None]
        return bool(known) and all(error["validation"] > _NO_BETTER * error["mean"] for error in known)

    @staticmethod
    def axis(downstream: DownstreamOptions) -> Literal["seconds", "step"]:
        """Name the budget of a dataset's fine-tuning: wall-clock time, or steps, which are machine-independent."""
        return "seconds" if downstream.finetune.get("budget") else "step"

    def curves(self, downstream: DownstreamOptions) -> list[Curve]:
        """Return validation error against what was budgeted, of every fine-tuning of the first seed."""
        curves = []
        for variant in self.tuned_variants(downstream):
            for result in self._found(list(self._tune_cells(downstream, variant))[:1]):
                factor = _factor(result["errors"].get(downstream.target, {}).get("unit", ""))
                known = {downstream.target, self.axis(downstream)}
                rows = [row for row in result["curve"] if all(row.get(name) is not None for name in known)]
                errors = [row[downstream.target] * factor for row in rows]
                curves.append(Curve(variant, [row[self.axis(downstream)] for row in rows], errors))
        return curves

    @property
    def relevance(self) -> dict[str, Any] | None:
        """The result of the relevance cell."""
        return self.board.result(Cell("relevance"))

    @property
    def sample(self) -> dict[str, Any] | None:
        """One validation structure: its task, and its atoms as arguments of `ase.Atoms`."""
        full = self.board.result(Cell("reduce"))
        return None if full is None else full.get("sample")

    @property
    def speed(self) -> dict[str, Any] | None:
        """The result of the efficiency cell."""
        return self.board.result(Cell("speed"))

    @property
    def speed_up(self) -> dict[int, Gain]:
        """Return speed-ups over the full model, by blocks."""
        rows = {} if self.speed is None else self.speed["models"]
        return {int(blocks): Gain.read(row["speed-up"]) for blocks, row in rows.items() if "speed-up" in row}

    def gain(self, variant: Variant) -> Gain | None:
        """Return the speed-up of a variant over the full model."""
        return self.speed_up.get(variant.blocks) if variant.blocks is not None else self.finer_speed_up(variant)

    def finer_speed_up(self, variant: Variant) -> Gain | None:
        """Return the speed-up of a cut finer than blocks over the full model."""
        rows = {} if self.speed is None else self.speed.get("finer", {})
        row = rows.get(variant.without or str(variant.cutoff))
        return None if row is None else Gain.read(row["speed-up"])

    def parameters(self, variant: Variant) -> int | None:
        """Return the number of weights of a variant before any fine-tuning."""
        found = self._reduced(variant)
        return int(found[0]["parameters"]) if found else None

    def physics(self, variant: Variant) -> dict[str, str]:
        """Return the outcomes of a variant's physics checks, by check; empty until they are made."""
        seed = 0 if variant == FULL_MODEL else self.options.seeds[0]
        cell = Cell("validate", variant.strategy, variant.blocks, seed, without=variant.without, cutoff=variant.cutoff)
        found = self.board.result(cell) or {}
        return dict(found.get("outcomes", {}))

    def _reduced(self, variant: Variant) -> list[dict[str, Any]]:
        kind: Kind = "distill" if variant.strategy in DISTILLED.values() else "reduce"
        return self._found(
            Cell(kind, variant.strategy, variant.blocks, seed, without=variant.without, cutoff=variant.cutoff)
            for seed in self.options.seeds
        )

    def _tuned_errors(self, downstream: DownstreamOptions) -> list[dict[str, Any]]:
        variants = self.tuned_variants(downstream)
        found = self._found(cell for one in variants for cell in self._tune_cells(downstream, one))
        return [error for result in found if (error := result["errors"].get(downstream.target))]

    def _tune_cells(self, downstream: DownstreamOptions, variant: Variant) -> Sequence[Cell]:
        blocks, without, cutoff = variant.cut
        return [
            Cell("tune", variant.strategy, blocks, seed, downstream.name, without=without, cutoff=cutoff)
            for seed in self.options.seeds
        ]

    def _found(self, cells: Iterable[Cell]) -> list[dict[str, Any]]:
        names = {cell.name: cell for cell in cells}
        return [result for cell in names.values() if (result := self.board.result(cell)) is not None]


def _spread(errors: Iterable[dict[str, Any]]) -> Spread | None:
    return Spread.of(error["mae"] * _factor(error["unit"]) for error in errors)


def _factor(unit: str) -> float:
    return MILLI if unit.startswith("eV") else 1.0


def _shown_unit(unit: str) -> str:
    return f"m{unit}" if unit.startswith("eV") else unit
