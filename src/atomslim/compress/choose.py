"""Which blocks to keep: the first ones, all but the least relevant, or as many as a size or a speed allows.

Blocks have the numbers of the original model everywhere, also in models that were pruned before.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.build import molecule

from atomslim.atoms import from_ase
from atomslim.compress.prune import block_indices, first_blocks
from atomslim.errors import ConfigError, DataError
from atomslim.models.block_model import BlockModel
from atomslim.models.modes import evaluating, parameter_count
from atomslim.parsing import parse_json

if TYPE_CHECKING:
    from atomslim.compress.relevance_report import Relevance

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}

_UNORDERED = {"blocks", "keep"}
"""Ways that name blocks explicitly, so that no order of removal applies."""


def chosen_blocks(
    model: BlockModel,
    ways: Mapping[str, Any],
    relevance: "Relevance | str | os.PathLike[str] | None" = None,
    score: str = "gradcam",
) -> tuple[int, ...] | None:
    """Return the blocks to keep, chosen in at most one way; None if no way is given.

    | way | value | keeps |
    |---|---|---|
    | blocks | 4 | so many from the first |
    | keep | "1,2,3,5" | these |
    | drop | 2 | all but so many of the least relevant; needs relevance |
    | parameters | "110M" | as many as this allows, removing in order of relevance, or from the last |
    | speed | 1.3 | as many as this speed-up allows, likewise |

    ``relevance`` is the result of `block_relevance`, or the file that it was written to. Raises ConfigError for two
    ways at once, an invalid or unreachable value, or relevance where it does not apply.
    """
    given = {name: value for name, value in ways.items() if value is not None}
    if len(given) > 1:
        raise ConfigError(f"blocks are chosen in {len(given)} ways ({', '.join(given)}): give one")
    if relevance is not None and not given.keys() - _UNORDERED:
        raise ConfigError("relevance does not apply to this choice of blocks: leave it out, or say how many to drop")
    if not given:
        return None
    if "drop" in given and relevance is None:
        raise ConfigError("dropping the least relevant blocks needs relevance: a file of it, or data to compute it")
    order = last_first(model) if relevance is None else removal_order(relevance, model, score)
    way, value = next(iter(given.items()))
    choices: dict[str, Callable[[], tuple[int, ...]]] = {
        "blocks": lambda: first_blocks(model, value),
        "keep": lambda: _named(model, value),
        "drop": lambda: all_but_first(model, order, value),
        "parameters": lambda: within_parameters(model, order, parse_count(value)),
        "speed": lambda: faster_by(model, order, value),
    }
    return choices[way]()


def all_but_first(model: BlockModel, order: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the blocks that remain when the `count` first ones of `order` are removed."""
    if not 0 <= count <= model.num_blocks:
        raise ConfigError(f"{count} blocks to drop: the model has {model.num_blocks}")
    return tuple(block for block in model.block_ids if block not in order[:count])


def removal_order(
    relevance: "Relevance | str | os.PathLike[str]", model: BlockModel, score: str = "gradcam"
) -> tuple[int, ...]:
    """Return the model's blocks, the least relevant first.

    Raises:
        DataError: a file that does not hold relevance.
        ConfigError: it has no such score, or is of a model with other blocks.

    """
    if isinstance(relevance, str | os.PathLike):
        where, content = str(relevance), _read(Path(relevance))
    else:
        where, content = "relevance", relevance.as_dict()
    blocks, mix = list(content["blocks"])[1:], content["mix"]
    if score not in mix:
        raise ConfigError(f"{where}: has no score {score!r}: choose one of {', '.join(mix)}")
    if tuple(blocks) != model.block_ids:
        raise ConfigError(f"{where}: is of a model with blocks {blocks}, this one has {list(model.block_ids)}")
    values = np.array(mix[score][1:], dtype=np.float64)
    if len(values) != len(blocks):
        raise DataError(f"{where}: has {len(values)} values of {score} for {len(blocks)} blocks: write it again")
    return tuple(blocks[int(index)] for index in np.argsort(values, kind="stable"))


def _read(given: Path) -> dict[str, Any]:
    path = given / "relevance.json" if given.is_dir() else given
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return {"blocks": list(content["blocks"]), "mix": dict(content["mix"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: holds no relevance of blocks: write it with atomslim relevance") from error


def last_first(model: BlockModel) -> tuple[int, ...]:
    """Return the model's blocks from the last to the first: the paper's order of removal."""
    return tuple(reversed(model.block_ids))


def within_parameters(model: BlockModel, order: Sequence[int], limit: int) -> tuple[int, ...]:
    """Return the blocks that remain when as few as possible are removed to have at most `limit` parameters.

    Raises ConfigError if even the model without blocks has more.
    """
    return _fewest(
        model,
        order,
        lambda small: parameter_count(small) <= limit,
        f"{limit:,} parameters: even without any block the model has more",
    )


def faster_by(model: BlockModel, order: Sequence[int], factor: float) -> tuple[int, ...]:
    """Return the blocks that remain when as few as possible are removed to be `factor` times as fast.

    Speed is estimated by the counted FLOPs of one energy and force prediction of a benzene molecule. The measured
    speed-up is slightly less: building the graphs costs the same whatever the blocks. Raises ConfigError for a factor
    below 1, or if even the model without blocks is not that fast.
    """
    if not factor >= 1:
        raise ConfigError(f"speed-up {factor:g}: give 1 or more")
    whole = flops(model)
    return _fewest(
        model,
        order,
        lambda small: whole >= factor * flops(small),
        f"speed-up {factor:g}: even without any block the model is not that fast",
    )


def flops(model: BlockModel, atoms: Atoms | None = None) -> int:
    """Count the FLOPs (multiply-add = 2) of matrix products in one prediction with the model's first task."""
    from atomslim.benchmarking.speed import count_flops  # noqa: PLC0415 - which no other way to choose needs

    weight = next(model.parameters())
    batch = from_ase(atoms or molecule("C6H6")).to(weight.device)
    task = next(iter(model.tasks))
    topology = model.topology(batch, task)
    with evaluating(model):
        return count_flops(lambda: model.predict(batch, task, topology))


def parse_count(text: str) -> int:
    """Parse 110M, 1.2B, 500k or 1000000; raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmb]?)", text.strip().lower())
    if match is None:
        raise ConfigError(f"{text[:40]!r} is not a number of parameters: write 110M, 1.2B or 500k")
    return round(min(float(match[1]) * _UNITS[match[2]], 2.0**63))


def _named(model: BlockModel, text: str) -> tuple[int, ...]:
    """Return the blocks of a list of numbers, in the model's order."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"blocks {text[:60]!r}: write their numbers, as in 1,2,3,5") from error
    return tuple(model.block_ids[index - 1] for index in block_indices(model, numbers))


def _fewest(
    model: BlockModel, order: Sequence[int], enough: Callable[[BlockModel], bool], failure: str
) -> tuple[int, ...]:
    for kept in _cuts(model, order):
        if enough(model.with_blocks(block_indices(model, kept))):
            return kept
    raise ConfigError(failure)


def _cuts(model: BlockModel, order: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for count in range(model.num_blocks + 1):
        yield all_but_first(model, order, count)
