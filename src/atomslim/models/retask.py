"""Gives a trained model other task settings (names, units, normalisation, references, graphs), and tasks old heads."""

import copy
from collections.abc import Sequence

from torch import nn

from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.tasks import Target, Task, matching


def replace_tasks(model: BlockModel, tasks: Sequence[Task]) -> None:
    """Replace the tasks of a model and keep its heads.

    If the model has tasks of these names, they are replaced and the others stay; otherwise as many tasks as the model
    has must be given, in its order. Inside a task, heads are matched to targets by name, or else by order.
    Conservative forces have no head and may be added to any energy or left out.

    Raises ConfigError if heads and targets do not pair up, or for graphs that the model cannot have.
    """
    pairs = _pairs(list(model.tasks.values()), list(tasks))
    names = [new.name for _, new in pairs]
    if len(set(names)) != len(names):
        raise ConfigError(f"two tasks would have one name: {', '.join(names)}")
    settled = model.settled(new for _, new in pairs)
    model.rename_heads(
        {(old.name, target.name): (new.name, name) for old, new in pairs for target, name in _matched(old, new)}
    )
    model.tasks = settled


def _pairs(old: list[Task], new: list[Task]) -> list[tuple[Task, Task]]:
    by_name = {task.name: task for task in new}
    if by_name.keys() <= {task.name for task in old}:
        return [(task, by_name.get(task.name, task)) for task in old]
    if len(new) == len(old):
        return list(zip(old, new, strict=True))
    raise ConfigError(
        f"tasks {', '.join(by_name)}: the model has {', '.join(task.name for task in old)}; "
        f"use these names, or give {len(old)} tasks in this order"
    )


def _matched(old: Task, new: Task) -> list[tuple[Target, str]]:
    """Pair each head's target with the name of the new one."""
    matched = []
    for direct in (False, True):
        ours, theirs = _with_heads(old, direct=direct), _with_heads(new, direct=direct)
        if len(ours) != len(theirs):
            what = "direct forces" if direct else "energy or scalar"
            raise ConfigError(f"task {new.name}: {len(theirs)} {what} targets for {len(ours)} such heads of {old.name}")
        names = [target.name for target in theirs]
        if set(names) == {target.name for target in ours}:
            names = [target.name for target in ours]
        matched += list(zip(ours, names, strict=True))
    return matched


def _with_heads(task: Task, *, direct: bool) -> list[Target]:
    kinds = {"direct_forces"} if direct else {"energy", "scalar", "r2", "binary"}
    return [target for target in task.targets if target.kind in kinds]


def reuse_heads(model: BlockModel, heads: nn.ModuleDict, task: Task, old: Task | None) -> list[Target]:
    """Put copies of a task's heads in place of fresh ones, target by target, as `matching` finds them.

    Returns the targets whose heads stay fresh: all without an ``old`` task.
    """
    fresh = []
    for target in task.targets:
        source = matching(target, old)
        if target.kind == "conservative_forces":
            continue
        if old is None or source is None:
            fresh.append(target)
        else:
            heads[target.name] = copy.deepcopy(model.get_submodule(f"heads.{old.name}.{source.name}"))
    return fresh
