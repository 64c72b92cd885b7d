"""Gives a trained CHGNet the heads of new tasks: fresh ones, or those of a task it has."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from atomslim.errors import ConfigError
from atomslim.families.chgnet.model import CHGNet, headed
from atomslim.models.tasks import Target, Task, matching


def with_heads(
    model: CHGNet, tasks: Sequence[Task], reused: Mapping[str, Task], regularisation: Mapping[str, float]
) -> CHGNet:
    """Return a copy with heads for these tasks only, with another rate of ``dropout`` in all heads if one is given.

    Raises ConfigError for direct forces, and for other names than dropout.
    """
    unknown = [name for name in regularisation if name != "dropout"]
    if unknown:
        raise ConfigError(f"CHGNet models have no {unknown[0]}: they have dropout")
    heads = {task.name: _heads(model, task, reused.get(task.name)) for task in tasks}
    new = copy.deepcopy(model)
    new.tasks = new.settled(tasks)
    new.heads = nn.ModuleDict(heads)
    if regularisation:
        new.config = new.config.model_copy(update={"mlp_dropout": regularisation["dropout"]})
        for module in new.heads.modules():
            if isinstance(module, nn.Dropout):
                module.p = regularisation["dropout"]
    return new


def _heads(model: CHGNet, task: Task, old: Task | None) -> nn.ModuleDict:
    return nn.ModuleDict({target.name: _head(model, target, old) for target in headed(task)})


def _head(model: CHGNet, target: Target, old: Task | None) -> nn.Module:
    source = matching(target, old)
    if old is None or source is None:
        return _fresh(model)
    return copy.deepcopy(model.heads.get_submodule(f"{old.name}.{source.name}"))


def _fresh(model: CHGNet) -> nn.Module:
    """Return a head of the model's kind, initialised as torch does."""
    first: Any = next(iter(model.heads.values()))
    head: nn.Module = copy.deepcopy(next(iter(first.values())))
    for module in head.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    for parameter in head.parameters():
        parameter.requires_grad_(True)
    return head
