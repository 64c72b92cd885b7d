"""Block reduction: remove interaction blocks and re-align the readout (arXiv 2504.19538).

Changes outputs. The embedding is never removed.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar

import torch

from atomslim.atoms import AtomsBatch
from atomslim.compress.realign import realign as fit_readout
from atomslim.errors import ConfigError
from atomslim.measure.batches import TaskedData, batches, datasets, spread_out
from atomslim.models.block_model import BlockModel

Realign = Literal["sliced", "random", "least-squares"]
"""What becomes of the readout's first layer, which reads the features of all blocks.

sliced: it keeps the columns of the kept blocks; random: it starts anew (the paper's RandomMLP), for fine-tuning only;
least-squares: it is fitted to reproduce the full model's pre-activations on calibration structures.
"""

Model = TypeVar("Model", bound=BlockModel)


def keep_blocks(
    model: Model,
    blocks: int | Sequence[int],
    *,
    realign: Realign = "sliced",
    calibration: TaskedData | None = None,
    limit: int = 256,
    batch_size: int = 8,
    ridge: float | None = None,
    seed: int | None = None,
) -> Model:
    """Return a copy of ``model`` with fewer interaction blocks; the model itself stays as it is.

        small = atomslim.keep_blocks(model, 4, realign="least-squares", calibration={"oc20": "xyz:frames.xyz"})

    Args:
        model: the model to cut.
        blocks: how many to keep from the start (the paper's protocol), or the numbers (1 … b) of those to keep.
        realign: what becomes of the readout's first layer.
        calibration: structures for least squares, by task where the model has several; labels are not looked at.
        limit: at most so many structures of each task, evenly over its data.
        batch_size: structures at once.
        ridge: of least squares, see `atomslim.compress.realign`; None: chosen on held-out structures.
        seed: of the random layer; None: drawn from torch's global generator.

    Raises:
        ConfigError: blocks that do not exist, least squares without calibration structures, or a re-alignment that a
            readout which does not take features side by side cannot have.
        DataError: calibration structures that are not there or cannot be read.

    """
    kept = tuple(range(1, blocks + 1)) if isinstance(blocks, int) else tuple(blocks)
    if isinstance(blocks, int) and not 0 <= blocks <= model.num_blocks:
        raise ConfigError(f"{blocks} blocks to keep: give a number from 0 to {model.num_blocks}, as many as there are")
    if realign not in {"sliced", "random", "least-squares"}:
        raise ConfigError(f"re-alignment {realign!r}: give sliced, random or least-squares")
    small = model.with_blocks(kept)
    entry = _entry(model, small, realign)
    if realign == "random":
        _draw_readout(small, seed)
    elif realign == "least-squares":
        if calibration is None:
            raise ConfigError("least-squares needs calibration structures: name a dataset for each task")
        rows = _structures(model, calibration, limit, batch_size)
        fits = fit_readout(small, model, rows, ridge=ridge)
        entry["fit"] = {branch: fit.as_dict() for branch, fit in fits.items()}
    small.history = [*model.history, entry]
    return small


def _draw_readout(small: BlockModel, seed: int | None) -> None:
    if small.readout_kind != "concat":
        raise ConfigError(f"the readout of this model takes features as {small.readout_kind!r}: use sliced")
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        for layer in small.readout_first_layers().values():
            layer.reset_parameters()


def _structures(
    model: BlockModel, calibration: TaskedData, limit: int, batch_size: int
) -> Iterator[tuple[AtomsBatch, Any]]:
    for task, dataset in datasets(model, calibration).items():
        for batch in batches(model, task, spread_out(dataset, limit), batch_size):
            yield batch.atoms, batch.topology


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
