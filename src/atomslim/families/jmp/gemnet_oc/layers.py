"""The small layers that every part of the network is built from."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

INV_SQRT_2 = 1 / math.sqrt(2)
INV_SQRT_3 = 1 / math.sqrt(3)
SILU_GAIN = 1 / 0.6


def scaled_silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return silu(x)/0.6, which keeps the variance of a standard normal input near one.

    ``x`` is the output of a linear layer that is not needed elsewhere: without gradients it is overwritten. Work in
    place here and below saves fresh memory, which costs more than the arithmetic.
    """
    return functional.silu(x, inplace=not x.requires_grad).mul_(SILU_GAIN)


def average(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return (x + y)/√2, which keeps the variance of two independent inputs.

    ``y`` is the output of a layer that is not needed elsewhere: it is overwritten, unless the sum takes a wider dtype.
    """
    total = y.add_(x) if x.dtype == y.dtype else x + y
    return total.mul_(INV_SQRT_2)


class Linear(nn.Linear):
    """A linear map without bias, as everywhere in the backbone."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Initialise with standardised orthogonal rows (GemNet-OC)."""
        standardised_orthogonal_(self.weight, summed=(1,))


class Residual(nn.Module):
    """x ← (x + act(W₂ act(W₁ x)))/√2."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = Linear(width, width)
        self.second = Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Return the updated features."""
        branch = scaled_silu(self.second(scaled_silu(self.first(x))))
        return average(x, self.dropout(branch))


def residuals(num: int, width: int, dropout: float = 0.0) -> nn.Sequential:
    """Return ``num`` residual layers in a row."""
    return nn.Sequential(*(Residual(width, dropout) for _ in range(num)))


class PairLinear(nn.Module):
    """W [h_s ; h_t ; x] for features x of edges s→t, without ever forming the concatenation.

    The atoms' part is multiplied once per atom and then gathered.
    """

    def __init__(self, atom_features: int, edge_features: int, out_features: int) -> None:
        super().__init__()
        self.splits = [atom_features, atom_features, edge_features]
        self.weight = nn.Parameter(torch.empty(out_features, sum(self.splits)))
        standardised_orthogonal_(self.weight, summed=(1,))

    def forward(
        self,
        h: Float[Tensor, "n atom_features"],
        x: Float[Tensor, "e edge_features"],
        source: Int[Tensor, " e"],
        target: Int[Tensor, " e"],
    ) -> Float[Tensor, "e out_features"]:
        """Return one row for each edge."""
        from_source, from_target, from_edge = self.weight.split(self.splits, dim=1)
        ends = (h @ from_source.T)[source]
        ends += (h @ from_target.T)[target]
        return torch.addmm(ends, x, from_edge.T)

    @staticmethod
    def side_by_side(
        h: Float[Tensor, "n atom_features"],
        x: Float[Tensor, "e edge_features"],
        source: Int[Tensor, " e"],
        target: Int[Tensor, " e"],
    ) -> Float[Tensor, "e in_features"]:
        """Return [h_s ; h_t ; x], one row for each edge."""
        return torch.cat([h[source], h[target], x], dim=1)


class ScaleFactor(nn.Module):
    """A stored number that brings the variance of a step's output back to that of its input; 0 means "not fitted".

    Multiply a narrow operand of the step by it rather than the step's wide result.
    """

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.zeros(()))
        self.observer: Any = None

    def forward(self) -> Float[Tensor, ""]:
        """Return the factor in force: 1 where it is not fitted."""
        return torch.where(self.factor == 0, torch.ones_like(self.factor), self.factor)

    def observe(
        self,
        before: Float[Tensor, "..."],
        after: Float[Tensor, "..."],
        before_rows: Bool[Tensor, "..."] | None = None,
        after_rows: Bool[Tensor, "..."] | None = None,
    ) -> None:
        """Pass the step's input and output to the fit of the factor, which may scale the output in place.

        Rows that are only padding are left out: ``before_rows`` and ``after_rows`` say which are not.
        """
        if self.observer is None:
            return
        shown = [x if rows is None else x[rows] for x, rows in ((before, before_rows), (after, after_rows))]
        scale = self.observer(*shown)
        if scale is not None:
            after.mul_(scale)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def scale_gradient(x: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    """Return ``x`` unchanged; its gradient is multiplied by ``scale``."""
    return _ScaleGradient.apply(x, scale)  # type: ignore[no-untyped-call]


@torch.no_grad()
def standardised_orthogonal_(weight: Float[Tensor, "..."], summed: tuple[int, ...]) -> None:
    """Fill ``weight`` orthogonally, then give it zero mean and variance 1/fan_in over the axes ``summed``.

    These are the axes that a product with the weight sums over: 1 of a matrix (out, in), 0 and 1 of the weight
    (radial, angular, out) of an angular basis. Initialisation of GemNet-OC (arXiv 2204.02782).
    """
    if weight.is_meta:  # a model about to be filled from a file
        return
    nn.init.orthogonal_(weight)
    fan_in = math.prod(weight.shape[axis] for axis in summed)
    variance, mean = torch.var_mean(weight, dim=summed, keepdim=True, unbiased=False)
    weight.sub_(mean).div_(torch.sqrt(variance + 1e-6)).mul_(1 / math.sqrt(fan_in))
