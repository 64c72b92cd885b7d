"""Gives a trained model the heads of a new task: fresh ones, or those of a task it has."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from atomslim.errors import ConfigError
from atomslim.families.jmp.heads import Head
from atomslim.families.jmp.model import JMP
from atomslim.models.block_model import BlockModel
from atomslim.models.tasks import Target, Task


def with_tasks(
    model: BlockModel,
    tasks: list[Task],
    *,
    reuse: Mapping[str, str] | str | None = None,
    seed: int = 0,
    dropout: float | None = None,
    edge_dropout: float | None = None,
) -> JMP:
    """Return an independent copy of a model that has these tasks, and no others.

    Heads start fresh (drawn with ``seed``), or are those of the task ``reuse``, target by target of the same kind;
    these also keep their scale ``std``, so that what they learned keeps its size in eV. A mapping says so for each new
    task; those that are not in it start fresh. Where no task has direct forces, the edge branch, which nothing would
    read, is left out. Changes outputs.

    Raises ConfigError for an architecture that cannot do this, an unknown task, or heads that are not there.
    """
    if not isinstance(model, JMP):
        raise ConfigError(f"models of the class {type(model).__name__} cannot be given new heads: only JMP models can")
    direct = any(task.direct for task in tasks)
    if direct and not model.config.direct_forces:
        raise ConfigError("the model has no edge branch to read direct forces from: choose conservative forces")
    sources = reuse if isinstance(reuse, Mapping) else dict.fromkeys((task.name for task in tasks), reuse)
    olds = {name: model.task(source) for name, source in sources.items() if source is not None}
    kept = [_with_old_scales(task, olds[task.name]) if task.name in olds else task for task in tasks]
    new = _rebuilt(model, kept, direct=direct, dropout=dropout, edge_dropout=edge_dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new.heads = nn.ModuleDict({task.name: _heads(model, task, olds.get(task.name)) for task in kept})
    new.history = [*model.history, _entry(kept, {name: old.name for name, old in olds.items()})]
    return new.to(next(model.parameters()))


def _rebuilt(model: JMP, tasks: list[Task], *, direct: bool, dropout: float | None, edge_dropout: float | None) -> JMP:
    """Return the same backbone and readout under another configuration; heads are still without weights."""
    changes: dict[str, Any] = {"direct_forces": direct}
    changes |= {
        name: value for name, value in (("dropout", dropout), ("edge_dropout", edge_dropout)) if value is not None
    }
    with torch.device("meta"):
        new = JMP(model.config.model_copy(update=changes), tasks)
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
        {
            target.name: _fresh(model, target) if old is None else _reused(model, target, old)
            for target in task.targets
            if target.kind != "conservative_forces"
        }
    )


def _fresh(model: JMP, target: Target) -> Head:
    width = model.config.emb_size_edge if target.kind == "direct_forces" else model.config.emb_size_atom
    return Head(width, bias=target.bias)


def _reused(model: JMP, target: Target, old: Task) -> Head:
    source = _matching(target, old)
    head = Head(*_shape(model, target), bias=source.bias)
    old_head = cast("nn.ModuleDict", model.heads[old.name])[source.name]
    head.load_state_dict(old_head.state_dict())
    return head


def _shape(model: JMP, target: Target) -> tuple[int]:
    return (model.config.emb_size_edge if target.kind == "direct_forces" else model.config.emb_size_atom,)


def _with_old_scales(task: Task, old: Task) -> Task:
    targets = [
        target
        if target.kind == "conservative_forces"
        else target.model_copy(update={"std": _matching(target, old).std, "bias": _matching(target, old).bias})
        for target in task.targets
    ]
    return task.model_copy(update={"targets": tuple(targets)})


def _matching(target: Target, old: Task) -> Target:
    candidates = [other for other in old.targets if other.kind == target.kind]
    same = [other for other in candidates if other.name == target.name]
    if not candidates:
        raise ConfigError(
            f"target {target.name}: task {old.name} of the model has no head of the kind {target.kind} to reuse: "
            "start with fresh heads"
        )
    return (same or candidates)[0]


def _entry(tasks: list[Task], reused: dict[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "operation": "set heads",
        "changes outputs": True,
        "heads": "reused" if reused else "fresh",
        "tasks": [task.name for task in tasks],
    }
    return entry | {"from": reused} if reused else entry
