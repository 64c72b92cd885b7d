"""Gives a trained JMP the heads of new tasks: fresh ones, or those of a task it has."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from atomslim.errors import ConfigError
from atomslim.families.jmp.heads import Head
from atomslim.families.jmp.model import JMP
from atomslim.models.tasks import Target, Task, matching

DROPOUTS = ("dropout", "edge_dropout")


def with_heads(
    model: JMP, tasks: Sequence[Task], reused: Mapping[str, Task], regularisation: Mapping[str, float]
) -> JMP:
    """Return a copy with heads for these tasks only; where none has direct forces, the edge branch is left out.

    Raises ConfigError for direct forces of a model without an edge branch, and other dropouts than `DROPOUTS`.
    """
    direct = any(task.direct for task in tasks)
    if direct and not model.config.direct_forces:
        raise ConfigError("the model has no edge branch to read direct forces from: choose conservative forces")
    unknown = [name for name in regularisation if name not in DROPOUTS]
    if unknown:
        raise ConfigError(f"JMP models have no {unknown[0]}: they have {' and '.join(DROPOUTS)}")
    new = _rebuilt(model, tasks, {"direct_forces": direct, **regularisation})
    new.heads = nn.ModuleDict({task.name: _heads(model, task, reused.get(task.name)) for task in tasks})
    return new.to(next(model.parameters()))


def _rebuilt(model: JMP, tasks: Sequence[Task], changes: Mapping[str, float]) -> JMP:
    """Return the same backbone and readout under another configuration; heads are still without weights."""
    with torch.device("meta"):
        new = JMP(model.config.model_copy(update=dict(changes)), tasks)
    wanted = new.state_dict().keys()
    tensors: dict[str, Tensor] = {
        name: tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if name in wanted and not name.startswith("heads.")
    }
    new.load_state_dict(tensors, assign=True, strict=False)
    for weight in new.parameters():
        weight.requires_grad_(True)
    new.block_ids = model.block_ids
    return new.train(model.training)


def _heads(model: JMP, task: Task, old: Task | None) -> nn.ModuleDict:
    return nn.ModuleDict(
        {target.name: _head(model, target, old) for target in task.targets if target.kind != "conservative_forces"}
    )


def _head(model: JMP, target: Target, old: Task | None) -> Head:
    source = matching(target, old)
    if old is None or source is None:
        return Head(model.width_of(target), bias=True)
    name = f"{old.name}.{source.name}"
    head = Head(model.width_of(target), bias=name not in model.heads_without_bias)
    head.load_state_dict(model.heads.get_submodule(name).state_dict())
    return head
