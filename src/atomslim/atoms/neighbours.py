"""Pairs of atoms within a cutoff in a defined order, both directions at exactly one distance."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from atomslim.atoms import device_search
from atomslim.atoms.batch import AtomsBatch, validate
from atomslim.atoms.search import half_list
from atomslim.errors import StructureError

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]

TIE_TOLERANCE = 1e-6
"""Å: distances closer than this are equal, so that rounding never decides which neighbour is kept."""

OVERLAP_DISTANCE = 0.01
"""Å: atoms closer than this are on top of each other."""

CUTOFF_SLACK = 1e-9
"""Å: a pair exactly at the cutoff is inside, however its distance was rounded."""


@dataclass(frozen=True)
class Pairs:
    """Directed pairs source → target, both directions of each, on the CPU and detached.

    The integer cell offset o belongs to the source: r_st = r_target − (r_source + o · cell), distance = |r_st|.
    Always sorted by target, inside a target by distance, equal distances (within 1e-6 Å) by source, then by offset.

    | field | shape | meaning |
    |---|---|---|
    | source, target | (p,) | int64, atoms of the batch |
    | offset | (p, 3) | int64, cells |
    | distance | (p,) | float64, Å |
    """

    source: Int[Tensor, " p"]
    target: Int[Tensor, " p"]
    offset: Int[Tensor, "p 3"]
    distance: Float[Tensor, " p"]

    def __len__(self) -> int:
        """Return the number of directed pairs."""
        return self.source.shape[0]

    def select(self, kept: Int[Tensor, " q"]) -> "Pairs":
        """Return the pairs with the ascending indices `kept` (which keeps the order intact)."""
        return self if len(kept) == len(self) else self.take(kept)

    def take(self, indices: Int[Tensor, " q"]) -> "Pairs":
        """Return the pairs with these indices, in this order."""
        return Pairs(
            self.source.index_select(0, indices),
            self.target.index_select(0, indices),
            self.offset.index_select(0, indices),
            self.distance.index_select(0, indices),
        )


def find_pairs(batch: AtomsBatch, cutoff: float | Sequence[float]) -> Pairs:
    """Find all pairs of atoms of one structure with distance ≤ cutoff (Å; one for all structures, or one each).

    Periodic images count as separate neighbours and an atom neighbours its own images; the cell may be thinner than
    the cutoff, periodic in any of its directions only, and atoms may lie outside it. Topology only: gradients do not
    flow through the distances. Raises StructureError for structures that `validate` refuses and for atoms closer
    than 0.01 Å, naming both.

    Structures on a device are searched there where nvalchemi-toolkit-ops is installed, see
    `atomslim.atoms.device_search`; the pairs are the same.
    """
    validate(batch)
    cutoffs = per_structure(cutoff, batch.num_structures)
    positions = batch.positions.detach().to("cpu", torch.float64).numpy()
    cells = batch.cell.detach().to("cpu", torch.float64).numpy()
    periodic = batch.pbc.cpu().numpy()
    natoms = batch.natoms.tolist()
    parts = [positions[end - size : end] for size, end in zip(natoms, accumulate(natoms), strict=True)]
    structures = list(zip(parts, cells, periodic, strict=True))
    if device_search.wanted(batch.device):
        return _pairs_on_device(batch, structures, cutoffs)
    found = [
        _pairs_of_one(part, cell, pbc, radius, end - len(part))
        for (part, cell, pbc), radius, end in zip(structures, cutoffs, accumulate(natoms), strict=True)
    ]
    source, target, offset, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    _refuse_overlaps(batch, source, target, offset, distance)
    return sorted_pairs(source, target, offset, distance)


def update_distances(pairs: Pairs, batch: AtomsBatch) -> Pairs:
    """Return the same pairs with the distances (and the order) of the batch's current positions and cells.

    For reuse of a list found with a larger cutoff while atoms move. Raises StructureError for overlapping atoms.
    """
    source, target, offset = pairs.source.numpy(), pairs.target.numpy(), pairs.offset.numpy()
    distance = _distances(batch, source, target, offset)
    _refuse_overlaps(batch, source, target, offset, distance)
    return sorted_pairs(source, target, offset, distance)


def within(pairs: Pairs, batch: AtomsBatch, cutoff: float | Sequence[float]) -> Pairs:
    """Return the pairs with distance ≤ cutoff (Å; one for all structures, or one each)."""
    cutoffs = np.asarray(per_structure(cutoff, batch.num_structures)) + CUTOFF_SLACK
    limit = cutoffs[batch.batch.cpu().numpy()[pairs.target.numpy()]] if len(cutoffs) > 1 else cutoffs[0]
    kept = np.flatnonzero(pairs.distance.numpy() < limit)
    return pairs.select(torch.from_numpy(kept))


def nearest(pairs: Pairs, neighbours: Int[Tensor, " n"], ties: Bool[Tensor, " n"] | None = None) -> Int[Tensor, " q"]:
    """Return the ascending indices of the `neighbours[t]` nearest pairs of each target atom t.

    Of pairs equally far (within 1e-6 Å) at the cap, all are kept where `ties[t]`, so that the numbering of atoms
    does not choose; elsewhere, and without `ties`, those with the lower source, then the lexicographically lower
    offset.
    """
    bounds = np.searchsorted(pairs.target.numpy(), np.arange(len(neighbours) + 1))
    starts, counts = bounds[:-1], np.diff(bounds)
    kept = np.minimum(counts, neighbours.cpu().numpy())
    if ties is not None:
        cut = np.flatnonzero((kept > 0) & (kept < counts) & ties.cpu().numpy())
        kept[cut] = _tie_ends(pairs, starts[cut] + kept[cut]) - starts[cut]
    ends = np.cumsum(kept)
    return torch.from_numpy(np.arange(kept.sum()) + np.repeat(starts - (ends - kept), kept))


def _tie_ends(pairs: Pairs, ends: IntArray) -> IntArray:
    """Move each end (exclusive) of a target's pairs behind all that tie with the last pair before it."""
    begins = _begins(pairs.target.numpy(), pairs.distance.numpy())
    later = np.append(np.flatnonzero(begins), len(begins))  # where ties, and those of other targets, begin
    moved: IntArray = later[np.searchsorted(later, ends)]
    return moved


