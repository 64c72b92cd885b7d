"""Costs of a model and its cuts, as tables: what `atomslim benchmark` shows and writes."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult

from atomslim.benchmarking.largest import Largest
from atomslim.benchmarking.passes import Mode
from atomslim.benchmarking.speed import Speed
from atomslim.benchmarking.turns import BUSY, Gain
from atomslim.files import atomic_files
from atomslim.models.precision import Format
from atomslim.report.page import TextTable, number
from atomslim.report.shown import Shown

FILES = ("benchmark.json", "benchmark.md")
"""What is written."""

CONVENTION = (
    "FLOPs are those of matrix products, multiply and add counted as two, for one structure. Times are the shortest of "
    "many repeats in which the rows of a table take turns; ± is half the interquartile range of the pass. structures/s "
    "includes building the graphs; a step is one structure as in molecular dynamics: with a new search for pairs, and "
    "on pairs found before. × floor compares the pass with its FLOPs at the measured rate of the model's largest dense "
    "layer. energy: without forces; forces: everything the task has; train: prediction, loss, gradients, clipping and "
    "AdamW, whose state the peak leaves out. Speed-up: of graphs and pass, against the first row of the same mode and "
    "precision, the median of the rounds' ratios with its spread; unclear where that exceeds ± 15 %. Cut models are "
    "sliced: only their cost is measured."
)


@dataclass(frozen=True)
class Row:
    """One kind of pass of one cut on one structure."""

    structure: str
    blocks: int
    parameters: int
    mode: Mode
    precision: Format
    speed: Speed
    """Of a batch of copies of the structure."""
    step: Speed
    """Of the structure alone."""
    stages: dict[str, float]
    """Fraction of the pass's time by kind of module; without the graphs."""

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {**asdict(self), "speed": self.speed.as_dict(), "step": self.step.as_dict()}


