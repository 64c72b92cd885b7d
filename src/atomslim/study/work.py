"""What the cells of a study do, in terms of the rest of the package."""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from atomslim.compress.prune import keep_blocks
from atomslim.compress.relevance import block_relevance
from atomslim.data.in_memory import opened
from atomslim.errors import ConfigError
from atomslim.measure.speed import measure_speed
from atomslim.measure.structures import structure
from atomslim.models.block_model import BlockModel
from atomslim.models.checkpoint import load
from atomslim.study.cells import Cell
from atomslim.study.options import DownstreamOptions, StudyOptions
from atomslim.train.distill import distill
from atomslim.train.finetune import finetune
from atomslim.train.options import RunOptions
from atomslim.train.tasks import LearningTask, prepare_task
from atomslim.train.validation import Processes, model_errors


class Workshop:
    """Does cells; what several of them need is opened once."""

    def __init__(self, options: StudyOptions, folder: Path) -> None:
        self.options, self.folder = options, folder

    @cached_property
    def full(self) -> BlockModel:
        """The full model."""
        return load(self.options.model_path)

    @cached_property
    def tasks(self) -> list[LearningTask]:
        """The pre-training tasks, split as the options say."""
        tasks = [prepare_task(opened(task.data, task.options), task) for task in self.options.mix]
        for task in tasks:
            self.full.task(task.name)
        return tasks

    def samples(self, part: Literal["train", "validation"], count: int) -> dict[str, list[Any]]:
        """Return the first structures of every task's set."""
        parts = {task.name: task.part(part) for task in self.tasks}
        return {name: [data[place] for place in range(min(count, len(data)))] for name, data in parts.items()}

    def do(self, cell: Cell, place: Path) -> dict[str, Any]:
        """Compute a cell in its folder and return its result."""
        return getattr(self, f"_{cell.kind}")(cell, place)

    def _relevance(self, cell: Cell, place: Path) -> dict[str, Any]:
        del cell
        found = block_relevance(self.full, self.samples("validation", self.options.relevance))
        found.plot(place / "relevance.png")
        return found.as_dict()

    def _reduce(self, cell: Cell, place: Path) -> dict[str, Any]:
        del place
        return self._errors(self._cut(cell))

    def _distill(self, cell: Cell, place: Path) -> dict[str, Any]:
        run = place / "run"
        student = distill(
            self._cut(Cell("reduce", "sliced", cell.blocks)),
            self.full,
            output=run,
            resume=(run / "state.pt").is_file(),
            progress=False,
            **{"tasks": self.options.mix, "seed": cell.seed, **(self.options.distill or {})},
        )
        return self._errors(student)

    def _tune(self, cell: Cell, place: Path) -> dict[str, Any]:
        downstream = self._downstream(cell.downstream)
        run = place / "run"
        finetune(
            self._start(cell),
            downstream.data,
            output=run,
            resume=(run / "state.pt").is_file(),
            progress=False,
            **{"seed": cell.seed, "name": cell.downstream, **downstream.finetune},
        )
        return {"run": str(run.relative_to(self.folder))}

    def _speed(self, cell: Cell, place: Path) -> dict[str, Any]:
        del cell, place
        speed = self.options.speed
        if speed is None:
            raise ConfigError("the study has no options speed")
        models = {
            str(blocks or self.full.num_blocks): self._cut(Cell("reduce", "sliced", blocks))
            for blocks in (None, *self.options.blocks)
        }
        found = measure_speed(models, [structure(speed.structures)], repeats=speed.repeats)
        counts = {name: sum(weight.numel() for weight in model.parameters()) for name, model in models.items()}
        return {name: {**value.as_dict(), "parameters": counts[name]} for name, value in found.items()}

    def _start(self, cell: Cell) -> BlockModel:
        """Return the model that a cell's fine-tuning starts from."""
        if cell.needs is not None:
            return load(self.folder / "cells" / cell.needs.name / "run" / "best.safetensors")
        return self._cut(cell)

    def _cut(self, cell: Cell) -> BlockModel:
        if cell.blocks is None:
            return self.full
        if cell.strategy == "least-squares":
            calibration = self.samples("train", self.options.calibration)
            return keep_blocks(self.full, cell.blocks, realign="least-squares", calibration=calibration)
        if cell.strategy == "random":
            return keep_blocks(self.full, cell.blocks, realign="random", seed=cell.seed)
        return keep_blocks(self.full, cell.blocks)

    def _errors(self, model: BlockModel) -> dict[str, Any]:
        """Return the errors on every task's validation set."""
        found = model_errors(model, self.tasks, "validation", RunOptions(steps=1, batch_size=16), Processes())
        return {
            "errors": {task: {name: asdict(value) for name, value in errors.items()} for task, errors in found.items()},
            "parameters": sum(weight.numel() for weight in model.parameters()),
        }

    def _downstream(self, name: str) -> DownstreamOptions:
        return next(part for part in self.options.downstream if part.name == name)