def sorted_pairs(source: IntArray, target: IntArray, offset: IntArray, distance: FloatArray) -> Pairs:
    """Bring pairs into their defined order: target, distance, and where distances tie source, then offset."""
    order = _order(source, target, offset, distance)
    return Pairs(
        torch.from_numpy(source[order]),
        torch.from_numpy(target[order]),
        torch.from_numpy(np.take(offset, order, axis=0)),
        torch.from_numpy(distance[order]),
    )


def packed_keys(*columns: IntArray) -> IntArray:
    """Pack integer columns, most significant first, into one integer per row that sorts and compares as the row does.

    A column takes up only the values it spans. Where the key would outgrow 63 bits, the key so far and the column
    are replaced by their ranks, which leaves order and equality untouched.
    """
    key, size = np.zeros(len(columns[0]), dtype=np.int64), 1
    for column in columns if len(key) else ():
        digit, span = _from_zero(column)
        if size * span >= 2**63:
            (key, size), (digit, span) = _ranks(key), _ranks(digit)
        key = key * span + digit
        size *= span
    return key


def _from_zero(column: IntArray) -> tuple[IntArray, int]:
    """Shift values so that the lowest is 0; return them and the number of values they span."""
    low = int(column.min())
    return column - low, int(column.max()) - low + 1


def _ranks(values: IntArray) -> tuple[IntArray, int]:
    """Replace values by their ranks; return them and the number of different values."""
    unique, ranks = np.unique(values, return_inverse=True)
    return ranks.astype(np.int64), len(unique)


def per_structure(value: float | Sequence[float], num_structures: int) -> list[float]:
    """Repeat one value for every structure, or check that there is one each (StructureError otherwise)."""
    if not isinstance(value, Sequence):
        return [float(value)] * num_structures
    if len(value) != num_structures:
        raise StructureError(f"{len(value)} cutoffs for {num_structures} structures: give one, or one for each")
    return [float(item) for item in value]


