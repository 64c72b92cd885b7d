"""A model in a few lines, for a REPL, and as a table, for a notebook."""

import html
from typing import TYPE_CHECKING

from atomslim.words import number_of

if TYPE_CHECKING:
    from atomslim.models.block_model import BlockModel
    from atomslim.models.tasks import Task

MOST_TASKS = 6
"""That are shown."""


def text(model: "BlockModel") -> str:
    """Describe a model in a few lines."""
    name = f"{type(model).__name__} model" if model.family is None else f"{model.family.title} model"
    found = facts(model)
    head = f"{name}: {found.pop('blocks')}; {found.pop('size')}"
    return "\n".join([head, *(f"  {what}: {value}" for what, value in found.items())])


def as_html(model: "BlockModel") -> str:
    """Write the same as a table."""
    family = type(model).__name__ if model.family is None else model.family.title
    cells = {"family": family, **facts(model)}
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(what)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for what, value in cells.items()
    )
    return f"<table>{rows}</table>"


def facts(model: "BlockModel") -> dict[str, str]:
    """Return facts about a model by name."""
    weights = list(model.parameters())
    where = f", {weights[0].dtype} on {weights[0].device}".replace("torch.", "") if weights else ""
    blocks = ", ".join(map(str, model.block_ids))
    found = {"size": f"{sum(one.numel() for one in weights):,} parameters{where}"}
    found |= {"blocks": number_of(model.num_blocks, "block") + (f" ({blocks} of the original)" if blocks else "")}
    tasks = list(model.tasks.values())
    found |= {f"task {task.name}": _task(task) for task in tasks[:MOST_TASKS]}
    if len(tasks) > MOST_TASKS:
        found["and"] = f"{len(tasks) - MOST_TASKS} more tasks"
    done = [str(entry.get("operation", "?")) for entry in model.history]
    return {**found, "history": " → ".join(done) or "none: the weights may be random"}


def _task(task: "Task") -> str:
    targets = ", ".join(f"{target.name} ({target.unit})" if target.unit else target.name for target in task.targets)
    return f"{targets}; cutoff {task.graph.cutoff:g} Å"
