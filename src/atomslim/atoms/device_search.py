"""The search for neighbours on a device, by nvalchemi-toolkit-ops: all structures of a batch in one call.

It is taken for tensors on a CUDA device where the package is installed. The environment variable ``ATOMSLIM_SEARCH``
overrides that: ``nvalchemi`` for every device, the CPU included, ``vesin`` for none.
"""

import math
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atomslim.atoms.search import FloatArray, IntArray, expected_pairs, gaps_closed, require_memory, search_box
from atomslim.errors import ConfigError

VARIABLE = "ATOMSLIM_SEARCH"

CHOICES = ("auto", "vesin", "nvalchemi")

MARGIN = 1e-6
"""Å: margin of the search, so that rounding on the device loses no pair; callers apply the cutoff."""


def wanted(device: torch.device) -> bool:
    """Say whether structures on a device are searched there; raises ConfigError if it is asked for but missing."""
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in CHOICES:
        raise ConfigError(f"environment variable {VARIABLE}={choice}: choose one of {', '.join(CHOICES)}")
    if choice == "vesin" or (choice == "auto" and device.type != "cuda"):
        return False
    installed = find_spec("nvalchemiops") is not None
    if choice == "nvalchemi" and not installed:
        raise ConfigError(
            f"environment variable {VARIABLE}=nvalchemi: nvalchemi-toolkit-ops is not installed: "
            "pip install 'atomslim[nvalchemi]', or unset the variable"
        )
    return installed


def half_lists(
    structures: Sequence[tuple[FloatArray, FloatArray, NDArray[np.bool_]]], cutoff: float, device: torch.device
) -> tuple[IntArray, IntArray, IntArray]:
    """Find source, target and offset (of the source) of all pairs within a cutoff (Å), in one direction.

    Structures are positions (n, 3) and cell (3, 3) in Å, and pbc (3,); atoms are numbered through. Some pairs are
    farther apart, by rounding. Raises StructureError where pairs do not fit into memory.
    """
    boxed = [_boxed(*structure, cutoff + MARGIN) for structure in structures]
    sizes = torch.tensor([len(points) for points, _, _ in boxed])
    inputs = {
        "positions": torch.from_numpy(np.concatenate([points for points, _, _ in boxed])),
        "cell": torch.from_numpy(np.stack([box for _, box, _ in boxed])),
        "pbc": torch.from_numpy(np.stack([pbc for _, _, pbc in structures])),
        "batch_idx": torch.arange(len(boxed), dtype=torch.int32).repeat_interleave(sizes),
    }
    room = max(16, math.ceil(1.2 * max(neighbours for _, _, neighbours in boxed)))
    pairs, shifts = _searched({name: tensor.to(device) for name, tensor in inputs.items()}, cutoff + MARGIN, room)
    target, source = pairs.long().cpu().numpy()
    return source, target, shifts.long().cpu().numpy()


def _boxed(
    positions: FloatArray, cell: FloatArray, pbc: NDArray[np.bool_], cutoff: float
) -> tuple[FloatArray, FloatArray, float]:
    """Return positions, a cell, and about how many neighbours each atom has.

    Along non-periodic directions the cell holds all atoms; there, atoms are shifted and wide gaps closed, which
    changes no pair.
    """
    box = search_box(cell, pbc)
    points = gaps_closed(positions, box[~pbc], cutoff)
    expected = expected_pairs(points, box, pbc, cutoff)
    require_memory(expected, cutoff)
    box = box.copy()
    for axis in np.flatnonzero(~pbc):
        along = points @ box[axis]
        points = points + np.outer(np.full(len(points), 0.5 - along.min()), box[axis])
        box[axis] *= np.ptp(along) + 1.0
    return points, box, expected / len(points)


def _searched(inputs: dict[str, Tensor], cutoff: float, room: int) -> tuple[Tensor, Tensor]:
    """Return pairs (2, p), the shifted atoms in the second row, and shifts (p, 3); retries with more room if needed."""
    neighbor_list, overflow = _library()
    while True:
        try:
            pairs, _, shifts = neighbor_list(
                cutoff=cutoff, half_fill=True, return_neighbor_list=True, max_neighbors=room, **inputs
            )
        except overflow:
            room *= 2
        else:
            return pairs, shifts


def _library() -> tuple[Any, type[Exception]]:
    """Return its search function and its error for too little room; warp's start-up messages are suppressed."""
    import warp  # noqa: PLC0415 - an optional package

    warp.config.quiet = True
    from nvalchemiops.torch.neighbors import NeighborOverflowError, neighbor_list  # noqa: PLC0415 - as above

    return neighbor_list, NeighborOverflowError
