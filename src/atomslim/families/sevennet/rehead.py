"""Gives a trained SevenNet the heads of new tasks: fresh ones, or those of a task it has."""

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from atomslim.families.sevennet.model import Head, SevenNet, heads_of
from atomslim.models.tasks import Target, Task, matching


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
    if old is None:
        return heads_of(model.config, task)
    targets = [target for target in task.targets if target.kind != "conservative_forces"]
    return nn.ModuleDict({target.name: _copied(model, target, old) for target in targets})


def _copied(model: SevenNet, target: Target, old: Task) -> Head:
    source: Head = copy.deepcopy(model.heads.get_submodule(f"{old.name}.{matching(target, old).name}"))  # type: ignore[assignment]
    return source
