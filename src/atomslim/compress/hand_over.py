"""Hand-over: the input of a kept block after removed ones is corrected by a linear map.

For every kind of feature that rotates as one (an irreducible representation), with x the block's input in the pruned
model and y its input in the full one,

    M = argmin Σ_rows ‖x M − y‖² / Σ ‖y‖² + Σ_rows ‖ẋ M − ẏ‖² / Σ ‖ẏ‖² + λ Σ_k A_kk ‖m_k − 1_k‖²

over atoms and components of calibration structures, A the matrix of the normal equations. ẋ and ẏ are slopes along
random directions (see `atomslim.compress.slopes`): values alone restore energies, but not forces. The map is merged
into the block's own weights, so that neither the model nor its formats change. Maps are fitted one after the other,
each on the results of those before it. Changes outputs.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.compress.realign import HELD_OUT, RIDGES, NormalEquations
from atomslim.compress.slopes import random_directions, slopes_of
from atomslim.errors import DataError
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of


@dataclass(frozen=True)
class HandOver:
    """How well a block's input is corrected, by kind: R² of values and slopes, on held-out batches."""

    block: int
    ridge: dict[str, float]
    before: dict[str, float]
    after: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)


def hand_over(
    small: BlockModel,
    full: BlockModel,
    batches: Callable[[], Iterable[tuple[AtomsBatch, Any]]],
    *,
    directions: int = 2,
    seed: int = 0,
) -> list[HandOver]:
    """Correct, in place, the inputs of blocks of ``small``, a cut of ``full``, that follow removed blocks.

    ``batches`` gives calibration structures with their topologies, again for each block.

    Raises:
        ConfigError: a family into whose blocks a map cannot be merged.
        DataError: no calibration structures, or numbers that are not finite.

    """
    family_of(small).require("hand-over")
    return [_fit(small, full, block, batches(), directions, seed) for block in after_gaps(small, full)]


def after_gaps(small: BlockModel, full: BlockModel) -> list[int]:
    """Return the numbers of the kept blocks that follow removed ones."""
    before = dict(pairwise((0, *full.block_ids)))
    before = {block: previous for previous, block in before.items()}
    return [block for previous, block in pairwise((0, *small.block_ids)) if before[block] != previous]


def _fit(
    small: BlockModel, full: BlockModel, block: int, batches: Iterable[tuple[AtomsBatch, Any]], count: int, seed: int
) -> HandOver:
    ours, theirs = small.block_ids.index(block), full.block_ids.index(block)
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, list[tuple[NormalEquations, NormalEquations]]] = {}
    for number, (batch, topology) in enumerate(batches, start=1):
        along = random_directions(batch, count, generator)
        given, wanted = (
            _values_and_slopes(model, index, batch, topology, along) for model, index in ((small, ours), (full, theirs))
        )
        for kind in [kind for kind in given if kind in wanted]:
            both = tuple(_equations(one, two, number) for one, two in zip(given[kind], wanted[kind], strict=True))
            sums.setdefault(kind, []).append(both)  # type: ignore[arg-type]  # a pair
    if not sums:
        raise DataError("hand-over: there are no calibration structures: give some, with their task")
    found = {kind: _solved(parts) for kind, parts in sums.items()}
    small.map_block_input(ours, {kind: matrix for kind, (matrix, *_) in found.items()})
    ridges = {kind: ridge for kind, (_, ridge, _, _) in found.items()}
    before = {kind: r2 for kind, (_, _, r2, _) in found.items()}
    return HandOver(block, ridges, before, {kind: r2 for kind, (_, _, _, r2) in found.items()})


def _values_and_slopes(
    model: BlockModel, index: int, batch: AtomsBatch, topology: Any, along: Any
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return a block's inputs by kind, and their slopes, as rows of channels."""

    def taken(moving: AtomsBatch) -> list[Tensor]:
        return list(model.block_inputs(moving, topology)[index].values())

    with torch.no_grad():
        values = model.block_inputs(batch, topology)[index]
    slopes = slopes_of(taken, model, batch, along)
    return {
        kind: (x.flatten(0, -2), torch.cat([one[at].flatten(0, -2) for one in slopes]))
        for at, (kind, x) in enumerate(values.items())
    }


def _equations(given: Tensor, wanted: Tensor, number: int) -> NormalEquations:
    if not bool(torch.isfinite(given).all() & torch.isfinite(wanted).all()):
        raise DataError(f"hand-over: calibration batch {number} has features that are not finite: check its data")
    made = NormalEquations.zeros(given.shape[-1], wanted.shape[-1])
    made.add(given, wanted)
    return made


def _solved(parts: list[tuple[NormalEquations, NormalEquations]]) -> tuple[Tensor, float, float, float]:
    """Return the map x → x M, its ridge, and R² before and after on held-out batches."""
    fit = [part for number, part in enumerate(parts, start=1) if number % HELD_OUT]
    held_out = parts[HELD_OUT - 1 :: HELD_OUT] or fit
    tried, tested, every = (_both(some) for some in (fit, held_out, parts))
    prior = torch.eye(len(every.gram), dtype=torch.float64)[: every.cross.shape[1]]
    ridge = max(RIDGES, key=lambda one: tested.explained(tried.solve(prior, one)[0]))
    after = tested.explained(tried.solve(prior, ridge)[0])
    return every.solve(prior, ridge)[0].T, ridge, tested.explained(prior), after


def _both(parts: list[tuple[NormalEquations, NormalEquations]]) -> NormalEquations:
    """Add up values and slopes, each divided by the sum of squares of what is wanted."""
    sums = [_sum([pair[index] for pair in parts]) for index in (0, 1)]
    return (
        _sum([_divided(one, one.square) for one in sums if one.square]) if any(one.square for one in sums) else sums[0]
    )


def _sum(parts: list[NormalEquations]) -> NormalEquations:
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    return total


def _divided(one: NormalEquations, by: float) -> NormalEquations:
    return NormalEquations(one.gram / by, one.cross / by, one.square / by, one.rows)
