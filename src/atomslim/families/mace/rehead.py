"""Gives a trained MACE the heads of new tasks: fresh ones, or those of a task it has."""

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from atomslim.families.mace.model import MACE, heads_of
from atomslim.models.retask import reuse_heads
from atomslim.models.tasks import Target, Task


def with_heads(model: MACE, tasks: Sequence[Task], reused: Mapping[str, Task]) -> MACE:
    """Return a copy with heads for these tasks only."""
    new = copy.deepcopy(model)
    new.tasks = new.settled(tasks)
    new.heads = nn.ModuleDict({task.name: _heads(model, task, reused.get(task.name)) for task in tasks})
    for weight in new.parameters():
        weight.requires_grad_(True)
    return new.to(next(model.parameters())).train(model.training)


def _heads(model: MACE, task: Task, old: Task | None) -> nn.ModuleDict:
    heads = heads_of(model.config, task)
    for target in reuse_heads(model, heads, task, old):
        if target.kind == "energy":
            _keep_repulsion(model, target, heads)
    return heads


def _keep_repulsion(model: MACE, target: Target, fresh: nn.ModuleDict) -> None:
    """Keep the repulsion between atoms unchanged under the new energy's scale."""
    for task in model.tasks.values():
        energy = task.of_kind("energy")
        if energy is not None:
            before = model.heads.get_submodule(f"{task.name}.{energy.name}").get_buffer("pair")
            fresh[target.name].get_buffer("pair").copy_(before * energy.std / target.std)
            return
