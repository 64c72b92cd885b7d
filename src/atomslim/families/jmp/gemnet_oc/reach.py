"""Smooth graphs: every atom has its own reach, which includes about k neighbours, without ranks among them.

The reach R_a (Å) of atom a solves, with all distances d_ab within the cutoff c,

    Σ_b w(d_ab / R_a) + k (R_a / c)^8 = k,      w = u₁₀,

where u_p is the polynomial envelope that falls from 1 to 0 on [0, 1]. The sum counts neighbours, those near the rim in
part; the second term keeps R_a below c where there are fewer than k. The left side grows with R_a, so that there is one
solution, and it moves smoothly with the atoms. The edge s → t lives up to R_st = (R_s + R_t)/2, the same for both of
its directions, and everything that is read from it fades out under u₅(d_st / R_st).

| symbol | variable | shape |
|---|---|---|
| k | ``neighbours`` | (n,) |
| c | ``cutoff`` | (n,) |
| R_a | ``radius`` | (n,) |

Structures whose graphs are not smooth have k = 0 and R_a = c, where every radial basis of theirs ends.

The equation is solved outside the graph of derivatives. Two steps of Newton's method from the solution, inside it,
change no number and have its derivatives up to the third: each step is right to twice as many orders as the last.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

COUNT = 10
"""p of the envelope that counts neighbours: about half of those within reach of an atom in a bulk count."""

WALL = 8
"""Power of the term that keeps the reach below the cutoff."""

NEWTON_STEPS = 60
"""At most; about seven are needed. Bisection takes over where Newton's step leaves the bracket."""

TRACED_STEPS = 16
"""So many where a program is traced, which cannot look whether they are enough."""

QUAD = 0.65
"""Share of the reach within which edges are middle edges of quadruplets: about 8 of 30, as in JMP."""


@dataclass(frozen=True)
class Reach:
    """The reach of every atom of a batch, solved at the positions that the topology was built for."""

    radius: Float[Tensor, " n"]
    neighbours: Float[Tensor, " n"]
    cutoff: Float[Tensor, " n"]

    @property
    def smooth(self) -> Bool[Tensor, " n"]:
        """Which atoms have a smooth graph."""
        return self.neighbours > 0

    def to(self, device: torch.device | str) -> "Reach":
        """Move to `device`."""
        return Reach(self.radius.to(device), self.neighbours.to(device), self.cutoff.to(device))

    def differentiable(self, distance: Float[Tensor, " e"], target: Int[Tensor, " e"]) -> "Reach":
        """Return the same reach with its derivatives by the distances of all pairs within the cutoff."""
        if not distance.requires_grad:
            return self
        radius = self.radius
        for _ in range(2):
            value, slope = _equation(radius, distance, target, self.neighbours, self.cutoff)
            radius = torch.where(self.smooth, radius - value / torch.where(self.smooth, slope, 1.0), radius)
        return Reach(radius, self.neighbours, self.cutoff)

    def of_edges(self, source: Int[Tensor, " e"], target: Int[Tensor, " e"]) -> Float[Tensor, " e"]:
        """Return R_st = (R_s + R_t)/2 of edges."""
        return (self.radius[source] + self.radius[target]) / 2


def solve_reach(
    distance: Float[Tensor, " e"],
    target: Int[Tensor, " e"],
    neighbours: Float[Tensor, " n"],
    cutoff: Float[Tensor, " n"],
    *,
    traced: bool = False,
) -> Reach:
    """Solve the equation for all atoms at once, from the distances (Å) of all pairs within the cutoff.

    With ``traced`` no step depends on numbers, so that what traces a program gets the same operations for all.
    """
    low, high, radius = torch.zeros_like(cutoff), cutoff, 0.7 * cutoff
    for _ in range(TRACED_STEPS if traced else NEWTON_STEPS):
        value, slope = _equation(radius, distance, target, neighbours, cutoff)
        low, high = torch.where(value < 0, radius, low), torch.where(value > 0, radius, high)
        step = radius - value / slope
        settled = (step - radius).abs() < 1e-13 * cutoff  # rounding may put it outside the bracket by now
        radius = torch.where(settled | (step > low) & (step < high), step, (low + high) / 2)
        if not traced and bool(settled.all()):
            break
    return Reach(torch.where(neighbours > 0, radius, cutoff), neighbours, cutoff)


def _equation(
    radius: Float[Tensor, " n"],
    distance: Float[Tensor, " e"],
    target: Int[Tensor, " e"],
    neighbours: Float[Tensor, " n"],
    cutoff: Float[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return left minus right side of the equation, and its derivative by R."""
    x = distance / radius[target]  # (e,)
    weight, slope = _counted(x)
    counted = torch.zeros_like(radius).index_add(0, target, weight)  # (n,)
    growth = torch.zeros_like(radius).index_add(0, target, -x * slope)  # (n,)
    ratio = (radius / cutoff).square()
    wall = neighbours * ratio.square().square()  # (n,)
    return counted + wall - neighbours, (growth + WALL * wall) / radius


def _counted(x: Float[Tensor, " e"]) -> tuple[Float[Tensor, " e"], Float[Tensor, " e"]]:
    """Return u₁₀(x), as `envelope` does, and its derivative, by products: powers take many times as long.

    Both polynomials are exactly zero at x = 1, and so beyond.
    """
    p, x = COUNT, x.clamp(max=1.0)
    below = x.square().square().square() * x
    polynomial = 1 + below * x * (-(p + 1) * (p + 2) // 2 + x * (p * (p + 2) - p * (p + 1) // 2 * x))
    slope = -p * (p + 1) * (p + 2) // 2 * below * (1 - x).square()
    return polynomial, slope


def envelope(x: Float[Tensor, "*shape"], power: int = 5) -> Float[Tensor, "*shape"]:
    """Return u_p(x) = 1 − (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) − p(p+1)/2 x^(p+2) for x < 1, else 0.

    It is smooth to second order at x = 1; p = 5 is that of GemNet-OC (arXiv 2003.03123).
    """
    p = power
    polynomial = 1 + x**p * (-(p + 1) * (p + 2) // 2 + x * (p * (p + 2) - p * (p + 1) // 2 * x))
    return torch.where(x < 1, polynomial, torch.zeros_like(x))
