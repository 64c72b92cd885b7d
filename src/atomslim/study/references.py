"""Gives a model the per-element reference energies that its file lacks."""

from collections.abc import Sequence

import numpy as np

from atomslim.atoms import Sample
from atomslim.data.in_memory import opened
from atomslim.data.mixing import TaskData
from atomslim.data.normalise import fit
from atomslim.data.references import shifted
from atomslim.errors import ConfigError
from atomslim.evaluation.reference_gap import differences
from atomslim.models.block_model import BlockModel
from atomslim.models.retask import replace_tasks
from atomslim.models.tasks import Target, Task
from atomslim.train.options import TargetOptions, TaskOptions
from atomslim.train.tasks import spread_over

STRUCTURES = 20_000
"""Structures of a dataset, evenly spaced: more do not change linear references of a hundred elements."""


CORRECTED = 64
"""Structures that the model predicts, to correct its references by label − prediction."""


def with_references(model: BlockModel, mix: Sequence[TaskOptions]) -> BlockModel:
    """Return the model with references fitted where options say ``references: true`` and it has none.

    They are fitted to the labels first, and then by label − prediction. Spreads are the model's own:
    its heads learned with them. Changes outputs.

    Raises:
        ConfigError: a spread in the options that is not the model's.
        DataError: a dataset that is missing or has no energies.

    """
    tasks = [_referenced(model.task(options.name or None), options) for options in mix]
    changed = [task for task in tasks if task != model.tasks[task.name]]
    if changed:
        replace_tasks(model, tasks)
        for task in changed:
            options = next(one for one in mix if model.task(one.name or None).name == task.name)
            model.tasks[task.name] = _corrected(model, task, _samples(task.name, options, CORRECTED))
    return model


def _corrected(model: BlockModel, task: Task, samples: list[Sample]) -> Task:
    """Return the task with the energy's references raised by a fit of label − prediction."""
    shift = differences(model, task.name, samples, 16).fit()
    targets = tuple(
        target.model_copy(update={"references": {**target.references, **shifted(target.references, shift)}})
        if target.kind == "energy"
        else target
        for target in task.targets
    )
    return task.model_copy(update={"targets": targets})


def _samples(task: str, options: TaskOptions, count: int) -> list[Sample]:
    """Return structures of a task's data, evenly spaced."""
    return spread_over(TaskData(task, opened(options.data, options.options), ("energy",)), count)


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
        raise ConfigError(f"mix, task {task}: references of {target.name}: use true; other tasks' are for pre-training")
    labelled = (sample for sample in _samples(task, options, STRUCTURES) if target.name in sample.targets)
    scale = fit(labelled, [target.name], [target.name]).targets[target.name]
    return target.model_copy(update={"references": scale.references, "mean": scale.mean})
