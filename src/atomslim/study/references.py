"""Gives a model the per-element reference energies that its file does not hold."""

from collections.abc import Sequence

import numpy as np

from atomslim.data.in_memory import opened
from atomslim.data.mixing import TaskData
from atomslim.data.normalise import fit
from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.retask import replace_tasks
from atomslim.models.tasks import Target, Task
from atomslim.train.options import TargetOptions, TaskOptions

STRUCTURES = 20_000
"""Of a dataset, evenly over it: more change linear references of a hundred elements no further."""


def with_references(model: BlockModel, mix: Sequence[TaskOptions]) -> BlockModel:
    """Return the model with references fitted where options say ``references: true`` and it has none.

    Spreads are the model's own: its heads learned with them. Changes outputs.

    Raises:
        ConfigError: a spread in the options that is not the model's.
        DataError: a dataset that is not there or has no energies.

    """
    tasks = [_referenced(model.task(options.name or None), options) for options in mix]
    if any(task != model.tasks[task.name] for task in tasks):
        replace_tasks(model, tasks)
    return model


def _referenced(task: Task, options: TaskOptions) -> Task:
    targets = tuple(_target(task.name, target, options.targets.get(target.name), options) for target in task.targets)
    return task.model_copy(update={"targets": targets})


def _target(task: str, target: Target, wanted: TargetOptions | None, options: TaskOptions) -> Target:
    if wanted is None:
        return target
    scaled = target.kind != "conservative_forces"
    if scaled and wanted.std is not None and not np.isclose(wanted.std, target.std, rtol=1e-6):
        raise ConfigError(f"mix, task {task}: std {wanted.std:g} of {target.name} is not the model's {target.std:g}")
    if not wanted.references or target.references:
        return target
    if isinstance(wanted.references, str):
        raise ConfigError(f"mix, task {task}: references of {target.name}: say true; others' are for pre-training")
    data = opened(options.data, options.options)
    places = np.linspace(0, len(data) - 1, min(STRUCTURES, len(data))).round().astype(int)
    samples = TaskData(task, data, (target.name,), places)
    scale = fit((samples[place] for place in range(len(samples))), [target.name], [target.name]).targets[target.name]
    return target.model_copy(update={"references": scale.references, "mean": scale.mean})
