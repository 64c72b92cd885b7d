"""Pre-training: several datasets as tasks of one model, from random weights or from a model file."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator

from atomslim.arguments import checked, first_problem
from atomslim.data.in_memory import Data, opened
from atomslim.data.loader import BatchLoader
from atomslim.data.mixing import BatchSampler, Mixture
from atomslim.data.normalise import Normalisation
from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.family import Family, family_of
from atomslim.models.model_file import load
from atomslim.models.registry import families, family
from atomslim.models.tasks import Task
from atomslim.report.console import plain_console
from atomslim.train.dataloaders import with_batch_cost
from atomslim.train.options import (
    Duration,
    OptimiserOptions,
    RunOptions,
    ScheduleOptions,
    TaskOptions,
    parse_duration,
    validated,
)
from atomslim.train.reporting import announced, said, say_labels
from atomslim.train.run_folder import RunFolder, note_task, noted, require_no_path
from atomslim.train.run_state import data_identity, origin
from atomslim.train.start import graph_for, move_to_labels, with_tasks
from atomslim.train.targets import Inherited
from atomslim.train.tasks import LearningTask, prepare_task, reference_notes
from atomslim.train.trainer import is_first, train

SCALE_EDGES = 50_000
"""Edges of the structures on which a new model is fitted, at most: they are in memory together."""

FRESH = "fresh"
"""Instead of a task's name: heads that have learned nothing."""


class PretrainTask(TaskOptions):
    """A dataset, what is learned from it, and where its heads come from."""

    head: str = Field(
        default="",
        description="for a given model: its task whose heads this one starts from, or `fresh`; empty: the task of "
        "this name",
    )


class PretrainOptions(RunOptions):
    """Options of pre-training, those of the run included; defaults are JMP's recipe (arXiv 2310.16802)."""

    family: str = Field(default="", description="of a model with random weights; empty: the only one that supports it")
    sizes: SerializeAsAny[BaseModel] | None = Field(
        default=None, description="sizes of a model with random weights, as its family defines them"
    )
    model: str = Field(
        default="", description="instead of sizes: a model file to continue from, with its weights and tasks"
    )
    tasks: tuple[PretrainTask, ...] = Field(min_length=1, description="datasets, and what is learned from each")
    scale_batches: int = Field(
        default=16, ge=1, description="batches on which a new model is fitted first; of their edges at most 50000"
    )
    epochs: float | None = Field(default=2.0, gt=0, description="stop after this many passes over the data")
    optimiser: OptimiserOptions = OptimiserOptions(learning_rate=3e-4, rates={}, clip_by="norm")
    schedule: ScheduleOptions = ScheduleOptions(warmup=parse_duration("2000 steps"), warmup_factor=0.2)
    ema: float | None = Field(default=0.99, gt=0, lt=1, description="decay of averaged weights; none: no averaging")
    edge_dropout: float | None = Field(
        default=0.1, ge=0, lt=1, description="of a new model; a continued one keeps its own"
    )
    validate_every: Duration = Field(default=parse_duration("10%"), description="in steps, epochs or % of the run")

    @field_validator("sizes", mode="before")
    @classmethod
    def _as_the_family_has_them(cls, sizes: object, info: ValidationInfo) -> object:
        if sizes is None or isinstance(sizes, BaseModel):
            return sizes
        try:
            return family_from_sizes(info.data.get("family", "")).config.model_validate(sizes)
        except (ValidationError, ConfigError) as error:
            raise ValueError(first_problem(error)) from error


