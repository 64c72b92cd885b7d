"""What fewer blocks gain: a model and its cuts timed on well-known structures, as in the paper's Table 2."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
from ase import Atoms
from rich.console import Console, ConsoleOptions, RenderResult

from atomslim.atoms import from_ase
from atomslim.errors import ConfigError
from atomslim.files import atomic_write
from atomslim.measure.machine import machine
from atomslim.measure.page import TextTable, number
from atomslim.measure.passes import Job, Mode, Precision
from atomslim.measure.speed import Speed, measure_jobs
from atomslim.measure.stages import stage_seconds
from atomslim.measure.structures import oxide, structure
from atomslim.models.block_model import BlockModel
from atomslim.models.checkpoint import load

CONVENTION = (
    "FLOPs are those of matrix products, multiply and add counted as two, for one structure. Times are medians over "
    "repeats in which the rows of a table take turns. structures/s includes building the graphs; a step is one "
    "structure as in molecular dynamics: with a new search for pairs, and on pairs found before. × floor compares the "
    "pass with its FLOPs at the measured rate of the model's largest dense layer. energy: without forces; forces: "
    "everything the task has; train: prediction, loss and gradients, without the optimiser. Speed-up: in structures/s, "
    "against the first row of the same mode and precision. Cut models are sliced: only their cost is measured."
)

SMALLEST_CELL = 64
"""Atoms of the first of the growing cells."""


@dataclass(frozen=True)
class Row:
    """One kind of pass of one cut on one structure."""

    structure: str
    blocks: int
    parameters: int
    mode: Mode
    precision: Precision
    speed: Speed
    """Of a batch of copies of the structure."""
    step: Speed
    """Of the structure alone."""
    stages: dict[str, float]
    """Share of the pass's time by kind of part; without the graphs."""

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {**asdict(self), "speed": self.speed.as_dict(), "step": self.step.as_dict()}


@dataclass(frozen=True)
class Benchmark:
    """Costs of a model and its cuts."""

    task: str
    machine: str
    rows: tuple[Row, ...]
    growth: tuple[Speed, ...]
    """Of growing cells of MgO, with the first kind of pass."""
    notes: tuple[str, ...]
    """What was left out, and why."""

    @property
    def exponent(self) -> float | None:
        """The power of the number of atoms that time grows with; None without growing cells."""
        if len(self.growth) < 2:
            return None
        atoms = [cell.atoms for cell in self.growth]
        seconds = [cell.seconds + cell.graph_seconds for cell in self.growth]
        return float(np.polyfit(np.log(atoms), np.log(seconds), 1)[0])

    def tables(self) -> list[TextTable]:
        """Return costs and shares of time for each structure, and the growing cells, as tables of texts."""
        made = []
        for name, rows in groupby(self.rows, key=lambda row: row.structure):
            made += [_costs(name, list(rows))]
        made += [_stages(self.rows)]
        return made + ([self._growth()] if self.growth else [])

    def words(self) -> Iterator[str]:
        """Say on what was measured, what was left out, and how cost grows."""
        yield f"Task {self.task}, on {self.machine}."
        yield from self.notes
        if self.exponent is not None:
            sizes = f"{self.growth[0].atoms} to {self.growth[-1].atoms} atoms"
            yield f"From {sizes}, time grows with the power {self.exponent:.2f} of the number of atoms (1 is linear)."

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {
            "task": self.task,
            "machine": self.machine,
            "conventions": CONVENTION,
            "notes": list(self.notes),
            "rows": [row.as_dict() for row in self.rows],
            "growth": {"cells": [cell.as_dict() for cell in self.growth], "exponent": self.exponent},
        }

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write benchmark.json and benchmark.md into a folder, which is made if need be."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        parts = [" ".join(self.words()) + "\n", *(table.markdown() for table in self.tables()), CONVENTION + "\n"]
        content = json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"
        for name, text in (("benchmark.json", content), ("benchmark.md", "\n".join(parts))):
            with atomic_write(place / name) as temporary:
                temporary.write_text(text, encoding="utf-8")

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


def benchmark(  # noqa: PLR0913 - what is measured, and how
    model: BlockModel | str | os.PathLike[str],
    structures: Sequence[str] | Mapping[str, Atoms] = ("mof5",),
    *,
    task: str | None = None,
    blocks: Sequence[int] | None = None,
    modes: Sequence[str] | None = None,
    precisions: Sequence[str] = ("32",),
    batch_size: int = 1,
    repeats: int = 5,
    growing: int | None = None,
) -> Benchmark:
    """Measure what a model and its first blocks cost.

    Args:
        model: a model or its file.
        structures: names of built-in structures (mof5, aspirin, slab, water) or files, or structures by name.
        task: name of the task head; needed where the model has several.
        blocks: numbers of blocks to keep, from the first; default: all.
        modes: ``energy``, ``forces``, ``train``; default: forces, or energy for a task without forces.
        precisions: ``32``, ``bf16``.
        batch_size: copies of the structure at once, for structures per second.
        repeats: of the times.
        growing: also measure cells of MgO, growing from 64 atoms up to so many.

    A pass that a task does not allow, such as bf16 with conservative forces, is left out with a note.

    Raises:
        ConfigError: a number, mode or precision that makes no sense, or nothing left to measure.
        CheckpointError: a model file that cannot be read.

    """
    whole = model if isinstance(model, BlockModel) else load(model)
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: give the number of structures to take at once, 1 or more")
    chosen = structures if isinstance(structures, Mapping) else {name: structure(name) for name in structures}
    if not chosen:
        raise ConfigError("no structures to measure on: name one")
    name = whole.task(task).name
    if modes is None:
        modes = ["energy" if Job(whole, name, "forces").problem() else "forces"]
    jobs, notes = _jobs(_cuts(whole, blocks), name, modes, precisions)
    rows = [row for label, atoms in chosen.items() for row in _rows(label, atoms, jobs, batch_size, repeats)]
    first = next(iter(jobs.values()))
    growth = () if growing is None else tuple(_grow(first, growing, repeats))
    return Benchmark(name, machine(first.device), tuple(rows), growth, tuple(notes))