@dataclass(frozen=True, repr=False)
class Benchmark(Shown):
    """Costs of a model and its cuts."""

    task: str
    machine: str
    rows: tuple[Row, ...]
    growth: tuple[Speed, ...]
    """Of growing cells of MgO, with the first kind of pass."""
    notes: tuple[str, ...]
    """What was left out, and why."""
    largest: tuple[Largest, ...] = ()

    @property
    def exponent(self) -> float | None:
        """Exponent of the growth of time with the number of atoms; None without steady times of growing cells."""
        if len(self.growth) < 2 or not all(cell.steady for cell in self.growth):
            return None
        atoms = [cell.atoms for cell in self.growth]
        seconds = [cell.seconds + cell.graph_seconds for cell in self.growth]
        return float(np.polyfit(np.log(atoms), np.log(seconds), 1)[0])

    def tables(self) -> list[TextTable]:
        """Return costs and shares of time for each structure, and the growing cells, as tables of texts."""
        made = []
        gains = iter(self.gains)
        for name, rows in groupby(self.rows, key=lambda row: row.structure):
            made += [_costs(name, list(rows), gains)]
        made += [_stages(self.rows)]
        made += [self._growth()] if self.growth else []
        return made + ([self._largest()] if self.largest else [])

    def parts(self) -> Iterator[str]:
        """Give the tables."""
        yield from (table.html() for table in self.tables())

    def words(self) -> Iterator[str]:
        """Say on which machine it was measured, what was left out, and how cost grows."""
        yield f"Task {self.task}, on {self.machine}."
        yield from self.notes
        if self.exponent is not None:
            sizes = f"{self.growth[0].atoms} to {self.growth[-1].atoms} atoms"
            yield f"From {sizes}, time grows with the power {self.exponent:.2f} of the number of atoms (1 is linear)."
        elif len(self.growth) > 1:
            yield f"The growth of time with the number of atoms is not reported: {BUSY}."
        unclear = [f"{gain.flops:.2f} ×" for gain in self.gains if not gain.reliable]
        if unclear:
            yield f"{len(unclear)} of {len(self.gains)} speed-ups are not reported: {BUSY}."
            yield f"For them, FLOPs suggest {', '.join(unclear)}."

    @property
    def gains(self) -> list[Gain]:
        """The speed-up of every row, against the first row of the same structure, mode and precision."""
        first: dict[tuple[str, Mode, Format], Speed] = {}
        return [
            row.speed.gain(first.setdefault((row.structure, row.mode, row.precision), row.speed)) for row in self.rows
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        rows = zip(self.rows, self.gains, strict=True)
        return {
            "task": self.task,
            "machine": self.machine,
            "conventions": CONVENTION,
            "notes": list(self.notes),
            "rows": [{**row.as_dict(), "speed-up": gain.as_dict()} for row, gain in rows],
            "growth": {"cells": [cell.as_dict() for cell in self.growth], "exponent": self.exponent},
            "largest": [asdict(one) for one in self.largest],
        }

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write benchmark.json and benchmark.md into a folder, which is made if necessary."""
        parts = [" ".join(self.words()) + "\n", *(table.markdown() for table in self.tables()), CONVENTION + "\n"]
        content = json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"
        with atomic_files(folder, FILES) as temporary:
            for name, text in zip(FILES, (content, "\n".join(parts)), strict=True):
                temporary[name].write_text(text, encoding="utf-8")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show the tables."""
        del console, options
        yield from (table.rich() for table in self.tables())

    def _growth(self) -> TextTable:
        rows = [
            (str(cell.atoms), str(cell.edges), *_times(cell), _memory(cell), number(cell.flops / cell.atoms / 1e9))
            for cell in self.growth
        ]
        columns = ("atoms", "edges", "graphs / ms", "pass / ms", "ms per atom", "peak / MiB", "GFLOPs per atom")
        return TextTable("Growing cells", "Rattled MgO, the first kind of pass.", columns, tuple(rows))

    def _largest(self) -> TextTable:
        rows = []
        for one in self.largest:
            found = ("none", "", "")
            if one.cell is not None:
                memory = "" if one.cell.memory is None else number(one.cell.memory / 2**20)
                found = (str(one.cell.atoms), str(one.cell.edges), memory)
            rows.append((str(one.blocks), one.mode, one.precision, *found))
        columns = ("blocks", "mode", "precision", "atoms", "edges", "peak / MiB")
        limit = number(self.largest[0].limit / 2**20)
        note = f"MgO, to a tenth, with {limit} MiB for graphs and pass (and AdamW's state), weights not counted."
        return TextTable("Largest cell", note, columns, tuple(rows))


def _costs(name: str, rows: Sequence[Row], gains: Iterator[Gain]) -> TextTable:
    first = rows[0].speed
    note = f"{rows[0].step.atoms} atoms, {rows[0].step.edges} edges; batches of {first.structures}."
    columns: tuple[str, ...] = ("blocks", "mode", "precision", "M parameters", "GFLOPs")
    columns += ("structures/s", "±", "atoms/s", "speed-up")
    columns += ("step, new pairs / ms", "step, old pairs / ms", "× floor", "peak / MiB")
    cells = []
    for row in rows:
        numbers = [row.parameters / 1e6, row.speed.flops / 1e9, row.speed.throughput]
        atoms = row.speed.throughput * row.speed.atoms / row.speed.structures
        steps = [row.step.seconds + graphs for graphs in (row.step.graph_seconds, row.step.reuse_seconds)]
        cells.append(
            (
                *(str(row.blocks), row.mode, row.precision, *map(number, numbers)),
                f"{row.speed.spread / row.speed.seconds:.0%}",
                number(atoms),
                str(next(gains)),
                *(number(1e3 * seconds) for seconds in steps),
                "" if row.speed.over_floor is None else f"{row.speed.over_floor:.2f}",
                _memory(row.speed),
            )
        )
    return TextTable(name, note, columns, tuple(cells))


def _stages(rows: Sequence[Row]) -> TextTable:
    stages = list(dict.fromkeys(stage for row in rows for stage in row.stages))
    cells = []
    for row in rows:
        graphs = row.step.graph_seconds / (row.step.seconds + row.step.graph_seconds)
        shares = [graphs, *((1 - graphs) * row.stages.get(stage, 0.0) for stage in stages)]
        cells.append((row.structure, str(row.blocks), row.mode, row.precision, *(f"{share:.0%}" for share in shares)))
    columns = ("structure", "blocks", "mode", "precision", "graphs", *stages)
    return TextTable("Where the time goes", "Shares of a step with a new search for pairs.", columns, tuple(cells))


def _times(cell: Speed) -> tuple[str, str, str]:
    each = (cell.seconds + cell.graph_seconds) / cell.atoms
    return number(1e3 * cell.graph_seconds), number(1e3 * cell.seconds), number(1e3 * each)


def _memory(speed: Speed) -> str:
    return "" if speed.memory is None else number(speed.memory / 2**20)
