"""Block reduction: remove interaction blocks and re-align the readout (arXiv 2504.19538).

Changes outputs. The embedding is never removed.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel

Realign = Literal["sliced", "random"]
"""What becomes of the readout's first layer, which reads the features of all blocks.

sliced: it keeps the columns of the kept blocks; random: it starts anew (the paper's RandomMLP), for fine-tuning only.
"""

Model = TypeVar("Model", bound=BlockModel)


def keep_blocks(model: Model, blocks: int | Sequence[int], *, realign: Realign = "sliced") -> Model:
    """Return a copy of ``model`` with fewer interaction blocks; the model itself stays as it is.

    ``blocks`` is how many to keep from the start (the paper's protocol), or the numbers (1 … b) of those to keep.
    With ``realign="random"`` the new first layer is drawn from torch's global generator. Raises ConfigError for blocks
    that do not exist, or a random re-alignment of a readout that does not take features side by side.
    """
    kept = tuple(range(1, blocks + 1)) if isinstance(blocks, int) else tuple(blocks)
    if isinstance(blocks, int) and not 0 <= blocks <= model.num_blocks:
        raise ConfigError(f"{blocks} blocks to keep: give a number from 0 to {model.num_blocks}, as many as there are")
    small = model.with_blocks(kept)
    if realign == "random":
        if small.readout_kind != "concat":
            raise ConfigError(f"the readout of this model takes features as {small.readout_kind!r}: use sliced")
        for layer in small.readout_first_layers().values():
            layer.reset_parameters()
    elif realign != "sliced":
        raise ConfigError(f"re-alignment {realign!r}: give sliced or random")
    small.history = [*model.history, _entry(model, small, realign)]
    return small


def _entry(model: BlockModel, small: BlockModel, realign: Realign) -> dict[str, Any]:
    return {
        "operation": "keep blocks",
        "changes outputs": True,
        "kept": list(small.block_ids),
        "of": list(model.block_ids),
        "realign": realign,
        "parameters before": _count(model),
        "parameters after": _count(small),
    }


def _count(model: BlockModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
