"""Bins of histograms, also for numbers that are equal up to rounding, for which NumPy fails."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_APART = 1e-9
"""Relative difference below which numbers are equal."""


def edges(values: Sequence[float] | NDArray[np.floating | np.integer], count: int) -> list[float]:
    """Return the edges of `count` bins for finite numbers; around them if they are all equal; also for none."""
    numbers = np.asarray(values, dtype=np.float64)
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    size = max(abs(low), abs(high))
    margin = max(0.5, 1e-3 * size) if high - low <= _APART * size else 0.0
    return np.linspace(low - margin, high + margin, count + 1).tolist()
