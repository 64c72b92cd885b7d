"""Matrix products over the rows of each atom: the two sums that every factorised interaction is made of.

Each is the derivative of the other, so two autograd functions give derivatives of any order, and no intermediate
larger than the operands is saved. ``torch.segment_reduce`` lacks the second derivative that training on conservative
forces needs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

from atomslim.models.precision import full_precision


@dataclass(frozen=True)
class Group:
    """Segments of one size: their numbers (g,), and where their rows lie, one segment after the other."""

    segments: Int[Tensor, " g"]
    first_row: int
    size: int

    @property
    def rows(self) -> slice:
        """The group's rows."""
        return slice(self.first_row, self.first_row + self.size * len(self.segments))


@dataclass(frozen=True)
class Segments:
    """Rows, each belonging to one segment (edges to their target atom).

    The rows of one segment are neighbours, and so are segments of one size: each group is one batched matrix product
    on a view, without padding and without copying rows.
    """

    num_rows: int
    num_segments: int
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, segment: Int[Tensor, " rows"], num_segments: int) -> "Segments":
        """Group rows by ``segment``, which is in the order of `order_by_size`."""
        sizes = torch.bincount(segment, minlength=num_segments)
        groups, first_row = [], 0
        for size in torch.unique(sizes).tolist():
            if size:
                count = int((sizes == size).sum())
                members = segment[first_row : first_row + size * count : size]
                groups.append(Group(members, first_row, size))
                first_row += size * count
        return cls(num_rows=len(segment), num_segments=num_segments, groups=tuple(groups))

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the sums of `segment_outer`."""
        (_, r, p), q = x.shape, y.shape[2]
        out = x.new_zeros(self.num_segments, p, q)
        for group in self.groups:
            x_rows = x[group.rows].reshape(-1, group.size * r, p)
            y_rows = y[group.rows].reshape(-1, group.size * r, q)
            out[group.segments] = torch.bmm(x_rows.transpose(1, 2), y_rows)
        return out

    def apply(self, x: Tensor, matrices: Tensor) -> Tensor:
        """Return the products of `segment_apply`."""
        (_, r, p), q = x.shape, matrices.shape[2]
        out = x.new_empty(self.num_rows, r, q)
        for group in self.groups:
            x_rows = x[group.rows].reshape(-1, group.size * r, p)
            torch.bmm(x_rows, matrices[group.segments], out=out[group.rows].view(-1, group.size * r, q))
        return out

    def parts(self, together: int, at_once: int) -> "tuple[Part, ...]":
        """Leave up to ``together`` rows in one part; split more into whole segments, of ``at_once`` or one."""
        if self.num_rows <= together:
            return (Part(slice(None), self),)
        cut = [
            Group(group.segments[first : first + count], group.first_row + first * group.size, group.size)
            for group in self.groups
            for count in [max(at_once // group.size, 1)]
            for first in range(0, len(group.segments), count)
        ]
        parts: list[list[Group]] = []
        for group in cut:
            if not parts or group.rows.stop - parts[-1][0].first_row > at_once:
                parts.append([])
            parts[-1].append(group)
        return tuple(self._part(groups) for groups in parts)

    def _part(self, groups: list[Group]) -> "Part":
        first, stop = groups[0].first_row, groups[-1].rows.stop
        moved = tuple(Group(group.segments, group.first_row - first, group.size) for group in groups)
        return Part(slice(first, stop), Segments(stop - first, self.num_segments, moved))


@dataclass(frozen=True)
class Part:
    """Some of the rows, those of whole segments, and the same numbers for them alone."""

    rows: slice
    segments: Segments


def order_by_size(segment: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Return the order of rows that puts small segments first and keeps each segment together, in its own order."""
    sizes = torch.bincount(segment)
    return torch.argsort(sizes[segment] * len(sizes) + segment, stable=True)


def segment_outer(
    x: Float[Tensor, "rows r p"], y: Float[Tensor, "rows r q"], segments: Segments
) -> Float[Tensor, "segments p q"]:
    """Return ``out[s] = Σ_{rows i of s} x[i]ᵀ y[i]``, differentiable to any order, in the wider of the two dtypes."""
    x, y = _same_dtype(x, y)
    return _Outer.apply(x, y, segments)  # type: ignore[no-untyped-call]


def segment_apply(
    x: Float[Tensor, "rows r p"], matrices: Float[Tensor, "segments p q"], segments: Segments
) -> Float[Tensor, "rows r q"]:
    """Return ``out[i] = x[i] matrices[segment of i]``, differentiable to any order, in the wider of the two dtypes."""
    x, matrices = _same_dtype(x, matrices)
    return _Apply.apply(x, matrices, segments)  # type: ignore[no-untyped-call]


def _same_dtype(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Widen the narrower operand: under autocast, messages may be bfloat16 while geometry stays float32."""
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)


class _Outer(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, segments: Segments) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.segments = segments
        with full_precision(x.device):
            return segments.outer(x, y)

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
        with full_precision(x.device):
            return segments.apply(x, matrices)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, matrices = ctx.saved_tensors
        grad_x = segment_apply(grad, matrices.transpose(1, 2), ctx.segments) if ctx.needs_input_grad[0] else None
        grad_matrices = segment_outer(x, grad, ctx.segments) if ctx.needs_input_grad[1] else None
        return grad_x, grad_matrices, None
