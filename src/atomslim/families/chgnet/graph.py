"""The two graphs of CHGNet: bonds between atoms, and angles between short bonds that meet at an atom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from atomslim.atoms import AtomsBatch, Pairs, find_pairs, update_distances, within

IntArray: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Directions:
    """Both directions of every bond, from the neighbour (source) to the centre (target), first those of all bonds."""

    source: Int[Tensor, " e"]
    target: Int[Tensor, " e"]
    offset: Int[Tensor, "e 3"]


@dataclass(frozen=True)
class BondGraph:
    """Bonds of a batch, each once, the short ones first, and the angles between short bonds.

    A bond has two directions, at its first atom (0 … bonds − 1) and at its second (bonds … 2 bonds − 1). The vector of
    a direction is r_centre − r_neighbour; the integer cell offset belongs to the second atom. Angles are ordered pairs
    of different directions of short bonds at one centre.

    | field | shape | meaning |
    |---|---|---|
    | first, second | (bonds,) | atoms |
    | offset | (bonds, 3) | cells |
    | short | | number of bonds that make angles |
    | centre | (angles,) | atom |
    | one, other | (angles,) | directions, of the short bonds only: 0 … 2 short − 1 |
    | cutoffs | (b,) | length of the longest bonds of each structure in Å |
    """

    first: Int[Tensor, " bonds"]
    second: Int[Tensor, " bonds"]
    offset: Int[Tensor, "bonds 3"]
    short: int
    centre: Int[Tensor, " angles"]
    one: Int[Tensor, " angles"]
    other: Int[Tensor, " angles"]
    cutoffs: Float[Tensor, " b"]

    def edges(self) -> Directions:
        """Return both directions of all bonds."""
        return Directions(
            source=torch.cat([self.second, self.first]),
            target=torch.cat([self.first, self.second]),
            offset=torch.cat([self.offset, -self.offset]),
        )

    def left_out(self) -> Float[Tensor, " b"]:
        """Return zeros: there is no cap on neighbours."""
        return torch.zeros_like(self.cutoffs)

    def to(self, device: torch.device | str) -> "BondGraph":
        """Move to `device`."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return BondGraph(short=self.short, **moved)


def build_graph(
    batch: AtomsBatch, cutoffs: Sequence[float], angle_cutoff: float, *, pairs: Pairs | None = None
) -> BondGraph:
    """Find the bonds up to the cutoff of each structure, and the angles between those nearer than ``angle_cutoff`` (Å).

    ``pairs`` reuses a list found earlier with cutoffs at least as large: its distances are recomputed. Raises
    StructureError for structures that no model can take.
    """
    found = find_pairs(batch, cutoffs) if pairs is None else within(update_distances(pairs, batch), batch, cutoffs)
    bonds = found.select(torch.from_numpy(np.flatnonzero(_is_first_direction(found))))
    near = bonds.distance.numpy() < angle_cutoff
    bonds, short = bonds.take(torch.from_numpy(np.argsort(~near, kind="stable"))), int(near.sum())
    centre, one, other = map(torch.from_numpy, _angles(bonds.target.numpy()[:short], bonds.source.numpy()[:short]))
    return BondGraph(
        first=bonds.target,
        second=bonds.source,
        offset=bonds.offset,
        short=short,
        centre=centre,
        one=one,
        other=other,
        cutoffs=torch.tensor(cutoffs, dtype=torch.float64),
    ).to(batch.device)


def _is_first_direction(pairs: Pairs) -> NDArray[np.bool_]:
    """Choose one of the two directions of every pair: by its atoms, and between images of one atom by the offset."""
    source, target, (x, y, z) = pairs.source.numpy(), pairs.target.numpy(), pairs.offset.numpy().T
    leading = np.where(x != 0, x, np.where(y != 0, y, z))
    chosen: NDArray[np.bool_] = (source < target) | ((source == target) & (leading < 0))
    return chosen


def _angles(first: IntArray, second: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Pair all different directions of bonds at one atom; return centre, one and other, ordered by centre."""
    centres = np.concatenate([first, second])
    order = np.argsort(centres, kind="stable")
    centres = centres[order]
    counts = np.bincount(centres)[centres] if len(centres) else centres
    one = np.repeat(np.arange(len(centres)), counts)
    within = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
    other = np.searchsorted(centres, centres)[one] + within
    different = one != other
    one, other = one[different], other[different]
    return centres[one], order[one], order[other]
