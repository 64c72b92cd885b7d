"""Bins of histograms, also for numbers that are the same but for rounding, of which NumPy makes none."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_APART = 1e-9
"""Share of the numbers themselves; those closer together are the same."""


def edges(values: Sequence[float] | NDArray[np.floating | np.integer], count: int) -> list[float]:
    """Return the edges of `count` bins for finite numbers; around them, where they are the same or there are none."""
    numbers = np.asarray(values, dtype=np.float64)
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    size = max(abs(low), abs(high))
    margin = max(0.5, 1e-3 * size) if high - low <= _APART * size else 0.0
    return np.linspace(low - margin, high + margin, count + 1).tolist()