@checked
def pretrain(
    options: PretrainOptions | dict[str, Any],
    *,
    output: str | os.PathLike[str] | None = None,
    data: Mapping[str, Data] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> BlockModel:
    """Train a model on several datasets at once and return the one with the best validation error.

    Args:
        options: as in YAML: ``{"sizes": …, "tasks": [{"name": "oc20", "data": "oc20:…"}, …], "steps": 1000}``.
        output: folder of the run; default `runs/pretrain-DATE`.
        data: structures of tasks by their name, instead of the dataset that the options name.
        resume: continue the run in `output`.
        progress: show baselines, a progress bar and the summary.

    Raises:
        ConfigError: options that are unknown or contradict each other, or a folder that holds another run.
        DataError: a dataset that is missing or cannot be trained on.
        CheckpointError: a model file that cannot be read.

    """
    config = options if isinstance(options, PretrainOptions) else validated(PretrainOptions, options)
    folder = RunFolder(output or Path("runs") / time.strftime("pretrain-%Y%m%d-%H%M%S"))
    with folder.claimed(resume=resume, first=is_first(config.devices * config.nodes, os.environ)):
        return _pretrained(config, data or {}, folder, resume=resume, progress=progress)


def _pretrained(
    config: PretrainOptions, data: Mapping[str, Data], folder: RunFolder, *, resume: bool, progress: bool
) -> BlockModel:
    """Pre-train in the run's folder."""
    with announced("reading the data", shown=progress):
        start = _start(config)
        tasks = _learning_tasks(config.tasks, data, folder if resume else None, start)
    say_labels(tasks, shown=progress)
    began = origin({"model": start} if isinstance(start, BlockModel) else {}, tasks)
    model = _model(config, start, [task.task() for task in tasks])
    notes = [note for task in tasks for note in reference_notes(task)]
    notes += _moved(model, tasks, config) if isinstance(start, BlockModel) else []
    said(notes, shown=progress)
    config = with_batch_cost(config, model, tasks, folder)
    folder.create(config.model_dump(mode="json"), resume=resume, origin=began)
    for task in tasks:
        note_task(folder, task)
    if not family_of(model).is_fitted(model) and not folder.has_state:
        with announced("fitting scale factors", shown=progress):
            _fit(model, tasks, config)
    summary = train(model, tasks, config, folder, operation="pre-train", show=progress)
    if progress:
        plain_console(stderr=True).print(summary)
    return load(folder.path / "best.safetensors")


def family_from_sizes(name: str) -> Family:
    """Return the family whose models are made from sizes; raises ConfigError if it cannot, or none is named."""
    if name:
        named = family(name)
        named.require("pre-training")
        return named
    able = [one for one in families() if "pre-training" in one.capabilities]
    if len(able) != 1:
        raise ConfigError(f"name the family of the new model: {', '.join(one.name for one in able)}")
    return able[0]


def _start(config: PretrainOptions) -> BlockModel | Family:
    """Return the model to continue, or the family of a new one."""
    if (config.sizes is None) == (not config.model):
        raise ConfigError("give either the sizes of a new model, or the file of one to continue")
    return load(config.model) if config.model else family_from_sizes(config.family)


def _learning_tasks(
    options: Sequence[PretrainTask], data: Mapping[str, Data], folder: RunFolder | None, start: BlockModel | Family
) -> list[LearningTask]:
    """Prepare all tasks, those that take references from others last."""
    done: dict[int, LearningTask] = {}
    for index in sorted(range(len(options)), key=lambda index: _borrows(options[index])):
        task, others = options[index], {task.name: task.normalisation for task in done.values()}
        done[index] = _learning_task(task, data.get(task.name, task.data), folder, start, others)
    return [done[index] for index in range(len(options))]


def _borrows(task: TaskOptions) -> bool:
    return any(isinstance(target.references, str) for target in task.targets.values())


def _learning_task(
    options: PretrainTask,
    data: Data,
    folder: RunFolder | None,
    start: BlockModel | Family,
    others: Mapping[str, Normalisation],
) -> LearningTask:
    if isinstance(data, str) and not data:
        raise ConfigError(f"task {options.name or '?'}: names no data: give data: NAME")
    dataset = opened(data, options.options)
    name = options.name or LearningTask.name_for(dataset)
    require_no_path(name)
    if folder is not None:  # before a split is asked of data that it was not made for
        folder.require_origin({"data": {name: data_identity(dataset)}})
    split, scales = (None, None) if folder is None else noted(folder, name)
    of, model = (start, None) if isinstance(start, Family) else (family_of(start), start)
    head = options.head or name
    task = head if model is not None and head in model.tasks else None
    inherited = Inherited() if model is None else Inherited.of(model, task)
    graph = graph_for(of, model, options, dataset.info, task)
    return prepare_task(dataset, options, split, scales, others, inherited, graph=graph)


def _moved(model: BlockModel, tasks: list[LearningTask], config: PretrainOptions) -> list[str]:
    """Shift the references of continued heads if their labels have a different one, and say so."""
    notes = []
    for task, options in zip(tasks, config.tasks, strict=True):
        if options.head != FRESH and config.optimiser.learning_rate > 0 and (gap := move_to_labels(model, task)):
            notes.append(f"{task.name}: {gap}; the references of its heads are shifted by it")
    return notes


def _model(config: PretrainOptions, start: BlockModel | Family, wanted: list[Task]) -> BlockModel:
    if isinstance(start, BlockModel):
        return _going_on(config, start, wanted)
    if any(task.head for task in config.tasks):
        raise ConfigError("head: a new model has no heads to start with: leave it out, or name a model")
    dropouts = {name: value for name in ("dropout", "edge_dropout") if (value := getattr(config, name)) is not None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return start.fresh(config.sizes, wanted, dropouts)


def _going_on(config: PretrainOptions, model: BlockModel, wanted: list[Task]) -> BlockModel:
    """Return the model of the file; where a task is to start with other heads than its own, with the wanted tasks only.

    Tasks that keep their own heads keep their mean and references as well.
    """
    heads = {task.name: options.head or task.name for task, options in zip(wanted, config.tasks, strict=True)}
    missing = sorted({head for head in heads.values() if head != FRESH and head not in model.tasks})
    if missing:
        raise ConfigError(
            f"{config.model}: has no task {', '.join(missing)}: name tasks as the model does "
            f"({', '.join(model.tasks)}), or name the heads that a new one starts from (head: TASK, or head: fresh)"
        )
    own = {name for name, head in heads.items() if name == head}
    for task in wanted:
        if task.name in own:
            _require_targets(config.model, task, model.task(task.name))
    if len(own) == len(wanted):
        return model
    tasks = [model.task(task.name) if task.name in own else task for task in wanted]
    reuse = {name: head for name, head in heads.items() if head != FRESH}
    return with_tasks(
        model, tasks, reuse=reuse, seed=config.seed, dropout=config.dropout, edge_dropout=config.edge_dropout
    )


def _require_targets(file: str, task: Task, known: Task) -> None:
    """Require that targets match the model's heads: forces of the other kind would be mis-scaled."""
    kinds = {target.name: target.kind for target in known.targets}
    for target in task.targets:
        if kinds.get(target.name) != target.kind:
            there = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            raise ConfigError(
                f"{file}: task {task.name} has {there}, and the options ask for {target.name} ({target.kind}): say "
                "forces: direct or conservative, or targets, as the model has them"
            )


def _fit(model: BlockModel, tasks: list[LearningTask], config: PretrainOptions) -> None:
    """Fit what is fitted before training on the first batches, put together, which are the same in every process."""
    mixture = Mixture([task.part("train") for task in tasks], config.temperature)
    size = None if config.max_cost else config.scale_batches * config.batch_size
    cost = min(SCALE_EDGES, config.scale_batches * (config.max_cost or SCALE_EDGES))
    sampler = BatchSampler(mixture, batch_size=size, max_cost=cost, seed=config.seed)
    batch = next(iter(BatchLoader(sampler, topology=model.topology)))
    family_of(model).fit(model, batch.atoms, batch.topology)
