"""Block reduction: remove interaction blocks and re-align the readout (arXiv 2504.19538).

Changes outputs. The embedding is never removed. Blocks keep the numbers that they had in the original model.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch

from atomslim.arguments import checked
from atomslim.compress.force_rows import Weights
from atomslim.compress.realign import require_ridge
from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.modes import parameter_count

if TYPE_CHECKING:
    from atomslim.evaluation.batches import TaskedData

Realign = Literal["sliced", "random", "least-squares", "least-squares-forces"]
"""How to adapt the readout's linear map over the features of all blocks (see `atomslim.models.readout`).

sliced: it keeps the columns of the kept blocks (where only the last block is read, they go to the last one that is
kept); random: it is reinitialised (the paper's RandomMLP), for fine-tuning only;
least-squares: it is fitted to reproduce the full model's pre-activations on calibration structures;
least-squares-forces: it is fitted to the full model's energies, forces and, if asked to, stress (see
`atomslim.compress.force_fit`); needs conservative forces.
"""

FITTED = ("least-squares", "least-squares-forces")
"""Ways that use calibration structures."""

Model = TypeVar("Model", bound=BlockModel)


@checked
def keep_blocks(  # noqa: PLR0913 - how blocks are chosen, and how the readout follows
    model: Model,
    blocks: int | Sequence[int],
    *,
    realign: Realign = "sliced",
    calibration: "TaskedData | None" = None,
    limit: int = 256,
    batch_size: int = 8,
    ridge: float | None = None,
    seed: int | None = None,
    without: Sequence[str] = (),
    directions: int = 4,
    weights: Weights = Weights(),  # noqa: B008 - frozen
    hand_over: bool = False,
) -> Model:
    """Return a copy of ``model`` with fewer interaction blocks; the model itself is not changed.

        small = atomslim.keep_blocks(model, 4, realign="least-squares", calibration={"oc20": "xyz:frames.xyz"})

    Args:
        model: the model to prune.
        blocks: how many to keep from the start (the paper's protocol), or the numbers of those to keep, in any order.
            Numbers are those of the original model, so that a model with blocks 1, 3, 5 can be pruned to [3, 5].
        realign: how to adapt the readout's first layer.
        calibration: structures for least squares, by task if the model has several; labels are not used.
        limit: at most this many structures per task, evenly spaced over its data.
        batch_size: structures per batch; fewer if that would leave no batch to hold out.
        ridge: of least squares, see `atomslim.compress.realign`; None: chosen on held-out structures.
        seed: of the random layer; None: drawn from torch's global generator. Of directions; None: 0.
        without: finer units to leave out, by their names in the model's ``fine_units``.
        directions: for least squares with forces: number of random directions per structure to fit forces along; three
            times the number of atoms gives all forces.
        hand_over: also map the inputs of blocks that follow removed ones, see `atomslim.compress.hand_over`.
        weights: for least squares with forces: weights of forces and stress relative to energies.

    Raises:
        ConfigError: blocks or units that the model does not have, least squares without calibration structures, or
            calibration structures for something else.
        DataError: calibration structures that are missing or cannot be read.

    """
    if realign not in get_args(Realign):
        raise ConfigError(f"re-alignment {realign!r}: give {', '.join(get_args(Realign))}")
    require_ridge(ridge)
    if hand_over:
        family_of(model).require("hand-over")
    if (realign in FITTED or hand_over) != (calibration is not None):
        wrong = "needs calibration structures" if calibration is None else "uses no calibration structures"
        way = f"{realign} with hand-over" if hand_over else realign
        raise ConfigError(f"re-alignment {way} {wrong}: give them with least squares, for each task")
    indices = block_indices(model, first_blocks(model, blocks) if isinstance(blocks, int) else blocks)
    small = (model.without_units(without) if without else model).with_blocks(indices)
    entry = _entry(model, small, realign) | ({"without": list(without)} if without else {})
    if realign == "random":
        _draw_readout(small, seed)
    if calibration is not None:
        from atomslim.compress.calibration import Calibration  # noqa: PLC0415 - reads data, which a plain cut does not

        given = Calibration(limit, batch_size, ridge, seed, directions, weights)
        entry |= given.align(small, model, calibration, fitted=realign, hand_over=hand_over)
    small.history = [*model.history, entry]
    return small


def first_blocks(model: BlockModel, count: int) -> tuple[int, ...]:
    """Return the numbers of the model's first blocks; raises ConfigError if it has fewer than ``count``."""
    if not 0 <= count <= model.num_blocks:
        raise ConfigError(f"{count} blocks to keep: give a number from 0 to {model.num_blocks}, as many as there are")
    return model.block_ids[:count]


def block_indices(model: BlockModel, blocks: Sequence[int]) -> tuple[int, ...]:
    """Turn block numbers of the original model into indices (1 … b) in this one, ascending.

    Raises ConfigError for the embedding, which is never removed and needs no naming, or unknown blocks.
    """
    if 0 in blocks:
        raise ConfigError("block 0 is the embedding, which is always kept: name interaction blocks only")
    missing = [block for block in blocks if block not in model.block_ids]
    if missing or len(set(blocks)) < len(blocks):
        wrong = f"no block {missing[0]}" if missing else "a block named twice"
        raise ConfigError(f"blocks {list(blocks)}: {wrong}; the model has {list(model.block_ids)}")
    return tuple(sorted(model.block_ids.index(block) + 1 for block in blocks))


def _draw_readout(small: BlockModel, seed: int | None) -> None:
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        for readout in small.readout_maps().values():
            readout.draw()


def _entry(model: BlockModel, small: BlockModel, realign: Realign) -> dict[str, Any]:
    return {
        "operation": "keep blocks",
        "changes outputs": True,
        "kept": list(small.block_ids),
        "of": list(model.block_ids),
        "realign": realign,
        "parameters before": parameter_count(model),
        "parameters after": parameter_count(small),
    }
