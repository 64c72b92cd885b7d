"""The search for neighbours of one structure, with vesin: what it needs to be safe and quick for any cell."""

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from vesin import NeighborList

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]

THREADED_ATOMS = 2000
"""Structures of at least this size are searched with torch's number of threads; smaller ones with one."""

SCATTERED = 500.0
"""Å: from this extent on, atoms along a non-periodic direction are moved together before the search."""

MOST_BINS = 1e5
"""vesin sorts atoms into at most this many bins; a long, thin cell with more makes it divide by zero."""


def half_list(
    positions: FloatArray, cell: FloatArray, pbc: NDArray[np.bool_], cutoff: float
) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """Find source, target, offset (of the source) and distance of all pairs nearer than cutoff (Å), in one direction.

    vesin's shift S of a pair (i, j) means r_j + S · cell − r_i, so that j is our source.
    """
    box = _search_box(cell, pbc)
    points = _gaps_closed(positions, box[~pbc], cutoff)
    radius = _search_radius(points, box, pbc, cutoff)
    threads = torch.get_num_threads() if len(points) >= THREADED_ATOMS else 1
    search = NeighborList(cutoff=radius, full_list=False, n_threads=threads)
    pairs, shift, distance = search.compute(points, box, pbc, quantities="PSd", copy=False)
    if radius > cutoff:
        near = distance < cutoff
        pairs, shift, distance = pairs[near], shift[near], distance[near]
    target, source = pairs.astype(np.int64).T
    return source, target, shift.astype(np.int64), distance.copy()


def _search_box(cell: FloatArray, pbc: NDArray[np.bool_]) -> FloatArray:
    """Replace non-periodic vectors (zero, or even parallel to a periodic one) by unit ones at right angles to all."""
    if pbc.all():
        return cell
    if not pbc.any():
        return np.eye(3)
    completed = cell.copy()
    completed[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
    return completed


def _gaps_closed(positions: FloatArray, directions: FloatArray, cutoff: float) -> FloatArray:
    """Shorten every gap between widely scattered atoms along non-periodic directions that is longer than the cutoff.

    No pair reaches across such a gap, so that none is lost and none is made. vesin's time grows with the extent of
    the structure, and atoms that flew off (1e6 Å, say) would end the process.
    """
    if len(directions) == 0 or np.ptp(positions, axis=0).max() < SCATTERED:
        return positions
    for direction in directions:
        along = positions @ direction
        order = np.argsort(along)
        excess = np.maximum(np.diff(along[order]) - 1.1 * cutoff, 0.0)
        shift = np.zeros(len(along))
        shift[order[1:]] = np.cumsum(excess)
        positions = positions - shift[:, None] * direction
    return positions


def _search_radius(points: FloatArray, box: FloatArray, pbc: NDArray[np.bool_], cutoff: float) -> float:
    """Return the cutoff, doubled until cell (extent, where not periodic) has room for few enough bins of that size."""
    lengths = np.where(pbc, np.linalg.norm(box, axis=1), np.ptp(points @ box.T, axis=0))
    radius = cutoff
    while np.maximum(lengths / radius, 1.0).prod() > MOST_BINS:
        radius *= 2.0
    return radius
