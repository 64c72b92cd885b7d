"""The result of scoring blocks: numbers, a table, a figure like the paper's Fig. 2, and how well rankings agree."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from atomslim.compress.block_scores import SCORES, BlockScores, Numbers, Score, TaskRelevance
from atomslim.files import atomic_files, atomic_write
from atomslim.report.cells import plain_row
from atomslim.report.shown import Shown

FILES = ("relevance.json", "relevance.csv", "relevance.png")
"""What is written."""


@dataclass(frozen=True, repr=False)
class Relevance(Shown, BlockScores):
    """Scores of a model's blocks on one or more tasks, to print, plot and write."""

    def lowest(self, count: int, name: str = "gradcam") -> tuple[int, ...]:
        """Return the interaction blocks that matter least by a score, as numbers of the original model, ascending."""
        order = np.argsort(self.mix(name)[1:], kind="stable")[:count]
        return tuple(sorted(self.blocks[1 + int(index)] for index in order))

    @property
    def agreement(self) -> Numbers:
        """Spearman's rank correlations of the scores of the interaction blocks over the mix, (scores, scores)."""
        ranks = [_ranks(self.mix(name)[1:]) for name in self.scores]
        return np.array([[_correlation(one, two) for two in ranks] for one in ranks])

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers; what is not a number is null."""
        return {
            "blocks": list(self.blocks),
            "mix": {name: _plain(self.mix(name)) for name in self.scores},
            "agreement": {"scores": list(self.scores), "spearman": [_plain(row) for row in self.agreement]},
            "tasks": {name: _task_dict(task) for name, task in self.tasks.items()},
            **({"units": self._units_dict()} if self.units else {}),
        }

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the scores as bars, like the paper's Fig. 2, into a .png, .pdf or .svg file."""
        from atomslim.compress.relevance_figure import draw  # noqa: PLC0415 - matplotlib takes half a second

        with atomic_write(path) as temporary:
            draw(self).savefig(temporary, format=Path(path).suffix.lstrip(".") or "png", dpi=150)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write relevance.json, relevance.csv and relevance.png into a folder, which is made if necessary."""
        from atomslim.compress.relevance_figure import draw  # noqa: PLC0415 - as above

        header = ["block or unit", *(f"{name}, mix" for name in self.scores), *self._task_columns()]
        rows = [[self._block_name(block), *self._cells(number)] for number, block in enumerate(self.blocks)]
        rows += [[unit, *self._unit_cells(number)] for number, unit in enumerate(self.units)]
        with atomic_files(folder, FILES) as temporary:
            temporary["relevance.json"].write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
            with temporary["relevance.csv"].open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(map(plain_row, [header, *rows]))
            draw(self).savefig(temporary["relevance.png"], format="png", dpi=150)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show the mix and each task as tables, and summarise them."""
        del console, options
        yield "Relevance of each block (fractions of the sum over blocks; leave-out: relative change of the errors)"
        table = Table("block", *(f"{SCORES[name]}, mix" for name in self.scores), *self._task_columns())
        for index, block in enumerate(self.blocks):
            table.add_row(self._block_name(block), *self._cells(index))
        yield table
        if self.unit_scores:
            yield "Finer units (fractions of the sum over blocks, in addition to theirs)"
            finer = Table("unit", *(f"{SCORES[name]}, mix" for name in self.unit_scores))
            for index, unit in enumerate(self.units):
                finer.add_row(unit, *(_cell(self.unit_mix(name)[index]) for name in self.unit_scores))
            yield finer
        yield from self.words()

    def words(self) -> Iterator[str]:
        """Say which blocks matter least by each score, and how well the scores agree."""
        for name in self.scores:
            least = self.lowest(1, name)
            if least:
                yield f"By {SCORES[name]}, block {least[0]} matters least."
        for name in self.unit_scores:
            scores = self.unit_mix(name)
            if not np.isnan(scores).all():
                yield f"By {SCORES[name]}, {self.units[int(np.nanargmin(scores))]} matters least among the finer units."
        if len(self.blocks) > 2:
            for index, name in enumerate(self.scores[1:], start=1):
                yield f"Rank correlation of {SCORES[name]} with GradCAM: {self.agreement[0, index]:+.2f}"

    def parts(self) -> Iterator[str]:
        """Give the figure and the table of scores."""
        from atomslim.compress.relevance_figure import draw  # noqa: PLC0415 - as above
        from atomslim.report.page import TextTable, picture  # noqa: PLC0415 - as above

        yield picture(draw(self), "Fractions of the sum over blocks.")
        columns = ("block", *(f"{SCORES[name]}, mix" for name in self.scores), *self._task_columns())
        rows = tuple((self._block_name(block), *self._cells(index)) for index, block in enumerate(self.blocks))
        yield TextTable("", "", columns, rows).body()

    def _task_columns(self) -> list[str]:
        return [f"{task}, {branch}" for task, scores in self.tasks.items() for branch in scores.gradcam]

    def _cells(self, index: int) -> list[str]:
        mix = [self.mix(name)[index] for name in self.scores]
        cells = [_cell(value) for value in mix]
        for scores in self.tasks.values():
            for score in scores.gradcam.values():
                share = score.normalised
                spread = "" if np.isnan(share.deviation[index]) else f" ± {share.deviation[index]:.3f}"
                cells.append(f"{share.mean[index]:.3f}{spread}")
        return cells

    def _unit_cells(self, index: int) -> list[str]:
        return [_cell(self.unit_mix(name)[index]) if name in self.unit_scores else "" for name in self.scores]

    def _units_dict(self) -> dict[str, Any]:
        return {"names": list(self.units), "mix": {name: _plain(self.unit_mix(name)) for name in self.unit_scores}}

    @staticmethod
    def _block_name(block: int) -> str:
        return "embedding" if block == 0 else str(block)


def _task_dict(task: TaskRelevance) -> dict[str, Any]:
    scores = {
        name: {branch: _score_dict(score) for branch, score in getattr(task, name).items()}
        for name in ("gradcam", "taylor", "influence")
    }
    return {
        "structures": task.structures,
        "data": task.data,
        **scores,
        "errors": {name: vars(error) for name, error in task.errors.items()},
        "left out": {name: _plain(change) for name, change in task.left_out.items()},
        "units": {name: _score_dict(score) for name, score in task.units.items()},
        "units left out": {name: _plain(change) for name, change in task.units_left_out.items()},
    }


def _score_dict(score: Score) -> dict[str, Any]:
    return {"mean": _plain(score.mean), "deviation": _plain(score.deviation), "batches": score.batches}


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _plain(values: Numbers) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _ranks(values: Numbers) -> Numbers:
    """Return ranks from 0; equal values share their mean rank."""
    order = np.searchsorted(np.sort(values), values, side="left") + np.searchsorted(
        np.sort(values), values, side="right"
    )
    ranks: Numbers = (order - 1) / 2
    return ranks


def _correlation(one: Numbers, two: Numbers) -> float:
    one, two = one - one.mean(), two - two.mean()
    size = float(np.sqrt((one**2).sum() * (two**2).sum()))
    return float((one * two).sum()) / size if size else float("nan")
