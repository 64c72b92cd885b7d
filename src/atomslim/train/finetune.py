"""Fine-tuning: a trained model learns a dataset's targets, with fresh or existing heads."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from atomslim.arguments import checked
from atomslim.atoms.sample import ENERGIES, HESSIAN
from atomslim.data.in_memory import Data, opened
from atomslim.data.info import DatasetInfo
from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.graph_settings import LONGEST_CUTOFF
from atomslim.models.model_file import load
from atomslim.report.console import plain_console
from atomslim.train.dataloaders import with_batch_cost
from atomslim.train.optimisation import Labels
from atomslim.train.options import (
    CLASS_WEIGHTS,
    CUTOFF,
    E0S,
    NEIGHBOURS,
    ClassWeights,
    E0s,
    Name,
    Neighbours,
    RunOptions,
    SplitOptions,
    TargetOptions,
    TaskOptions,
    require_weights_once,
    validated,
)
from atomslim.train.reporting import announced, said, say_labels
from atomslim.train.run_folder import RunFolder, note_task, noted, require_no_path
from atomslim.train.run_state import data_identity, origin
from atomslim.train.start import Start, choose_start, graph_for, graph_note, with_tasks
from atomslim.train.targets import FORCE_WEIGHT, Inherited
from atomslim.train.tasks import LearningTask, loss_terms, prepare_task, reference_notes
from atomslim.train.trainer import is_first, train


class FinetuneOptions(RunOptions):
    """Options of fine-tuning, those of the run included."""

    model: str = Field(default="", description="model file")
    data: str = Field(default="", description="dataset, as in rmd17:aspirin")
    validation_data: str = Field(default="", description="another dataset, all of it for validation")
    test_data: str = Field(default="", description="another dataset, all of it for the test")
    name: Name = Field(default="", description="name of the new task; empty: the dataset's")
    forces: Literal["conservative", "direct"] | None = Field(
        default=None,
        description="direct or conservative forces, required if set; none: conservative, if the data has forces",
    )
    learn: tuple[Name, ...] = Field(default=(), description="names of the targets; empty: as the data has them")
    classify: tuple[Name, ...] = Field(
        default=(), description="names of binary labels (0 and 1) to learn; empty: those declared by the data"
    )
    class_weights: ClassWeights = CLASS_WEIGHTS
    targets: dict[Name, TargetOptions] = Field(default_factory=dict, description="instead of learn, with all details")
    hessian: float = Field(
        default=0.0, ge=0, description="weight of rows of the Hessian (mean error in eV/Å²), if the labels have some"
    )
    energies: float = Field(
        default=0.0, ge=0, description="weight of energies of atoms (mean error in eV), if the labels have some"
    )
    e0s: E0s = E0S
    heads: Literal["better", "fresh", "reuse"] = Field(
        default="better", description="new heads, those of an existing task, or whichever start with smaller errors"
    )
    task: str | None = Field(default=None, description="task whose heads are reused; none: those that start best")
    options: dict[str, str] = Field(default_factory=dict, description="options of the dataset's reader")
    split: SplitOptions = SplitOptions()
    cutoff: float | None = Field(default=None, gt=0, le=LONGEST_CUTOFF, description=CUTOFF)
    neighbours: Neighbours | None = Field(default=None, description=NEIGHBOURS)

    @model_validator(mode="after")
    def _weights_once(self) -> "FinetuneOptions":
        require_weights_once(self.class_weights, self.targets)
        return self


@checked
def finetune(
    model: BlockModel | str | os.PathLike[str],
    data: Data,
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    known: Mapping[str, str] | None = None,
    **options: Any,
) -> BlockModel:
    """Fine-tune a copy of a model on a dataset and return the one with the best validation error.

        tuned = atomslim.finetune(small, "rmd17:aspirin", budget="30min")

    Before the first step, it measures the errors of predicting the mean and of the model as given. If tuning makes the
    model worse, the original is returned. The run's folder has everything, see `atomslim.train.run_folder`.

    Args:
        model: the model, or its file.
        data: name of a dataset, an open one, or labelled structures.
        output: folder of the run; default `runs/finetune-DATE`.
        resume: continue the run in `output`, exactly as if it had never stopped.
        progress: show baselines, a progress bar and the summary.
        known: identity of `model` for resuming, if it is recomputed; default: its content.
        options: fields of `FinetuneOptions`: ``budget="30min"``, ``steps``, ``epochs``, ``forces="direct"``,
            ``learn=("band_gap",)``, ``heads="reuse"``, ``split={"train": 950, "validation": 50}``, ….

    Raises:
        ConfigError: options that are unknown or contradict each other, or a folder that holds another run.
        DataError: a dataset that is missing or cannot be trained on.
        CheckpointError: a model file that cannot be read.

    """
    named = {"model": _name_of(model), "data": data if isinstance(data, str) else ""}
    config = validated(FinetuneOptions, named | options)
    folder = RunFolder(output or Path("runs") / time.strftime("finetune-%Y%m%d-%H%M%S"))
    with folder.claimed(resume=resume, first=is_first(config.devices * config.nodes, os.environ)):
        return _finetuned(model, data, config, folder, resume=resume, progress=progress, known=known)


def _finetuned(
    model: BlockModel | str | os.PathLike[str],
    data: Data,
    config: FinetuneOptions,
    folder: RunFolder,
    *,
    resume: bool,
    progress: bool,
    known: Mapping[str, str] | None,
) -> BlockModel:
    """Fine-tune in the run's folder."""
    loaded = load(model) if isinstance(model, str | os.PathLike) else model
    _require_possible(loaded, config)
    with announced("reading the data", shown=progress):
        task = _learning_task(loaded, data, config, folder if resume else None)
    say_labels([task], shown=progress)
    began = origin({"model": loaded}, [task], known)
    with announced("comparing heads to start with", shown=progress):
        start, notes = _start(loaded, task, config, folder if resume else None)
    task = replace(task, graph=start.task.graph, besides=_besides(config))
    tuned = with_tasks(
        loaded,
        [start.task],
        reuse=start.reused,
        seed=config.seed,
        dropout=config.dropout,
        edge_dropout=config.edge_dropout,
    )
    tuned.tasks = {task.name: start.task}  # whose references may be shifted
    objective = _objective(tuned, task, config)
    config = with_batch_cost(config, tuned, [task], folder, objective)
    folder.create(config.model_dump(mode="json"), resume=resume, origin=began)
    note_task(folder, task)
    note = graph_note(loaded, start.task.graph, task.dataset.info, start.reused)
    said(filter(None, [*reference_notes(task), *notes, note]), shown=progress)
    summary = train(tuned, [task], config, folder, operation="fine-tune", show=progress, objective=objective)
    if progress:
        plain_console(stderr=True).print(summary)
    return load(folder.path / "best.safetensors", device=next(loaded.parameters()).device)


