"""What fewer blocks gain: a model and its pruned versions timed on well-known structures, as in the paper's Table 2."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import get_args

from ase import Atoms

from atomslim.arguments import checked
from atomslim.atoms import from_ase
from atomslim.benchmarking.costs import Benchmark, Row
from atomslim.benchmarking.largest import Largest, largest_cell, require_free
from atomslim.benchmarking.machine import machine
from atomslim.benchmarking.passes import Job, Mode
from atomslim.benchmarking.speed import Speed, measure_jobs
from atomslim.benchmarking.stages import stage_seconds
from atomslim.benchmarking.structures import oxide, structure
from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load
from atomslim.models.modes import parameter_count
from atomslim.models.precision import DEFAULT, Format, Precision
from atomslim.progress import tracked

SMALLEST_CELL = 64
"""Atoms of the first of the growing cells."""


@checked
def benchmark(  # noqa: PLR0913 - what is measured, and how
    model: BlockModel | str | os.PathLike[str],
    structures: Sequence[str] | Mapping[str, Atoms] = ("mof5",),
    *,
    task: str | None = None,
    blocks: Sequence[int] | None = None,
    modes: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    batch_size: int = 1,
    repeats: int = 10,
    growing: int | None = None,
    largest: int | None = None,
) -> Benchmark:
    """Measure what a model and its first blocks cost.

    Args:
        model: a model or its file.
        structures: names of built-in structures (mof5, aspirin, slab, water) or files, or structures by name.
        task: the task to use; needed if the model has several.
        blocks: numbers of blocks to keep, from the first; default: all.
        modes: ``energy``, ``forces``, ``train``; default: forces, or energy for a task without forces.
        precisions: ``highest``, ``high``, ``fast``, or number formats, ``fp32``, ``tf32``, ``bf16``, ``fp16``; default:
            the model's.
        batch_size: copies of the structure at once, for structures per second.
        repeats: minimum number of timing rounds; short runs are repeated until they fill a second.
        growing: also measure cells of MgO, growing from 64 atoms up to so many.
        largest: also find the largest cell of MgO whose pass takes no more than so many bytes.

    A pass that a task or the device does not allow, such as tf32 on a CPU, is left out with a note.

    Raises:
        ConfigError: an invalid number, mode or precision, or nothing left to measure.
        CheckpointError: a model file that cannot be read.

    """
    whole = model if isinstance(model, BlockModel) else load(model)
    if largest is not None:
        require_free(largest, next(whole.parameters()).device)
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: give the number of structures to take at once, 1 or more")
    chosen = structures if isinstance(structures, Mapping) else {name: structure(name) for name in structures}
    if not chosen:
        raise ConfigError("no structures to measure on: name one")
    name = whole.task(task).name
    if modes is None:
        modes = ["energy" if Job(whole, name, "forces").problem() else "forces"]
    chosen_precisions = [whole.precision or DEFAULT] if precisions is None else precisions
    jobs, notes = _jobs(_cuts(whole, blocks), name, modes, chosen_precisions)
    measured = tracked(chosen.items(), "benchmark", len(chosen))
    rows = [row for label, atoms in measured for row in _rows(label, atoms, jobs, batch_size, repeats)]
    first = next(iter(jobs.values()))
    growth = () if growing is None else tuple(_grow(first, growing, repeats))
    cells = () if largest is None else tuple(_largest(jobs, largest))
    return Benchmark(name, machine(first.device), tuple(rows), growth, tuple(notes), cells)


def _cuts(model: BlockModel, blocks: Sequence[int] | None) -> dict[int, BlockModel]:
    """Return the model cut to each number of blocks."""
    wrong = [count for count in blocks or () if not 0 <= count <= model.num_blocks]
    if wrong:
        raise ConfigError(f"{wrong[0]} blocks: the model has {model.num_blocks}")
    counts = [model.num_blocks] if blocks is None else blocks
    return {n: model if n == model.num_blocks else model.with_blocks(range(1, n + 1)) for n in counts}


_Key = tuple[Mode, Format, int]


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
            jobs |= {(job.mode, job.format, n): job for n, job in these.items()}
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
    for key, job in jobs.items():
        mode, precision, blocks = key
        yield Row(
            structure=name,
            blocks=blocks,
            parameters=parameter_count(job.model),
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


def _largest(jobs: Mapping[_Key, Job], limit: int) -> Iterator[Largest]:
    for (mode, precision, blocks), job in jobs.items():
        yield Largest(blocks, mode, precision, limit, largest_cell(job, limit))
