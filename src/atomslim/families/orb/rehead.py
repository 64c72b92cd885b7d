"""Gives a trained Orb the heads of new tasks: fresh ones, or those of a task it has."""

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from atomslim.families.orb.model import Orb, heads_of
from atomslim.models.retask import reuse_heads
from atomslim.models.tasks import Task


def with_heads(model: Orb, tasks: Sequence[Task], reused: Mapping[str, Task]) -> Orb:
    """Return a copy with heads for these tasks only; a separate stress head is kept with the reused task."""
    new = copy.deepcopy(model)
    new.tasks = new.settled(tasks)
    new.heads = nn.ModuleDict({task.name: _heads(model, task, reused.get(task.name)) for task in tasks})
    sources = {task.name: reused[task.name].name for task in tasks if task.name in reused}
    kept = {name: model.stresses[old] for name, old in sources.items() if old in model.stresses}
    new.stresses = nn.ModuleDict({name: copy.deepcopy(head) for name, head in kept.items()})
    for weight in new.parameters():
        weight.requires_grad_(True)
    return new.to(next(model.parameters())).train(model.training)


def _heads(model: Orb, task: Task, old: Task | None) -> nn.ModuleDict:
    heads = _drawn(heads_of(model.config, task))
    reuse_heads(model, heads, task, old)
    return heads


def _drawn(heads: nn.ModuleDict) -> nn.ModuleDict:
    """Draw layers from torch's generator, which the package's initialisation does not use here."""
    for module in heads.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return heads
