"""The search for neighbours of one structure, with vesin: preparations that make it safe and fast for any cell."""

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from vesin import NeighborList

from atomslim.errors import StructureError
from atomslim.memory import free_memory

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]

THREADED_ATOMS = 2000
"""Structures of at least this size are searched with torch's number of threads; smaller ones with one."""

SCATTERED = 500.0
"""Å: from this extent on, atoms along a non-periodic direction are moved together before the search."""

MANY_PAIRS = 2e6
"""Above this many pairs, a search takes long enough to check memory first and to handle signals."""

_SPHERE = 4 / 3 * math.pi

PAIR_BYTES = 200
"""Memory at the peak for each directed pair, until pairs are sorted."""

Found = TypeVar("Found")

MOST_BINS = 1e5
"""vesin sorts atoms into at most this many bins; a long, thin cell with more makes it divide by zero."""


def half_list(
    positions: FloatArray, cell: FloatArray, pbc: NDArray[np.bool_], cutoff: float
) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """Find source, target, offset (of the source) and distance of all pairs nearer than cutoff (Å), in one direction.

    vesin's shift S of a pair (i, j) means r_j + S · cell − r_i, so that j is our source.
    """
    box = search_box(cell, pbc)
    points = gaps_closed(positions, box[~pbc], cutoff)
    radius = _search_radius(points, box, pbc, cutoff)
    expected = expected_pairs(points, box, pbc, radius)
    require_memory(expected, cutoff)
    threads = torch.get_num_threads() if len(points) >= THREADED_ATOMS else 1
    search = NeighborList(cutoff=radius, full_list=False, n_threads=threads)
    find = partial(search.compute, points, box, pbc, quantities="PSd", copy=False)
    pairs, shift, distance = interruptible(find) if expected > MANY_PAIRS else find()
    if radius > cutoff:
        near = distance < cutoff
        pairs, shift, distance = pairs[near], shift[near], distance[near]
    target, source = pairs.astype(np.int64).T
    return source, target, shift.astype(np.int64), distance.copy()


def expected_pairs(points: FloatArray, box: FloatArray, pbc: NDArray[np.bool_], cutoff: float) -> float:
    """Estimate how many directed pairs there are, from the density and the part of the sphere that contains atoms.

    The box has unit vectors instead of non-periodic ones. Without periodicity an atom has all others at most.
    """
    count, volume = len(points), _volume(box)
    if not pbc.any() and count**2 <= MANY_PAIRS:
        return float(count**2)
    if pbc.all():
        return count * count / volume * _SPHERE * cutoff**3
    extent = np.maximum(np.ptp(points @ box[~pbc].T, axis=0), 1e-3)  # along what is not periodic
    sphere = _SPHERE * cutoff**3 / extent.prod()
    slab = (2 * cutoff) ** pbc.sum() * np.minimum(1.0, 2 * cutoff / extent).prod()
    neighbours = count / volume * min(sphere, slab)
    return float(count * (neighbours if pbc.any() else min(neighbours, count)))


def _volume(box: FloatArray) -> float:
    """Return the volume of a cell; written out, since numpy is slow for nine numbers."""
    (a, b, c), (d, e, f), (g, h, i) = box.tolist()
    return float(abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)))


def require_memory(expected: float, cutoff: float) -> None:
    """Raise StructureError, before a long search begins, where its pairs do not fit into memory."""
    free = free_memory() if expected > MANY_PAIRS else None
    if free is not None and expected * PAIR_BYTES > free:
        raise StructureError(
            f"cutoff {cutoff:g} Å: about {expected:.1e} pairs of atoms take {expected * PAIR_BYTES / 2**30:.3g} GiB, "
            f"and {free / 2**30:.3g} GiB are free: choose a shorter cutoff, or a smaller structure"
        )


def interruptible(find: Callable[[], Found]) -> Found:
    """Run a long search in another thread, so that Ctrl-C and other signals are handled meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        return find()
    outcome: list[Found | BaseException] = []

    def run() -> None:
        try:
            outcome.append(find())
        except BaseException as error:  # noqa: BLE001 -- raised again below
            outcome.append(error)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    while worker.is_alive():
        worker.join(0.1)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def search_box(cell: FloatArray, pbc: NDArray[np.bool_]) -> FloatArray:
    """Replace non-periodic vectors (zero, or even parallel to a periodic one) by unit ones at right angles to all."""
    if pbc.all():
        return cell
    if not pbc.any():
        return np.eye(3)
    completed = cell.copy()
    completed[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
    return completed


def gaps_closed(positions: FloatArray, directions: FloatArray, cutoff: float) -> FloatArray:
    """Shorten every gap between widely scattered atoms along non-periodic directions that is longer than the cutoff.

    No pair reaches across such a gap, so none is lost and none is added. vesin's time grows with the extent of
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
