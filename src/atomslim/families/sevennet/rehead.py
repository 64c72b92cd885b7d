"""Gives a trained SevenNet the heads of new tasks: fresh ones, or those of a task it has."""

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from atomslim.families.sevennet.model import SevenNet, heads_of
from atomslim.models.retask import reuse_heads
from atomslim.models.tasks import Task


def with_heads(model: SevenNet, tasks: Sequence[Task], reused: Mapping[str, Task]) -> SevenNet:
    """Return a copy with heads for these tasks only.

    A task has the level of theory of the one whose heads it takes, or else of the model's first task.
    """
    new = copy.deepcopy(model)
    levels = model.config.task_modalities
    first = next(iter(model.tasks))
    sources = {task.name: reused[task.name].name if task.name in reused else first for task in tasks}
    known = {task: levels[source] for task, source in sources.items() if source in levels}
    new.config = model.config.model_copy(update={"task_modalities": known})
    new.tasks = new.settled(tasks)
    new.heads = nn.ModuleDict({task.name: _heads(model, task, reused.get(task.name)) for task in tasks})
    for weight in new.parameters():
        weight.requires_grad_(True)
    return new.to(model.readout.weight).train(model.training)


def _heads(model: SevenNet, task: Task, old: Task | None) -> nn.ModuleDict:
    heads = heads_of(model.config, task)
    reuse_heads(model, heads, task, old)
    return heads
