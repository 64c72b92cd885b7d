"""Least-squares re-alignment: a new first layer of the readout in closed form, without training.

After a cut the readout's first layer g₁' takes the features f' of the kept blocks, computed by the cut model. Slicing
drops the columns of the removed blocks and with them what they added to the pre-activations. Here g₁' reproduces the
full model's pre-activations g₁ f as well as a linear map can, on a few hundred calibration structures:

    W = argmin Σ_rows ‖f' W^T − f W_full^T‖² + λ Σ_columns a_k ‖w_k − w⁰_k‖²

| symbol | variable | meaning |
|---|---|---|
| f' | kept | features of the kept blocks in the cut model, one row per atom (per edge), (rows, k) |
| f W_full^T | wanted | pre-activations of the full model, the same rows, (rows, d) |
| A = f'^T f', B = f'^T f W_full^T | gram, cross | normal equations, float64, added up batch by batch |
| w⁰ | prior | the sliced weights, to which W goes as λ grows |
| a_k = A_kk / rows | | mean square of column k, so that the scale of a feature does not matter |
| λ | ridge | relative to the number of rows; chosen on every fourth batch, which is held out, unless given |

Every row counts alike. Changes outputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from warnings import warn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.models.block_model import BlockFeatures, BlockModel

RIDGES = (1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Tried on held-out batches."""

_HELD_OUT = 4  # every fourth batch


@dataclass(frozen=True)
class Fit:
    """How well pre-activations are reproduced: R² = 1 − Σ‖error‖²/Σ‖wanted‖² on held-out rows, before and after."""

    rows: int
    ridge: float
    sliced: float
    fitted: float

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {"rows": self.rows, "ridge": self.ridge, "R2 sliced": self.sliced, "R2 fitted": self.fitted}


@dataclass
class NormalEquations:
    """Sums over rows that determine the fit, whatever the number of rows."""

    gram: Float[Tensor, "k k"]
    cross: Float[Tensor, "k d"]
    square: float = 0.0
    """Σ‖wanted‖²."""
    rows: int = 0

    @classmethod
    def zeros(cls, kept: int, wanted: int) -> "NormalEquations":
        """Begin with no rows."""
        return cls(torch.zeros(kept, kept, dtype=torch.float64), torch.zeros(kept, wanted, dtype=torch.float64))

    def add(self, kept: Float[Tensor, "rows k"], wanted: Float[Tensor, "rows d"]) -> None:
        """Take in the rows of one batch."""
        kept, wanted = kept.double().cpu(), wanted.double().cpu()
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
        """Return the weights and the ridge that was used: a larger one where the equations are singular."""
        diagonal = self.gram.diagonal()
        scale = torch.where(diagonal > 0, diagonal, 1.0)
        rest = self.cross - self.gram @ prior.T
        while True:
            factor, failed = torch.linalg.cholesky_ex(self.gram + torch.diag(ridge * scale))
            if not bool(failed):
                return prior + torch.cholesky_solve(rest, factor).T, ridge
            ridge = max(10 * ridge, RIDGES[0])

    def explained(self, weight: Float[Tensor, "d k"]) -> float:
        """Return R² of these rows under a weight."""
        error = self.square - 2 * float((weight.T * self.cross).sum()) + float(((weight @ self.gram) * weight).sum())
        return 1.0 - error / self.square if self.square else 1.0


@dataclass
class _Pair:
    """Rows to fit on, and held-out rows."""

    fit: NormalEquations
    held_out: NormalEquations
    batches: int = field(default=0)

    def add(self, kept: Tensor, wanted: Tensor) -> None:
        self.batches += 1
        part = self.held_out if self.batches % _HELD_OUT == 0 else self.fit
        part.add(kept, wanted)


def realign(
    small: BlockModel,
    full: BlockModel,
    batches: Iterable[tuple[AtomsBatch, Any]],
    *,
    ridge: float | None = None,
) -> dict[str, Fit]:
    """Fit the readout's first layers of ``small``, a cut of ``full``, in place; return how well, by branch.

    Args:
        small: the cut model, its readout sliced.
        full: the model it was cut from.
        batches: calibration structures with their topologies, which both models take.
        ridge: λ; None: chosen on held-out batches (1e-6 where there are fewer than four).

    Raises:
        ConfigError: a readout that does not take features side by side, or models that are not of one family.
        DataError: no calibration structures.

    """
    if small.readout_kind != "concat":
        raise ConfigError(f"the readout of this model takes features as {small.readout_kind!r}: use sliced")
    layers, wholes = small.readout_first_layers(), full.readout_first_layers()
    if layers.keys() != wholes.keys() or any(layers[name].out_features != wholes[name].out_features for name in layers):
        raise ConfigError("least-squares: one model is no cut of the other: give the model it was cut from")
    sums = {
        name: _Pair(
            NormalEquations.zeros(layer.in_features, layer.out_features),
            NormalEquations.zeros(layer.in_features, layer.out_features),
        )
        for name, layer in layers.items()
    }
    modes = small.training, full.training
    small.eval()
    full.eval()
    with torch.no_grad():
        for batch, topology in batches:
            _add(sums, small.features(batch, topology), full.features(batch, topology), wholes)
    small.train(modes[0])
    full.train(modes[1])
    if not all(pair.batches for pair in sums.values()):
        raise DataError("least-squares: there are no calibration structures: give some, with their task")
    return {name: _fit(layers[name], pair, ridge, name) for name, pair in sums.items()}


def _add(sums: dict[str, _Pair], kept: BlockFeatures, whole: BlockFeatures, layers: dict[str, nn.Linear]) -> None:
    for name, pair in sums.items():
        small, full = _rows(kept, name), _rows(whole, name)
        if len(small) != len(full):
            raise ConfigError(f"least-squares: {len(small)} and {len(full)} {name} rows: the models see other edges")
        pair.add(small, layers[name](full))


def _rows(features: BlockFeatures, branch: str) -> Float[Tensor, "rows k"]:
    blocks: Sequence[Tensor] = features.node if branch == "node" else features.edge
    return torch.cat(tuple(blocks), dim=-1)


def _fit(layer: nn.Linear, pair: _Pair, ridge: float | None, branch: str) -> Fit:
    prior = layer.weight.detach().double().cpu().clone()
    held_out = pair.held_out if pair.held_out.rows else pair.fit
    chosen = ridge if ridge is not None else _best_ridge(pair, prior)
    tested, _ = pair.fit.solve(prior, chosen)
    every = pair.fit.plus(pair.held_out)
    weight, used = every.solve(prior, chosen)
    if used > chosen:
        warn(
            f"least-squares: the normal equations of the {branch} readout are singular with ridge {chosen:.0e}: "
            f"{used:.0e} was used; more calibration structures would settle it",
            AtomslimWarning,
            stacklevel=2,
        )
    with torch.no_grad():
        layer.weight.copy_(weight.to(layer.weight))
    return Fit(every.rows, used, held_out.explained(prior), held_out.explained(tested))


def _best_ridge(pair: _Pair, prior: Float[Tensor, "d k"]) -> float:
    """Return the ridge that reproduces held-out rows best."""
    if not pair.held_out.rows:
        return 1e-6
    return max(RIDGES, key=lambda ridge: pair.held_out.explained(pair.fit.solve(prior, ridge)[0]))
