"""Matrix products over the rows of each atom: the two sums that every factorised interaction is made of.

Each is the derivative of the other, so two autograd functions give derivatives of any order, and no intermediate
larger than the operands is saved. ``torch.segment_reduce`` lacks the second derivative that training on conservative
forces needs.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

_LOOP_ABOVE = 2**19
"""Multiply-adds per segment from which, on a CPU, a product for each on views beats batches of gathered rows."""


@dataclass(frozen=True)
class Segments:
    """Rows, each belonging to one segment (edges to their target atom), sorted by segment.

    ``sizes`` holds the number of rows of each segment. ``groups`` holds, for every size that occurs, the segments of
    that size (g,) and their rows (g, size), so that each group is one batched matrix product without padding.
    """

    num_rows: int
    sizes: tuple[int, ...]
    groups: tuple[tuple[Int[Tensor, " g"], Int[Tensor, "g size"]], ...]

    @classmethod
    def of(cls, segment: Int[Tensor, " rows"], num_segments: int) -> "Segments":
        """Group rows by their ``segment``, which must be sorted."""
        sizes = torch.bincount(segment, minlength=num_segments)
        starts = sizes.cumsum(0) - sizes
        groups = []
        for size in torch.unique(sizes).tolist():
            if size:
                members = torch.nonzero(sizes == size).squeeze(1)
                groups.append((members, starts[members, None] + torch.arange(size, device=segment.device)))
        return cls(num_rows=len(segment), sizes=tuple(sizes.tolist()), groups=tuple(groups))

    @property
    def num_segments(self) -> int:
        """Number of segments, empty ones included."""
        return len(self.sizes)

    def loops(self, x: Tensor, *widths: int) -> bool:
        """Whether to take the segments one by one for products of these row widths."""
        work = math.prod(widths) * self.num_rows
        return x.device.type == "cpu" and work > _LOOP_ABOVE * self.num_segments


def segment_outer(
    x: Float[Tensor, "rows r p"], y: Float[Tensor, "rows r q"], segments: Segments
) -> Float[Tensor, "segments p q"]:
    """Return ``out[s] = Σ_{rows i of s} x[i]ᵀ y[i]``, differentiable to any order."""
    return _Outer.apply(x, y, segments)  # type: ignore[no-untyped-call]


def segment_apply(
    x: Float[Tensor, "rows r p"], matrices: Float[Tensor, "segments p q"], segments: Segments
) -> Float[Tensor, "rows r q"]:
    """Return ``out[i] = x[i] matrices[segment of i]``, differentiable to any order."""
    return _Apply.apply(x, matrices, segments)  # type: ignore[no-untyped-call]


def _outer(x: Tensor, y: Tensor, segments: Segments) -> Tensor:
    (_, r, p), q = x.shape, y.shape[2]
    out = x.new_zeros(segments.num_segments, p, q)
    if segments.loops(x, r, p, q):
        for one, x_rows, y_rows in zip(out, x.split(segments.sizes), y.split(segments.sizes), strict=True):
            torch.mm(x_rows.reshape(-1, p).T, y_rows.reshape(-1, q), out=one)
        return out
    for members, rows in segments.groups:
        out[members] = torch.bmm(x[rows].flatten(1, 2).transpose(1, 2), y[rows].flatten(1, 2))
    return out


def _apply(x: Tensor, matrices: Tensor, segments: Segments) -> Tensor:
    (_, r, p), q = x.shape, matrices.shape[2]
    out = x.new_empty(segments.num_rows, r, q)
    if segments.loops(x, r, p, q):
        for matrix, x_rows, one in zip(matrices, x.split(segments.sizes), out.split(segments.sizes), strict=True):
            torch.mm(x_rows.reshape(-1, p), matrix, out=one.view(-1, q))
        return out
    for members, rows in segments.groups:
        out[rows] = torch.bmm(x[rows].flatten(1, 2), matrices[members]).view(*rows.shape, r, q)
    return out


class _Outer(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, segments: Segments) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.segments = segments
        return _outer(x, y, segments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y = ctx.saved_tensors
        grad_x = segment_apply(y, grad.transpose(1, 2), ctx.segments) if ctx.needs_input_grad[0] else None
        grad_y = segment_apply(x, grad, ctx.segments) if ctx.needs_input_grad[1] else None
        return grad_x, grad_y, None


class _Apply(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrices: Tensor, segments: Segments) -> Tensor:
        ctx.save_for_backward(x, matrices)
        ctx.segments = segments
        return _apply(x, matrices, segments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, matrices = ctx.saved_tensors
        grad_x = segment_apply(grad, matrices.transpose(1, 2), ctx.segments) if ctx.needs_input_grad[0] else None
        grad_matrices = segment_outer(x, grad, ctx.segments) if ctx.needs_input_grad[1] else None
        return grad_x, grad_matrices, None
