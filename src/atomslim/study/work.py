"""The work of a study's cells, in terms of the rest of the package."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from atomslim.atoms import Sample
from atomslim.benchmarking.machine import machine
from atomslim.benchmarking.passes import Job
from atomslim.benchmarking.speed import measure_jobs
from atomslim.benchmarking.structures import structure
from atomslim.compress.cutoff import with_cutoff
from atomslim.compress.prune import keep_blocks
from atomslim.compress.relevance import block_relevance
from atomslim.data.in_memory import opened
from atomslim.errors import ConfigError
from atomslim.evaluation.errors import Errors
from atomslim.models.block_model import BlockModel
from atomslim.models.metadata import checksum
from atomslim.models.model_file import load
from atomslim.models.modes import parameter_count
from atomslim.study.cells import Cell
from atomslim.study.options import FITS, STARTS, DownstreamOptions, StudyOptions, blocks_of, finer_units_of
from atomslim.study.origin import require_same_model
from atomslim.study.outcome import learning, outcome
from atomslim.study.references import with_references
from atomslim.train.distill import distill
from atomslim.train.finetune import finetune
from atomslim.train.options import RunOptions, TaskOptions
from atomslim.train.targets import own_scales, own_targets
from atomslim.train.tasks import LearningTask, on_reference_of_model, prepare_task, spread_over
from atomslim.train.validation import Processes, mean_errors, model_errors
from atomslim.validation.columns import outcomes
from atomslim.validation.run import validate


class Workshop:
    """Computes cells; shared inputs are opened once."""

    def __init__(self, options: StudyOptions, folder: Path) -> None:
        self.options, self.folder = options, folder

    @cached_property
    def device(self) -> torch.device:
        """Device of models; raises ConfigError if a CUDA device is asked for and missing."""
        wanted, there = self.options.accelerator, torch.cuda.is_available()
        if wanted == "gpu" and not there:
            raise ConfigError("accelerator gpu: no CUDA device is available to torch here: use cpu or auto")
        return torch.device("cuda" if there and wanted != "cpu" else "cpu")

    @cached_property
    def full(self) -> BlockModel:
        """The full model, with references for its energies if the options ask for them and the file has none.

        Raises ConfigError if the model has changed since the study started.
        """
        loaded = load(self.options.model_path, device=self.device)
        require_same_model(self.options, self.folder)
        return with_references(loaded, self.options.mix)

    @cached_property
    def tasks(self) -> list[LearningTask]:
        """The pre-training tasks, split as in the options; targets and scales are the model's."""
        return [self._task(options) for options in self.options.mix]

    def samples(self, part: Literal["train", "validation"], count: int) -> dict[str, list[Sample]]:
        """Return structures of every task's set, evenly spaced."""
        return {task.name: spread_over(task.part(part), count) for task in self.tasks}

    def do(self, cell: Cell, cell_folder: Path) -> dict[str, Any]:
        """Compute a cell in its folder and return its result."""
        return getattr(self, f"_{cell.kind}")(cell, cell_folder)

    def _relevance(self, cell: Cell, cell_folder: Path) -> dict[str, Any]:
        del cell
        samples = self.samples("validation", self.options.relevance)
        found = block_relevance(self.full, samples, limit=None, cutoffs=self.options.cutoffs)
        found.plot(cell_folder / "relevance.png")
        return found.as_dict()

    def _reduce(self, cell: Cell, cell_folder: Path) -> dict[str, Any]:
        del cell_folder
        found = self._errors(self._cut(cell))
        return found if cell != Cell("reduce") else {**found, "mean": self._mean_errors(), "sample": self._sample()}

    def _distill(self, cell: Cell, cell_folder: Path) -> dict[str, Any]:
        options = self.options.distill
        if options is None:
            raise ConfigError("the study has no options distill")
        cut = Cell("reduce", STARTS[cell.strategy], cell.blocks, without=cell.without, cutoff=cell.cutoff)
        student = distill(
            self._cut(cut),
            self.full,
            known={"student": self._known(cut), "teacher": self._known(Cell("reduce"))},
            **self._run(cell_folder),
            **{**options.run, "tasks": self._limited(cell.structures), "seed": cell.seed},
        )
        return {**self._errors(student), "run": self._relative(cell_folder / "run"), **learning(cell_folder / "run")}

    def _limited(self, structures: int | None) -> list[TaskOptions]:
        """Return the mix with at most so many training structures of each task."""
        if structures is None:
            return list(self.options.mix)
        return [task.model_copy(update={"train_limit": structures}) for task in self.options.mix]

    def _tune(self, cell: Cell, cell_folder: Path) -> dict[str, Any]:
        downstream = self._downstream(cell.downstream)
        finetune(
            self._start(cell),
            downstream.data,
            known=None if cell.needs is not None else {"model": self._known(cell)},
            **self._run(cell_folder),
            **{**downstream.finetune, "name": cell.downstream, "seed": cell.seed},
        )
        return {**outcome(cell_folder / "run"), "run": self._relative(cell_folder / "run")}

    def _speed(self, cell: Cell, cell_folder: Path) -> dict[str, Any]:
        del cell, cell_folder
        speed = self.options.speed
        if speed is None:
            raise ConfigError("the study has no options speed")
        models = {
            str(blocks or self.full.num_blocks): self._cut(Cell("reduce", "sliced", blocks))
            for blocks in (None, *self.options.blocks)
        }
        finer = [Cell("reduce", "sliced", without=cut) for cut in self.options.without]
        finer += [Cell("reduce", "sliced", cutoff=cutoff) for cutoff in self.options.cutoffs]
        models |= {_finer(cell): self._cut(cell) for cell in finer}
        task = speed.task or next(iter(self.full.tasks))
        jobs = {name: Job(model, task, speed.mode) for name, model in models.items()}
        found = measure_jobs(jobs, [structure(speed.structures)], repeats=speed.repeats)
        whole = found[str(self.full.num_blocks)]
        rows = {
            name: {
                **found[name].as_dict(),
                "parameters": parameter_count(model),
                "speed-up": found[name].gain(whole).as_dict(),
            }
            for name, model in models.items()
        }
        return {
            "machine": machine(self.device),
            "structure": speed.structures,
            "mode": speed.mode,
            "models": {name: row for name, row in rows.items() if name not in map(_finer, finer)},
            "finer": {name: rows[name] for name in map(_finer, finer)},
        }

    def _validate(self, cell: Cell, cell_folder: Path) -> dict[str, Any]:
        options = self.options.validate_physics
        if options is None:
            raise ConfigError("the study has no options validate_physics")
        against = None if cell.strategy == "full" else self.full
        how: dict[str, Any] = {"task": options.task or next(iter(self.full.tasks)), "progress": False}
        found = validate(
            self._start(cell),
            options.structures or None,
            against=against,
            checks=options.checks,
            output=cell_folder / "validation",
            **how,
        )
        return {"outcomes": outcomes(found), "sentence": found.sentence()}

    def _run(self, cell_folder: Path) -> dict[str, Any]:
        """Return what all runs have in common; an interrupted one continues."""
        run = cell_folder / "run"
        resumed = (run / "state.pt").is_file()
        accelerator = "gpu" if self.device.type == "cuda" else "cpu"
        return {"output": run, "resume": resumed, "progress": False, "accelerator": accelerator}

    def _relative(self, cell_folder: Path) -> str:
        return cell_folder.relative_to(self.folder).as_posix()

    def _start(self, cell: Cell) -> BlockModel:
        """Return the model that a cell's fine-tuning starts from."""
        if cell.needs is not None:
            return load(self.folder / "cells" / cell.needs.name / "run" / "best.safetensors", device=self.device)
        return self._cut(cell)

    def _known(self, cell: Cell) -> str:
        """Identify how a cell's model was made: with other threads, its last digits may differ."""
        seed = cell.seed if cell.strategy == "random" else 0
        finer = f" without {cell.without}" if cell.without else ""
        finer += "" if cell.cutoff is None else f" within {cell.cutoff:g} Å"
        return f"{self._checksum}, {cell.strategy}, {cell.blocks or 'all'} blocks{finer}, seed {seed}"

    @cached_property
    def _checksum(self) -> str:
        return checksum(self.options.model_path)

    def _cut(self, cell: Cell) -> BlockModel:
        if cell.cutoff is not None:
            return with_cutoff(self.full, cell.cutoff)
        if cell.blocks is None and not cell.without:
            return self.full
        kept = self._kept(cell.without) if cell.blocks is None else cell.blocks
        how: dict[str, Any] = {"without": finer_units_of(cell.without)}
        if cell.strategy in FITS:
            limit = self.options.calibration
            realign, hand_over = FITS[cell.strategy]
            how |= {"realign": realign, "hand_over": hand_over, "limit": limit}
            return keep_blocks(self.full, kept, calibration=self.samples("train", limit), **how)
        if cell.strategy == "random":
            how |= {"realign": "random", "seed": cell.seed}
        return keep_blocks(self.full, kept, **how)

    def _kept(self, without: str) -> list[int]:
        """Return the numbers of the kept blocks; raises ConfigError for leaving out one that does not exist."""
        gone, there = blocks_of(without), self.full.block_ids
        missing = [number for number in gone if number not in there]
        if missing:
            raise ConfigError(f"without {without!r}: no block {missing[0]}; the model has {list(there)}")
        return [number for number in there if number not in gone]

    def _errors(self, model: BlockModel) -> dict[str, Any]:
        """Return the errors on every task's validation set."""
        processes = Processes(device=self.device)
        found = model_errors(model, self.tasks, "validation", RunOptions(steps=1, batch_size=16), processes)
        return {
            "errors": {task: _plain(errors) for task, errors in found.items()},
            "parameters": parameter_count(model),
        }

    def _mean_errors(self) -> dict[str, Any]:
        """Return the errors of predicting the mean on every task's validation set."""
        options, processes = RunOptions(steps=1, batch_size=16), Processes(device=self.device)
        found = mean_errors(self.tasks, "validation", options, processes)
        return {task: _plain(errors) for task, errors in found.items()}

    def _downstream(self, name: str) -> DownstreamOptions:
        return next(part for part in self.options.downstream if part.name == name)

    def _sample(self) -> dict[str, Any]:
        """Return a structure to show."""
        task = self.tasks[0]
        atoms = task.part("validation")[0].to_ase()
        plain = {
            "numbers": atoms.numbers,
            "positions": atoms.positions,
            "cell": np.asarray(atoms.cell),
            "pbc": atoms.pbc,
        }
        return {"task": task.name, "atoms": {name: value.tolist() for name, value in plain.items()}}

    def _task(self, options: TaskOptions) -> LearningTask:
        task = self.full.task(options.name or None)
        named = options.model_copy(update={"name": task.name, "targets": own_targets(task, options.targets)})
        made = prepare_task(
            opened(options.data, options.options), named, normalisation=own_scales(task), graph=task.graph
        )
        return on_reference_of_model(made, self.full)


def _finer(cell: Cell) -> str:
    return cell.without or str(cell.cutoff)


def _plain(errors: Mapping[str, Errors]) -> dict[str, Any]:
    return {name: asdict(value) for name, value in errors.items()}