def _pairs_of_one(
    positions: FloatArray, cell: FloatArray, pbc: NDArray[np.bool_], cutoff: float, first_atom: int
) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """Source, target, offset, distance of one structure: a list of one direction, then its mirror image.

    Both share the distance bit for bit, so that no cap or cutoff can tell the directions apart.
    """
    source, target, offset, distance = half_list(positions, cell, pbc, cutoff + CUTOFF_SLACK)
    source, target = source + first_atom, target + first_atom
    return (
        np.concatenate([source, target]),
        np.concatenate([target, source]),
        np.concatenate([offset, -offset]),
        np.concatenate([distance, distance]),
    )


def _pairs_on_device(
    batch: AtomsBatch, structures: Sequence[tuple[FloatArray, FloatArray, NDArray[np.bool_]]], cutoffs: Sequence[float]
) -> Pairs:
    """Find the pairs of all structures at once on the batch's device, with equal distances in both directions."""
    source, target, offset = device_search.half_lists(structures, max(cutoffs), batch.device)
    distance = _distances(batch, source, target, offset)
    _refuse_overlaps(batch, source, target, offset, distance)
    both = sorted_pairs(
        np.concatenate([source, target]),
        np.concatenate([target, source]),
        np.concatenate([offset, -offset]),
        np.concatenate([distance, distance]),
    )
    return within(both, batch, cutoffs)


def _distances(batch: AtomsBatch, source: IntArray, target: IntArray, offset: IntArray) -> FloatArray:
    """|r_target − (r_source + o · cell)|, axis by axis: (b→a) and (a→b) round equally, unlike in a matrix product."""
    positions = batch.positions.detach().to("cpu", torch.float64).numpy()
    cells = batch.cell.detach().to("cpu", torch.float64).numpy()
    structure = batch.batch.cpu().numpy()[target] if len(cells) > 1 else 0
    squared = np.zeros(len(source))
    for axis in range(3):
        x = positions[:, axis]
        component = x[target] - x[source]
        if batch.pbc.any():
            shift = [offset[:, row] * cells[structure, row, axis] for row in range(3)]
            component -= shift[0] + shift[1] + shift[2]
        squared += component * component
    return np.sqrt(squared)


def _order(source: IntArray, target: IntArray, offset: IntArray, distance: FloatArray) -> IntArray:
    """Return the indices that sort pairs by target, distance, and where distances tie source and offset."""
    order = np.argsort(_target_distance_keys(target, distance))
    begins = _begins(target[order], distance[order])
    if begins.all():
        return order
    tied = ~begins
    tied[:-1] |= ~begins[1:]
    members = order[tied]
    offsets = np.take(offset, members, axis=0).T
    order[tied] = members[np.argsort(packed_keys(np.cumsum(begins, dtype=np.int64)[tied], source[members], *offsets))]
    return order


def _begins(target: IntArray, distance: FloatArray) -> NDArray[np.bool_]:
    """Say for sorted pairs whether each is farther than the one before it, or the first of its target."""
    begins = np.ones(len(target), dtype=np.bool_)
    begins[1:] = (np.diff(target) != 0) | (np.diff(distance) > TIE_TOLERANCE)
    return begins


def _target_distance_keys(target: IntArray, distance: FloatArray) -> IntArray:
    """One integer per pair that sorts by target, then by distance.

    Distances are rounded to a grid far finer than the tie tolerance: at 12 Å and a million atoms 1e-11 Å.
    """
    if len(target) == 0:
        return target
    bits = min(50, 62 - int(target.max()).bit_length())
    steps = distance * ((2**bits - 1) / distance.max())
    keys: IntArray = (target << bits) + np.minimum(steps, 2**bits - 1).astype(np.int64)
    return keys


def _refuse_overlaps(
    batch: AtomsBatch, source: IntArray, target: IntArray, offset: IntArray, distance: FloatArray
) -> None:
    if len(distance) == 0 or distance.min() >= OVERLAP_DISTANCE:
        return
    pair = int(np.argmin(distance))
    structure = int(batch.batch[target[pair]])
    first = int((batch.batch < structure).sum())
    atoms = sorted([int(source[pair]) - first, int(target[pair]) - first])
    image = " (periodic image)" if offset[pair].any() else ""
    raise StructureError(
        f"structure {structure}: atoms {atoms[0]} and {atoms[1]}{image} are {distance[pair]:.4f} Å apart, "
        f"closer than {OVERLAP_DISTANCE} Å: remove one of them or correct positions and cell"
    )
