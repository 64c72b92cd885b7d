"""The gap between two references of energies: labels of one code beside energies of another method.

Such energies differ by a constant for every atom of an element, up to thousands of eV, and their plain errors say
nothing. The gap is a fit of label − prediction by composition (`atomslim.data.references`, nothing expected). It
counts where the median of |label − prediction| per atom is `FACTOR` times what the fit leaves over, and `SMALLEST` eV.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from atomslim.data.references import fit_references

FACTOR = 10.0
"""Median before the fit over median after it, from which on references differ."""

SMALLEST = 0.2
"""eV per atom: smaller differences are errors."""

ABSURD = 5.0
"""eV per atom: larger differences are of references even where structures are too few to tell."""


@dataclass(frozen=True)
class ReferenceGap:
    """What labels have more than predictions, by element."""

    references: dict[int, float]
    """Label − prediction in eV of one atom."""
    before: float
    """Median |label − prediction| in eV per atom."""
    after: float
    """The same after the fit."""
    structures: int

    def __str__(self) -> str:
        """Say it in one line."""
        values = ", ".join(f"{chemical_symbols[number]} {value:+.4g}" for number, value in self.references.items())
        return (
            f"labels and model have different reference energies: {self.before:.4g} eV per atom apart in the median, "
            f"{self.after:.3g} after a fit per element ({values} eV)"
        )

    def of(self, numbers: Iterable[int]) -> float:
        """Return what the gap comes to for these atoms, in eV."""
        return sum(self.references.get(number, 0.0) for number in numbers)


def gap_of(table: NDArray[np.float64], differences: NDArray[np.float64]) -> ReferenceGap | None:
    """Return the gap where there is one.

    Args:
        table: atoms of each element, (structures, elements up to the last).
        differences: label − prediction in eV, (structures,).

    """
    atoms, elements = table.sum(axis=1), np.flatnonzero(table.any(axis=0))
    before = float(np.median(np.abs(differences) / atoms)) if len(differences) else float("nan")
    if not before >= SMALLEST:  # NaN is none, too
        return None
    fit = fit_references(table[:, elements], differences, np.ones(len(differences)), prior=np.zeros(len(elements)))
    after = float(np.median(np.abs(differences - table[:, elements] @ fit.values) / atoms))
    if before < FACTOR * after or (len(differences) <= 2 * fit.rank and before < ABSURD):
        return None
    return ReferenceGap(dict(zip(elements.tolist(), fit.values.tolist(), strict=True)), before, after, len(differences))