def _cuts(model: BlockModel, blocks: Sequence[int] | None) -> dict[int, BlockModel]:
    """Return the model cut to each number of blocks."""
    wrong = [count for count in blocks or () if not 0 <= count <= model.num_blocks]
    if wrong:
        raise ConfigError(f"{wrong[0]} blocks: the model has {model.num_blocks}")
    counts = [model.num_blocks] if blocks is None else blocks
    return {n: model if n == model.num_blocks else model.with_blocks(range(1, n + 1)) for n in counts}


_Key = tuple[Mode, Precision, int]


def _jobs(
    cuts: Mapping[int, BlockModel], task: str, modes: Sequence[str], precisions: Sequence[str]
) -> tuple[dict[_Key, Job], list[str]]:
    """Return the passes that the task allows, and why others are left out."""
    _require_known("mode", modes, get_args(Mode))
    _require_known("precision", precisions, get_args(Precision))
    jobs: dict[_Key, Job] = {}
    notes: list[str] = []
    for mode, precision in product(modes, precisions):
        these = {n: Job(model, task, mode, precision) for n, model in cuts.items()}  # type: ignore[arg-type]
        problem = next((job.problem() for job in these.values()), None)
        if problem:
            notes.append(f"{mode} in {precision} is left out: {problem}.")
        else:
            jobs |= {(job.mode, job.precision, n): job for n, job in these.items()}
    if not jobs:
        raise ConfigError(f"nothing to measure: {' '.join(notes) or 'name modes, precisions and blocks'}")
    return jobs, notes


def _require_known(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for one in given:
        if one not in known:
            raise ConfigError(f"{what} {one!r}: choose from {', '.join(known)}")


def _rows(name: str, atoms: Atoms, jobs: Mapping[_Key, Job], batch_size: int, repeats: int) -> Iterator[Row]:
    alone = measure_jobs(jobs, [atoms], repeats=repeats)
    together = alone if batch_size == 1 else measure_jobs(jobs, [atoms] * batch_size, repeats=repeats)
    for (mode, precision, blocks), job in jobs.items():
        key: _Key = (mode, precision, blocks)
        yield Row(
            structure=name,
            blocks=blocks,
            parameters=sum(weight.numel() for weight in job.model.parameters()),
            mode=mode,
            precision=precision,
            speed=together[key],
            step=alone[key],
            stages=_shares(job, atoms),
        )


def _shares(job: Job, atoms: Atoms) -> dict[str, float]:
    batch = from_ase(atoms).to(job.device)
    seconds = stage_seconds(job.model, job.on(batch, job.model.topology(batch, job.task)), job.device)
    total = sum(seconds.values())
    return {stage: part / total for stage, part in seconds.items()}


def _grow(job: Job, limit: int, repeats: int) -> Iterator[Speed]:
    if limit < 2 * SMALLEST_CELL:
        raise ConfigError(f"growing cells up to {limit} atoms: give {2 * SMALLEST_CELL} or more")
    size = SMALLEST_CELL
    while size <= limit:
        yield measure_jobs({"": job}, [oxide(size)], repeats=repeats)[""]
        size *= 2


def _costs(name: str, rows: Sequence[Row]) -> TextTable:
    first = rows[0].speed
    note = f"{rows[0].step.atoms} atoms, {rows[0].step.edges} edges; batches of {first.structures}."
    columns: tuple[str, ...] = ("blocks", "mode", "precision", "M parameters", "GFLOPs")
    columns += ("structures/s", "atoms/s", "speed-up")
    columns += ("step, new pairs / ms", "step, old pairs / ms", "× floor", "peak / MiB")
    reference: dict[tuple[Mode, Precision], Speed] = {}
    cells = []
    for row in rows:
        base = reference.setdefault((row.mode, row.precision), row.speed)
        numbers = [row.parameters / 1e6, row.speed.flops / 1e9, row.speed.throughput]
        numbers += [row.speed.throughput * row.speed.atoms / row.speed.structures]
        steps = [row.step.seconds + graphs for graphs in (row.step.graph_seconds, row.step.reuse_seconds)]
        cells.append(
            (
                *(str(row.blocks), row.mode, row.precision, *map(number, numbers)),
                f"{row.speed.throughput / base.throughput:.2f} ×",
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
