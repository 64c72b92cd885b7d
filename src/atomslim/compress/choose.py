"""Which blocks to keep: the first ones, all but the least relevant, or as many as a size or a speed allows.

Blocks have the numbers of the original model here, and wherever users name them; `keep_blocks` takes places in the
present model, which differ once a model was cut.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule

from atomslim.atoms import from_ase
from atomslim.errors import ConfigError, DataError
from atomslim.measure.speed import count_flops
from atomslim.models.block_model import BlockModel

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def kept_places(
    model: BlockModel,
    ways: Mapping[str, Any],
    relevance: str | os.PathLike[str] | None = None,
    score: str = "gradcam",
) -> tuple[int, ...] | None:
    """Return the places of the blocks to keep, chosen in at most one way; None if no way is given.

    | way | value | keeps |
    |---|---|---|
    | blocks | 4 | so many from the first |
    | keep | "1,2,3,5" | these |
    | drop | 2 | all but so many of the least relevant; needs a file of relevance |
    | parameters | "110M" | as many as this allows, removing in order of relevance, or from the last |
    | speed | 1.3 | as many as this speed-up allows, likewise |

    Raises ConfigError for two ways at once, or a value that makes no sense or cannot be reached.
    """
    given = {name: value for name, value in ways.items() if value is not None}
    if len(given) > 1:
        raise ConfigError(f"blocks are chosen in {len(given)} ways ({', '.join(given)}): give one")
    if not given:
        return None
    if "drop" in given and relevance is None:
        raise ConfigError("dropping the least relevant blocks needs a relevance file: write it with atomslim relevance")
    order = last_first(model) if relevance is None else removal_order(relevance, model, score)
    way, value = next(iter(given.items()))
    choices: dict[str, Callable[[], tuple[int, ...]]] = {
        "blocks": lambda: _first(model, value),
        "keep": lambda: places_of(model, _numbers(value)),
        "drop": lambda: all_but_lowest(model, order, value),
        "parameters": lambda: within_parameters(model, order, parse_count(value)),
        "speed": lambda: faster_by(model, order, value),
    }
    return choices[way]()


def places_of(model: BlockModel, ids: Sequence[int]) -> tuple[int, ...]:
    """Turn numbers of the original model into places of this one, ascending.

    Raises ConfigError for the embedding, which is never removed and needs no naming, or blocks that are not there.
    """
    if 0 in ids:
        raise ConfigError("block 0 is the embedding, which is always kept: name interaction blocks only")
    missing = [block for block in ids if block not in model.block_ids]
    if missing or len(set(ids)) < len(ids):
        wrong = f"no block {missing[0]}" if missing else "a block named twice"
        raise ConfigError(f"blocks {list(ids)}: {wrong}; the model has {list(model.block_ids)}")
    return tuple(sorted(model.block_ids.index(block) + 1 for block in ids))


def all_but_lowest(model: BlockModel, order: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the places that stay when the `count` blocks that come first in `order` (original numbers) are removed."""
    if not 0 <= count <= model.num_blocks:
        raise ConfigError(f"{count} blocks to drop: the model has {model.num_blocks}")
    return places_of(model, [block for block in model.block_ids if block not in order[:count]])


def removal_order(relevance: str | os.PathLike[str], model: BlockModel, score: str = "gradcam") -> tuple[int, ...]:
    """Return the model's blocks, the least relevant first, from the file that `atomslim relevance` wrote.

    Raises:
        DataError: the file is no such file.
        ConfigError: it has no such score, or is of a model with other blocks.

    """
    path = Path(relevance)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        blocks, mix = list(content["blocks"])[1:], content["mix"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: holds no relevance of blocks: write it with atomslim relevance") from error
    if score not in mix:
        raise ConfigError(f"{path}: has no score {score!r}: choose one of {', '.join(mix)}")
    if tuple(blocks) != model.block_ids:
        raise ConfigError(f"{path}: is of a model with blocks {blocks}, this one has {list(model.block_ids)}")
    values = np.array(mix[score][1:], dtype=np.float64)
    return tuple(blocks[int(place)] for place in np.argsort(values, kind="stable"))


def last_first(model: BlockModel) -> tuple[int, ...]:
    """Return the model's blocks from the last to the first: the paper's order of removal."""
    return tuple(reversed(model.block_ids))


def within_parameters(model: BlockModel, order: Sequence[int], limit: int) -> tuple[int, ...]:
    """Return the places that stay when as few blocks as possible are removed to have at most `limit` parameters.

    Raises ConfigError if even the model without blocks has more.
    """
    return _fewest(
        model,
        order,
        lambda small: parameters(small) <= limit,
        f"{limit:,} parameters: even without any block the model has more",
    )


def faster_by(model: BlockModel, order: Sequence[int], factor: float) -> tuple[int, ...]:
    """Return the places that stay when as few blocks as possible are removed to be `factor` times as fast.

    Speed is estimated by the counted FLOPs of one energy and force prediction of a benzene molecule. Raises
    ConfigError if even the model without blocks is not that fast.
    """
    whole = flops(model)
    return _fewest(
        model,
        order,
        lambda small: whole >= factor * flops(small),
        f"speed-up {factor:g}: even without any block the model is not that fast",
    )


def parameters(model: BlockModel) -> int:
    """Number of weights."""
    return sum(weight.numel() for weight in model.parameters())


def flops(model: BlockModel, atoms: Atoms | None = None) -> int:
    """Count the FLOPs (multiply-add = 2) of matrix products in one prediction with the model's first task."""
    weight = next(model.parameters())
    batch = from_ase(atoms or molecule("C6H6")).to(weight.device)
    task = next(iter(model.tasks))
    topology = model.topology(batch, task)
    was_training = model.training
    model.eval()
    counted = count_flops(lambda: model.predict(batch, task, topology))
    model.train(was_training)
    return counted


def parse_count(text: str) -> int:
    """Understand 110M, 1.2B, 500k or 1000000; raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmb]?)", text.strip().lower())
    if match is None:
        raise ConfigError(f"{text!r} is no number of parameters: write 110M, 1.2B or 500k")
    return round(float(match[1]) * _UNITS[match[2]])


def _first(model: BlockModel, count: int) -> tuple[int, ...]:
    if not 0 <= count <= model.num_blocks:
        raise ConfigError(f"{count} blocks to keep: give a number from 0 to {model.num_blocks}, as many as there are")
    return tuple(range(1, count + 1))


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"blocks {text!r}: write their numbers, as in 1,2,3,5") from error


def _fewest(
    model: BlockModel, order: Sequence[int], enough: Callable[[BlockModel], bool], failure: str
) -> tuple[int, ...]:
    for kept in _cuts(model, order):
        if enough(model.with_blocks(kept)):
            return kept
    raise ConfigError(failure)


def _cuts(model: BlockModel, order: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for count in range(model.num_blocks + 1):
        yield all_but_lowest(model, order, count)
