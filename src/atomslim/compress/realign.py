"""Least-squares re-alignment: a new linear map of the readout in closed form, without training.

After a cut the readout's map g₁' (see `atomslim.models.readout`) takes the features f' of the kept blocks, computed by
the cut model. Slicing drops the columns of the removed blocks and with them what they added to the pre-activations.
Here g₁' reproduces the full model's pre-activations g₁ f as well as a linear map can, on a few hundred calibration
structures:

    W = argmin Σ_rows ‖f' W^T − f W_full^T‖² + λ Σ_columns A_kk ‖w_k − w⁰_k‖²

| symbol | variable | meaning |
|---|---|---|
| f' | kept | features of the blocks that the cut model's readout takes, one row per atom (per edge), (rows, k) |
| f W_full^T | wanted | pre-activations of the full model, the same rows, (rows, d) |
| A = f'^T f', B = f'^T f W_full^T | gram, cross | normal equations, float64, added up batch by batch |
| w⁰ | prior | the sliced weights, to which W goes as λ grows |
| A_kk | diagonal | sum of squares of column k, so that neither the scale of a feature nor the number of rows matters |
| λ | ridge | a pure number; chosen on every fourth batch, which is held out, unless given |

The mean of A_kk in place of each fits unseen structures no better: as well for a model of one task, worse for one of
eight. All rows count equally. Middle blocks may go, too: f' then differs from f in the kept columns. Needs memory for
A, and none for the rows. Changes outputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any
from warnings import warn

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from atomslim.atoms import AtomsBatch
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.models.block_model import BlockFeatures, BlockModel
from atomslim.models.modes import inference
from atomslim.models.readout import ReadoutMap

RIDGES = (1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e6)
"""Tried on held-out batches; the last one almost keeps the sliced layer."""

_FEW_BATCHES = 1e-6
"""The ridge where no batch is held out."""

HELD_OUT = 4
"""Every fourth batch is held out."""


@dataclass(frozen=True)
class Fit:
    """How well pre-activations are reproduced: R² = 1 − Σ‖error‖²/Σ‖wanted‖² on held-out rows, before and after."""

    structures: int
    rows: int
    held_out: int
    """Rows among them that R² is of; 0: too few batches to hold one out, and R² is of the rows that were fitted."""
    ridge: float
    sliced: float
    fitted: float

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {
            "structures": self.structures,
            "rows": self.rows,
            "rows held out": self.held_out,
            "ridge": self.ridge,
            "R2 sliced": self.sliced,
            "R2 fitted": self.fitted,
        }


@dataclass
class NormalEquations:
    """Sums over rows that determine the fit, whatever the number of rows."""

    gram: Float[Tensor, "k k"]
    cross: Float[Tensor, "k d"]
    square: float = 0.0
    """Σ‖wanted‖²."""
    rows: int = 0

    @classmethod
    def zeros(cls, kept: int, wanted: int, device: torch.device | str = "cpu") -> "NormalEquations":
        """Start without rows."""
        gram, cross = (torch.zeros(kept, size, dtype=torch.float64, device=device) for size in (kept, wanted))
        return cls(gram, cross)

    def add(self, kept: Float[Tensor, "rows k"], wanted: Float[Tensor, "rows d"]) -> None:
        """Add the rows of one batch."""
        kept, wanted = (part.to(self.gram.device).double() for part in (kept, wanted))
        self.gram += kept.T @ kept
        self.cross += kept.T @ wanted
        self.square += float(wanted.square().sum())
        self.rows += len(kept)

    def plus(self, other: "NormalEquations") -> "NormalEquations":
        """Return the sums over the rows of both."""
        return NormalEquations(
            self.gram + other.gram, self.cross + other.cross, self.square + other.square, self.rows + other.rows
        )

    def solve(self, prior: Float[Tensor, "d k"], ridge: float) -> tuple[Float[Tensor, "d k"], float]:
        """Return the weights and the ridge that was used: a larger one where the equations are singular.

        They are taken for singular if, with columns scaled to one, a pivot is lost in rounding: below k · 2.2e-16.
        """
        diagonal = self.gram.diagonal()
        scale = torch.where(diagonal > 0, diagonal, 1.0).sqrt()
        scaled = self.gram / (scale[:, None] * scale)
        rest = (self.cross - self.gram @ prior.T) / scale[:, None]
        smallest = len(scale) * torch.finfo(torch.float64).eps
        while True:
            factor, failed = torch.linalg.cholesky_ex(scaled + ridge * torch.eye(len(scale)).to(scaled))
            if not bool(failed) and float(factor.diagonal().min()) ** 2 > smallest:
                return prior + (torch.cholesky_solve(rest, factor) / scale[:, None]).T, ridge
            ridge = max(10 * ridge, RIDGES[0])

    def explained(self, weight: Float[Tensor, "d k"]) -> float:
        """Return R² of these rows under a weight."""
        error = self.square - 2 * float((weight.T * self.cross).sum()) + float(((weight @ self.gram) * weight).sum())
        return 1.0 - error / self.square if self.square else 1.0


@dataclass
class _Branch:
    """Rows of atoms or of edges, in parts to which batches are dealt in turn; the first one is held out."""

    parts: tuple[NormalEquations, ...]

    @classmethod
    def of(cls, readout: ReadoutMap) -> "_Branch":
        device = readout.weight().device
        device = torch.device("cpu") if device.type == "mps" else device  # which has no float64
        sizes = readout.in_features, readout.out_features
        return cls(tuple(NormalEquations.zeros(*sizes, device) for _ in range(HELD_OUT)))

    @property
    def held_out(self) -> NormalEquations:
        return self.parts[0]

    @property
    def every(self) -> NormalEquations:
        return reduce(NormalEquations.plus, self.parts)

    def without(self, part: int) -> NormalEquations:
        return reduce(NormalEquations.plus, [one for at, one in enumerate(self.parts) if at != part])


@dataclass(frozen=True)
class Sums:
    """What a fit needs of calibration structures, by branch."""

    branches: dict[str, _Branch]
    structures: int

    def maps_without(
        self, branch: str, prior: Float[Tensor, "d k"], ridge: float, parts: Iterable[int]
    ) -> list[Float[Tensor, "d k"]]:
        """Return the maps fitted without the batches whose number has each remainder in ``parts``."""
        wide = prior.to(self.branches[branch].held_out.gram.device).double()
        return [self.branches[branch].without(part).solve(wide, ridge)[0] for part in parts]


def realign(
    small: BlockModel,
    full: BlockModel,
    batches: Iterable[tuple[AtomsBatch, Any]],
    *,
    ridge: float | None = None,
) -> dict[str, Fit]:
    """Fit the readout's maps of ``small``, a cut of ``full``, in place; return how well, by branch.

    Args:
        small: the cut model, its readout sliced.
        full: the model it was cut from.
        batches: calibration structures with their topologies, which both models take.
        ridge: λ; None: chosen on held-out batches (1e-6 where there are fewer than four).

    Raises:
        ConfigError: models that are not of one family, or a negative ridge.
        DataError: no calibration structures, or features that are not finite.

    """
    require_ridge(ridge)
    return fit(small, summed(small, full, batches), ridge=ridge)


def require_ridge(ridge: float | None) -> None:
    """Raise ConfigError for a negative ridge."""
    if ridge is not None and not 0 <= ridge < float("inf"):
        raise ConfigError(f"least-squares: ridge {ridge}: give 0 or more")


def summed(small: BlockModel, full: BlockModel, batches: Iterable[tuple[AtomsBatch, Any]]) -> Sums:
    """Add up what `fit` needs; arguments and errors as of `realign`."""
    maps, wholes = _maps(small, full)
    branches = {name: _Branch.of(readout) for name, readout in maps.items()}
    structures = 0
    with inference(small, full):
        for number, (batch, topology) in enumerate(batches, start=1):
            kept, whole = small.features(batch, topology), full.features(batch, topology)
            for name, branch in branches.items():
                part = branch.parts[number % HELD_OUT]
                part.add(*_rows(name, number, (maps[name], _of(kept, name)), (wholes[name], _of(whole, name))))
            structures += batch.num_structures
    if not structures:
        raise DataError("least-squares: there are no calibration structures: give some, with their task")
    return Sums(branches, structures)


def fit(small: BlockModel, sums: Sums, *, ridge: float | None = None) -> dict[str, Fit]:
    """Fit the maps of ``small`` in place to these sums, as `realign` does."""
    require_ridge(ridge)
    maps = small.readout_maps()
    return {name: _fit(maps[name], branch, ridge, name, sums.structures) for name, branch in sums.branches.items()}


def _maps(small: BlockModel, full: BlockModel) -> tuple[dict[str, ReadoutMap], dict[str, ReadoutMap]]:
    maps, wholes = small.readout_maps(), full.readout_maps()
    if maps.keys() != wholes.keys() or any(maps[name].out_features != wholes[name].out_features for name in maps):
        raise ConfigError("least-squares: one model is not a cut of the other: give the model it was cut from")
    return maps, wholes


def _rows(
    branch: str, number: int, kept: tuple[ReadoutMap, Sequence[Tensor]], whole: tuple[ReadoutMap, Sequence[Tensor]]
) -> tuple[Float[Tensor, "rows k"], Float[Tensor, "rows d"]]:
    """Return the inputs of the pruned model's readout, and the full model's pre-activations (without biases)."""
    ours, theirs = (readout.inputs(features) for readout, features in (kept, whole))
    if len(ours) != len(theirs):
        raise ConfigError(f"least-squares: {len(ours)} and {len(theirs)} {branch} rows: their edges differ")
    wanted = functional.linear(theirs, whole[0].weight())
    if not bool(torch.isfinite(ours).all() & torch.isfinite(wanted).all()):
        raise DataError(f"least-squares: calibration batch {number} has features that are not finite: check its data")
    return ours, wanted


def _of(features: BlockFeatures, branch: str) -> Sequence[Tensor]:
    return features.node if branch == "node" else features.edge


def _fit(readout: ReadoutMap, branch: _Branch, ridge: float | None, name: str, structures: int) -> Fit:
    every, held_out = branch.every, branch.held_out
    prior = readout.weight().detach().to(held_out.gram.device).double().clone()
    chosen = ridge if ridge is not None else _best_ridge(branch, prior)
    weight, used = every.solve(prior, chosen)
    if used > chosen:
        _say_singular(name, chosen, used)
    readout.assign(weight)
    tested, fitted = (held_out, branch.without(0).solve(prior, used)[0]) if held_out.rows else (every, weight)
    return Fit(structures, every.rows, held_out.rows, used, tested.explained(prior), tested.explained(fitted))


def _best_ridge(branch: _Branch, prior: Float[Tensor, "d k"]) -> float:
    """Return the ridge that reproduces held-out rows best."""
    if not branch.held_out.rows:
        return _FEW_BATCHES
    rest = branch.without(0)
    return max(RIDGES, key=lambda ridge: branch.held_out.explained(rest.solve(prior, ridge)[0]))


def _say_singular(branch: str, ridge: float, used: float) -> None:
    warn(
        f"least-squares: the normal equations of the {branch} readout are singular with ridge {ridge:.0e}: "
        f"{used:.0e} was used; more calibration structures would help",
        AtomslimWarning,
        stacklevel=2,
    )
