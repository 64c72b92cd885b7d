"""A shorter cutoff: the same weights with fewer edges, on which energies depend smoothly.

Changes outputs.
"""

from collections.abc import Sequence
from typing import TypeVar

from atomslim.models.block_model import BlockModel, check_cutoff
from atomslim.models.family import family_of

Model = TypeVar("Model", bound=BlockModel)


def require_cutoffs(model: BlockModel, cutoffs: Sequence[float]) -> None:
    """Raise ConfigError unless a model can have each of some shorter cutoffs (Å)."""
    if cutoffs:
        family_of(model).require("shorter cutoff")
    for cutoff in cutoffs:
        check_cutoff(model, cutoff)


def with_cutoff(model: Model, cutoff: float) -> Model:
    """Return a copy with a shorter cutoff (Å) in all tasks.

    Raises ConfigError for a cutoff that is not shorter, and for a family whose models would need training for it.
    """
    family_of(model).require("shorter cutoff")
    small = model.with_cutoff(cutoff)
    entry = {
        "operation": "shorten cutoff",
        "changes outputs": True,
        "cutoff before": {name: task.graph.cutoff for name, task in model.tasks.items()},
        "cutoff after": {name: task.graph.cutoff for name, task in small.tasks.items()},
    }
    small.history = [*model.history, entry]
    return small
