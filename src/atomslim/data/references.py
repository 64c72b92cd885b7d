"""Per-element reference energies: a linear fit by composition that leaves open what the compositions cannot tell.

| symbol | variable | meaning |
|---|---|---|
| y_s | values | energy of the structures of composition s, averaged |
| n_sZ | table | atoms of element Z |
| w_s | weights | number of these structures |
| E_Z⁰ | prior | what is expected of an element (another fit, say); where nothing is, an equal share per atom |
| E_Z | references | E_Z⁰ + δ_Z |

δ minimises Σ_s w_s (Σ_Z n_sZ (E_Z⁰ + δ_Z) − y_s)²/σ² + Σ_Z δ_Z²/τ². σ² is the variance that a fit without the second
term leaves over, τ the size of what the prior leaves over per atom, and 1 eV at least: compositions that can be told
apart decide, directions that the data leave open (one molecule alone, elements in fixed proportion) stay at the prior.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ISOLATED_ATOM = "IsolatedAtom"
"""Group of structures that are one atom in a vacuum, as `config_type` marks them in files, in any case."""

Floats = NDArray[np.float64]

SMALLEST_PRIOR = 1.0
"""eV: an expected reference may be wrong by so much at least."""

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
    """Give elements of which nothing is expected an equal share of what the others leave over."""
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
