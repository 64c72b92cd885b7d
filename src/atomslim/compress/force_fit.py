"""Force-aware least squares: the readout's map fitted to energies, forces and stress of the full model at once.

Least squares on features alone sees values, not slopes, and brings energies back but not forces. With a readout that is
linear in its map W, so are forces and stress. Where layers that are not linear follow (JMP, CHGNet) this holds to first
order about the present W, and the fit is repeated from where it got to (Gauss-Newton). With r the differences between
full and cut model on calibration structures, and J their derivatives by W,

    ΔW = argmin ‖J ΔW − r‖² + λ Σ_k D_k ‖Δw_k‖²  =  D⁻¹ Jᵀ (J D⁻¹ Jᵀ + λ)⁻¹ r

| symbol | variable | meaning |
|---|---|---|
| r | residuals | energies per atom, and derivatives of energies along directions, times roots of weights, (rows,) |
| J | jacobian | derivatives of what the cut model says by its map, the same rows, (rows, d, k) |
| D_k | scale | sum of squares of J over rows and outputs for feature k, so that λ is a pure number |
| w_k | | column k of W |
| λ | ridge | chosen by the errors of structures that are held out: each fourth of the batches in turn |

A derivative along a direction is −F · displacement + V σ : strain (see `atomslim.compress.slopes`): a few random
directions of each structure stand for all its forces, at the cost of as many backward passes; of a structure with no
more degrees of freedom than directions, they are all of them. Rows are far fewer than weights, so that the system is
solved in the space of rows. The objective is

    mean over structures of (ΔE / n)² + ω [w_F mean over components of ΔF² + w_S mean over components of (V Δσ / n)²]

in eV and Å, with ω = 1 / (1 + F² / F₀²) of a structure with RMS force F, F₀ its median: otherwise a few structures far
from equilibrium would dominate. The fit begins at the sliced map or at that of plain least squares, whichever leads
further on held-out structures, where plain least squares has not seen them either. A step has to make errors smaller
there, on the whole and in the geometric mean over the parts, and no larger on what it was fitted to: else it has left
the range in which the model is linear in its map. Where no step does so, the better of both maps stays, with a warning.
Changes outputs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from typing import Any
from warnings import warn

import torch
from jaxtyping import Float
from torch import Tensor

from atomslim.compress.force_rows import Rows, errors, said, wanted
from atomslim.compress.realign import HELD_OUT
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.readout import ReadoutMap

RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 10.0)

STEPS = 3
"""Most linearisations."""

_CLEARLY = 0.98
"""An error counts as smaller below this fraction of another."""

_ROUNDING = 1e-10
"""Squared error (eV, Å) that counts as zero."""

LARGEST = 2**30
"""Most numbers in the Jacobian (float32: 4 GiB)."""


@dataclass(frozen=True)
class ForceFit:
    """Errors of a pruned model relative to the full one on held-out structures: rms, weighted as in the fit."""

    structures: int
    held_out: int
    """Structures that errors are of, held out in turn; 0: a single batch, and they are of the fitted structures."""
    rows: int
    began_at: str
    ridges: tuple[float, ...]
    """One for each linearisation; none: no step made held-out errors smaller."""
    before: dict[str, float]
    """Errors of the sliced model."""
    after: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self) | {"ridges": list(self.ridges)}


@dataclass(frozen=True)
class Start:
    """A starting map: of all structures, and without each of the `parts` that are held out in turn."""

    whole: Float[Tensor, "d k"]
    without: tuple[Float[Tensor, "d k"], ...] = ()
    """Empty: it depends on no structures, so it is the same."""

    def by_fold(self, count: int) -> list[Float[Tensor, "d k"]]:
        """Return the maps fitted without what is held out."""
        return list(self.without) or [self.whole] * count


Fold = tuple[Sequence[Rows], Sequence[Rows]]
"""What is fitted, and what is held out."""


@dataclass(frozen=True)
class HeldOut:
    """Errors of structures that a fit has not seen."""

    energy: float
    forces: float
    typical: float
    """The geometric mean of the objectives of all parts: a few outliers do not dominate it."""

    def is_better(self, other: "HeldOut") -> bool:
        """Say whether it is clearly better in all, and on the whole."""
        return self.objective < _CLEARLY * other.objective and self.typical < _CLEARLY * other.typical

    @property
    def objective(self) -> float:
        """Mean over structures."""
        return self.energy**2 + self.forces**2

    def as_dict(self) -> dict[str, float]:
        """Root mean squares, and the objective."""
        return {"energy": self.energy, "forces": self.forces, "objective": self.objective}


def parts(batches: int) -> list[int]:
    """Return the remainders of batch numbers, from 1, that are held out in turn; none for a single batch."""
    return sorted({number % HELD_OUT for number in range(1, batches + 1)}) if batches > 1 else []


def fit_forces(small: BlockModel, starts: dict[str, Start], rows: Sequence[Rows]) -> ForceFit:
    """Fit the map of atoms' features of ``small`` in place, from the best of ``starts`` by name.

    The first of them is what errors are compared with. Warns if no fit is better than its start on held-out
    structures. Raises ConfigError where the Jacobian would be too large.
    """
    readout = small.readout_maps()["node"]
    _require_room(readout, rows)
    folds = _folds(rows)
    before = _held_out(small, next(iter(starts.values())).by_fold(len(folds)), folds)
    paths = {name: _path(small, start.by_fold(len(folds)), folds) for name, start in starts.items()}
    name = min(paths, key=lambda one: paths[one][1].typical)
    ridges, after = paths[name]
    readout.assign(starts[name].whole)
    began = errors(small, rows)["objective"]
    for ridge in ridges:  # the same steps on all structures
        _step(small, rows, ridge)
    if ridges and not errors(small, rows)["objective"] <= began:
        readout.assign(starts[name].whole)
        ridges, after = (), _held_out(small, starts[name].by_fold(len(folds)), folds)
    if not ridges and after.objective > _ROUNDING:
        _say_no_better(name, "held-out" if len(rows) > 1 else "the fitted")
    count = sum(one.batch.num_structures for one in rows)
    total = sum(one.weights.numel() for one in rows)
    return ForceFit(count, count if len(rows) > 1 else 0, total, name, ridges, before.as_dict(), after.as_dict())


def _require_room(readout: ReadoutMap, rows: Sequence[Rows]) -> None:
    count = sum(one.weights.numel() for one in rows)
    size = count * readout.in_features * readout.out_features
    if size > LARGEST:
        raise ConfigError(
            f"least-squares-forces: {count} rows by {readout.in_features * readout.out_features} weights are "
            f"{size * 4 / 2**30:.0f} GiB: take fewer structures or directions, to have a share of {LARGEST / size:.0%}"
        )


def _folds(rows: Sequence[Rows]) -> list[Fold]:
    """Return what is fitted and what is held out, each part of the batches once."""
    numbered = list(enumerate(rows, start=1))
    return [
        (
            [one for number, one in numbered if number % HELD_OUT != part],
            [one for number, one in numbered if number % HELD_OUT == part],
        )
        for part in parts(len(rows))
    ] or [(rows, rows)]


def _path(small: BlockModel, starts: Sequence[Tensor], folds: Sequence[Fold]) -> tuple[tuple[float, ...], HeldOut]:
    """Return the ridges of steps that make held-out errors smaller, one after the other, and the errors there."""
    here, best, ridges = list(starts), _held_out(small, starts, folds), list[float]()
    for _ in range(STEPS):
        found = [dict(_solutions(small, fitted, RIDGES, at)) for at, (fitted, _) in zip(here, folds, strict=True)]
        ways = {ridge: [maps[ridge] for maps in found] for ridge in RIDGES}
        scores = {ridge: _held_out(small, maps, folds) for ridge, maps in ways.items()}
        better = [ridge for ridge in RIDGES if scores[ridge].is_better(best)]
        better.sort(key=lambda ridge: scores[ridge].typical)
        ridge = next((one for one in better if _is_near(small, here, ways[one], folds)), None)
        if ridge is None:
            break
        here, best = ways[ridge], scores[ridge]
        ridges.append(ridge)
    return tuple(ridges), best


def _held_out(small: BlockModel, maps: Sequence[Tensor], folds: Sequence[Fold]) -> HeldOut:
    """Return the errors of all structures, each with the map that was fitted without it."""
    counts = [sum(one.batch.num_structures for one in held_out) for _, held_out in folds]
    found = [_errors_at(small, weight, held_out) for weight, (_, held_out) in zip(maps, folds, strict=True)]
    energy, forces = (
        sum(count * one[name] ** 2 for count, one in zip(counts, found, strict=True)) / sum(counts)
        for name in ("energy", "forces")
    )
    logarithms = [log(max(one["objective"], 1e-30)) for one in found]
    return HeldOut(energy**0.5, forces**0.5, exp(sum(logarithms) / len(logarithms)))


def _is_near(small: BlockModel, before: Sequence[Tensor], after: Sequence[Tensor], folds: Sequence[Fold]) -> bool:
    """Say whether no step increases the errors of what it was fitted to, as may happen in non-linear models."""
    return all(
        _errors_at(small, two, fitted)["objective"] <= _errors_at(small, one, fitted)["objective"]
        for one, two, (fitted, _) in zip(before, after, folds, strict=True)
    )


def _errors_at(small: BlockModel, weight: Tensor, rows: Sequence[Rows]) -> dict[str, float]:
    small.readout_maps()["node"].assign(weight)
    return errors(small, rows)


def _step(small: BlockModel, rows: Sequence[Rows], ridge: float) -> None:
    readout = small.readout_maps()["node"]
    ((_, weight),) = _solutions(small, rows, [ridge], readout.weight().detach())
    readout.assign(weight)


def _say_no_better(name: str, where: str) -> None:
    warn(
        f"least-squares-forces: no fit to energies and forces has smaller errors on {where} structures than the map "
        f"that is {'sliced' if name == 'sliced' else f'fitted by {name}'}, which is kept: more "
        "calibration structures, or more directions, might change that",
        AtomslimWarning,
        stacklevel=2,
    )


def _solutions(
    small: BlockModel, rows: Sequence[Rows], ridges: Sequence[float], start: Float[Tensor, "d k"]
) -> list[tuple[float, Float[Tensor, "d k"]]]:
    """Return the map after one step from ``start``, by ridge."""
    readout = small.readout_maps()["node"]
    readout.assign(start)
    here = readout.weight().detach().double()
    jacobian, residuals = (torch.cat(parts) for parts in zip(*(_linearised(small, one) for one in rows), strict=True))
    scale = jacobian.square().sum((0, 1), dtype=torch.float64)
    scale = torch.where(scale > 0, scale, 1.0)
    scaled = (jacobian / scale.sqrt().to(jacobian)).flatten(1)
    gram = scaled.double() @ scaled.double().T
    values, vectors = torch.linalg.eigh(gram)
    turned = vectors.T @ residuals
    found = []
    for ridge in ridges:
        part = vectors @ (turned / (values.clamp(min=0) + ridge))
        step = (part.to(scaled) @ scaled).view(here.shape).double() / scale.sqrt()
        found.append((ridge, here + step))
    return found


def _linearised(small: BlockModel, rows: Rows) -> tuple[Float[Tensor, "rows d k"], Float[Tensor, " rows"]]:
    """Return derivatives by the map, and differences from the full model, both times roots of weights."""
    layers = [piece.layer.weight for piece in small.readout_maps()["node"].pieces]
    asked = [layer.requires_grad for layer in layers]
    try:
        for layer in layers:
            layer.requires_grad_(True)
        found = torch.cat(said(small, rows))
        roots = rows.weights.sqrt()
        counted = [(row, column) for row, column in roots.nonzero().tolist()]
        made = [torch.cat(_gradient(found[at], layers), dim=1) * roots[at].to(layers[0]) for at in counted]
    finally:
        for layer, was in zip(layers, asked, strict=True):
            layer.requires_grad_(was)
    residuals = (wanted(rows) - found.detach()) * roots
    return torch.stack(made), torch.stack([residuals[at] for at in counted])


def _gradient(value: Tensor, layers: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, layers, retain_graph=True, materialize_grads=True, allow_unused=True)
