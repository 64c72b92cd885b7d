"""Per-element reference energies: a linear fit by composition that keeps the prior where compositions do not decide.

| symbol | variable | meaning |
|---|---|---|
| y_s | values | energy of the structures of composition s, averaged |
| n_sZ | table | atoms of element Z |
| w_s | weights | number of these structures |
| E_Z⁰ | prior | what is expected of an element (such as another fit); by default, an equal share per atom |
| E_Z | references | E_Z⁰ + δ_Z |

δ minimises Σ_s w_s (Σ_Z n_sZ (E_Z⁰ + δ_Z) − y_s)²/σ² + Σ_Z δ_Z²/τ². σ² is the residual variance of a fit without the
second term, τ the residual of the prior per atom, and 1 eV at least: distinguishable compositions decide, directions
that the data leave open (a single molecule, elements in fixed proportion) stay at the prior.

The gap between two references of energies: labels of one code beside energies of another method.

Such energies differ by a constant for every atom of an element, up to thousands of eV, and their plain errors are
meaningless. The gap is a fit of label − prediction by composition (as above, nothing expected). It
counts where the median of |label − prediction| per atom is `FACTOR` times the residual of the fit, and `SMALLEST` eV.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

ISOLATED_ATOM = "IsolatedAtom"
"""Group of structures that are one atom in a vacuum, as `config_type` marks them in files, in any case."""

Floats = NDArray[np.float64]

SMALLEST_PRIOR = 1.0
"""eV: least uncertainty of an expected reference."""

ASSUMED_NOISE = 0.05
"""eV per atom: spread beyond composition where there are too few structures to measure it."""


@dataclass(frozen=True)
class LinearFit:
    """References by element, in the order of the table's columns."""

    values: Floats
    rank: int
    """How many numbers the compositions determine."""


def fit_references(
    table: Floats, values: Floats, weights: Floats, within: float = 0.0, prior: Floats | None = None
) -> LinearFit:
    """Fit references as above.

    Args:
        table: atoms by composition and element, (S, Z).
        values: mean energies of the compositions in eV, (S,).
        weights: numbers of structures, (S,).
        within: sum of squared deviations inside compositions, in eV².
        prior: expected references in eV, (Z,); NaN where nothing is expected.

    """
    start = _completed(table, values, weights, prior)
    rest = values - table @ start
    root = np.sqrt(weights / weights.sum())
    u, s, vt = np.linalg.svd(table * root[:, None], full_matrices=False)
    kept = s > s.max(initial=0.0) * max(table.shape) * np.finfo(float).eps
    u, s, vt = u[:, kept], s[kept], vt[kept]
    ridge = _ridge(table, rest, weights, within, u @ (u.T @ (root * rest)))
    shift = vt.T @ (s * (u.T @ (root * rest)) / (s**2 + ridge))
    # one step of refinement takes out most of the rounding that total energies of 10⁵ eV bring with them
    again = values - table @ (start + shift)
    shift += vt.T @ ((s * (u.T @ (root * again)) - ridge * (vt @ shift)) / (s**2 + ridge))
    return LinearFit(start + shift, int(kept.sum()))


def _completed(table: Floats, values: Floats, weights: Floats, prior: Floats | None) -> Floats:
    """Give elements without a prior an equal share of the residual of the others."""
    start = np.full(table.shape[1], np.nan) if prior is None else prior.astype(np.float64)
    known = np.isfinite(start)
    if not known.all():
        atoms = table[:, ~known].sum(axis=1)
        rest = values - table[:, known] @ start[known]
        start[~known] = per_atom(atoms, rest, weights)
    return start


def per_atom(atoms: Floats, values: Floats, weights: Floats) -> float:
    """Return the energy m of one atom for which Σ w (y − m n)² is smallest."""
    total = float((weights * atoms**2).sum())
    return float((weights * atoms * values).sum()) / total if total else 0.0


def _ridge(table: Floats, rest: Floats, weights: Floats, within: float, explained: Floats) -> float:
    """Return σ²/(N τ²); ``explained`` is what a fit without ridge makes of the weighted rest."""
    count, atoms = weights.sum(), table.sum(axis=1)
    freedom = count - np.linalg.matrix_rank(table)
    squares = within + count * float(((np.sqrt(weights / count) * rest - explained) ** 2).sum())
    assumed = float((weights * (ASSUMED_NOISE * atoms) ** 2).sum() / count)
    variance = squares / freedom if freedom > 0 else assumed
    tau = SMALLEST_PRIOR**2 + float((weights * (rest / atoms) ** 2).sum() / count)
    return float(variance / (count * tau))


def shifted(references: Mapping[int, float], shift: Mapping[int, float]) -> dict[int, float]:
    """Add a shift by element to references, which are 0 where there are none."""
    return {number: references.get(number, 0.0) + value for number, value in shift.items()}


FACTOR = 10.0
"""Median before the fit over median after it, above which references differ."""

SMALLEST = 0.2
"""eV per atom: smaller differences are errors."""

ABSURD = 5.0
"""eV per atom: larger differences come from references even if there are too few structures to fit."""


@dataclass(frozen=True)
class ReferenceGap:
    """Label − prediction by element."""

    references: dict[int, float]
    """Label − prediction in eV of one atom."""
    before: float
    """Median |label − prediction| in eV per atom."""
    after: float
    """The same after the fit."""
    structures: int

    def __str__(self) -> str:
        """Describe it in one line."""
        values = ", ".join(f"{chemical_symbols[number]} {value:+.4g}" for number, value in self.references.items())
        return (
            f"labels and model have different reference energies: {self.before:.4g} eV per atom apart in the median, "
            f"{self.after:.3g} after a fit per element ({values} eV)"
        )

    def of(self, numbers: Iterable[int]) -> float:
        """Return the gap for these atoms, in eV."""
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
