"""Gives a trained model the heads of a new task: fresh ones, or those of a task it has."""

import warnings
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch

from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.tasks import Target, Task, matching

Model = TypeVar("Model", bound=BlockModel)

_KEPT = ("std", "mean", "references")
"""What a target keeps with the head that learned it."""


def with_tasks(
    model: Model,
    tasks: list[Task],
    *,
    reuse: Mapping[str, str] | str | None = None,
    seed: int = 0,
    dropout: float | None = None,
    edge_dropout: float | None = None,
) -> Model:
    """Return an independent copy of a model that has these tasks, and no others.

    Heads start fresh (drawn with ``seed``), or are those of the task ``reuse``, target by target of the same kind;
    these also keep ``std``, ``mean`` and references, so that they predict what they did. A mapping says so for each new
    task; those that are not in it start fresh, and so do, which is said, targets of a kind that the old task has not.
    What no task reads any more is left out. Changes outputs.

    Raises ConfigError for a family that cannot do this, an unknown task, or one without any head that is asked for.
    """
    family = family_of(model)
    sources = reuse if isinstance(reuse, Mapping) else dict.fromkeys((task.name for task in tasks), reuse)
    olds = {name: model.task(source) for name, source in sources.items() if source is not None}
    if any(task.direct for task in tasks):
        family.require("direct forces")
    new_kinds = {task.name: _without_source(task, olds[task.name]) for task in tasks if task.name in olds}
    if any(task.name not in olds or new_kinds[task.name] for task in tasks):
        family.require("fresh heads")
    for name, targets in new_kinds.items():
        _say_fresh(name, targets, olds[name])
    kept = [_with_old_scales(task, olds[task.name]) if task.name in olds else task for task in tasks]
    rates = {"dropout": dropout, "edge_dropout": edge_dropout}
    given = {name: rate for name, rate in rates.items() if rate is not None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = cast("Model", family.with_heads(model, kept, olds, given))
    new.history = [*model.history, _entry(kept, {name: old.name for name, old in olds.items()})]
    return new


def _without_source(task: Task, old: Task) -> list[Target]:
    """Return the targets that no head of the old task gives; raises ConfigError if that is all of them."""
    headed = [target for target in task.targets if target.kind != "conservative_forces"]
    missing = [target for target in headed if matching(target, old) is None]
    if missing and len(missing) == len(headed):
        kinds = ", ".join(sorted({target.kind for target in missing}))
        raise ConfigError(
            f"target {missing[0].name}: task {old.name} of the model has no head of the kind {kinds} to reuse: "
            "start with fresh heads"
        )
    return missing


def _say_fresh(name: str, targets: list[Target], old: Task) -> None:
    for target in targets:
        warnings.warn(
            f"{name}/{target.name}: task {old.name} of the model has no head of the kind {target.kind} to reuse: it "
            "starts with a fresh one",
            AtomslimWarning,
            stacklevel=3,
        )


def _with_old_scales(task: Task, old: Task) -> Task:
    targets = [
        target.model_copy(update={name: getattr(source, name) for name in _KEPT})
        if (source := matching(target, old)) and target.kind != "conservative_forces"
        else target
        for target in task.targets
    ]
    return task.model_copy(update={"targets": tuple(targets)})


def _entry(tasks: list[Task], reused: dict[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "operation": "set heads",
        "changes outputs": True,
        "heads": "reused" if reused else "fresh",
        "tasks": [task.name for task in tasks],
    }
    return entry | {"from": reused} if reused else entry