def _objective(model: BlockModel, task: LearningTask, config: FinetuneOptions) -> Labels | None:
    """Return the objective if it is more than the task's labels; raises ConfigError without forces."""
    if not _besides(config):
        return None
    learned = model.task(task.name)
    if config.energies and not model.adds_up_atoms(learned):
        raise ConfigError("energies: the model's energy is not a sum over atoms: leave it out")
    if config.hessian and not (learned.conservative or learned.direct):
        raise ConfigError("hessian: nothing learns forces, so there is no Hessian: leave it out, or learn forces")
    terms = loss_terms(task, learned, free_atoms_only=config.free_atoms_only)
    return Labels(terms, config.hessian, config.energies)


def _besides(config: FinetuneOptions) -> tuple[str, ...]:
    """Name the labels that are learned besides the targets."""
    weights = {HESSIAN: config.hessian, ENERGIES: config.energies}
    return tuple(name for name, weight in weights.items() if weight)


def _require_possible(model: BlockModel, config: FinetuneOptions) -> None:
    """Raise ConfigError for what the model's family cannot do, before data is read."""
    family = family_of(model)
    if config.forces == "direct" or any(target.kind == "direct_forces" for target in config.targets.values()):
        family.require("direct forces")
    if config.neighbours is not None:
        family.require("neighbour caps")
    if config.cutoff is not None:
        family.check_graph(
            model, model.task(next(iter(model.tasks))).graph.model_copy(update={"cutoff": config.cutoff})
        )


def _start(
    model: BlockModel, task: LearningTask, config: FinetuneOptions, folder: RunFolder | None
) -> tuple[Start, list[str]]:
    """Return the start of the run; a resumed one keeps the task of its best model."""
    best = None if folder is None else folder.path / "best.safetensors"
    if best is not None and folder is not None and folder.has_state and best.is_file():
        kept = load(best).tasks.get(task.name)  # where it has another name, the folder says so when it is resumed
        if kept is not None:
            return Start(kept, None), []
    return choose_start(model, task, config, config)


def _learning_task(model: BlockModel, data: Data, config: FinetuneOptions, folder: RunFolder | None) -> LearningTask:
    dataset = opened(data, config.options)
    options = TaskOptions(
        name=config.name,
        targets=config.targets or {name: _target(name, config, dataset.info) for name in _named_targets(config)},
        class_weights="none" if config.targets or _named_targets(config) else config.class_weights,
        forces=config.forces,
        validation_data=config.validation_data,
        test_data=config.test_data,
        options=config.options,
        e0s=config.e0s,
        split=config.split,
        cutoff=config.cutoff,
        neighbours=config.neighbours,
    )
    task_name = options.name or LearningTask.name_for(dataset)
    require_no_path(task_name)
    if folder is not None:  # before a split is asked of data that it was not made for
        folder.require_origin({"data": {task_name: data_identity(dataset)}})
    split, scales = (None, None) if folder is None else noted(folder, task_name)
    graph = graph_for(family_of(model), model, config, dataset.info, config.task)
    return prepare_task(dataset, options, split, scales, inherited=Inherited.of(model, config.task), graph=graph)


def _named_targets(config: FinetuneOptions) -> list[str]:
    return list(dict.fromkeys([*config.learn, *config.classify]))


def _target(name: str, config: FinetuneOptions, info: DatasetInfo) -> TargetOptions:
    """Return the kind of a target, from its name."""
    if name in config.classify or info.is_label(name):
        return TargetOptions(kind="binary", class_weights=config.class_weights)
    if name == "forces":
        kind: Any = f"{config.forces or 'conservative'}_forces"
        return TargetOptions(kind=kind, loss="l2", weight=FORCE_WEIGHT if "energy" in config.learn else 1.0)
    kind = cast("Any", name if name in {"energy", "stress"} else "scalar")
    return TargetOptions(kind=kind)


def _name_of(model: BlockModel | str | os.PathLike[str]) -> str:
    return str(model) if isinstance(model, str | os.PathLike) else ""
