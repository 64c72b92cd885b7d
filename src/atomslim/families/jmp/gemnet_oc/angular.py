"""Angular functions of unit vectors: Legendre polynomials, real spherical harmonics, azimuths.

| symbol | meaning |
|---|---|
| Y_l(z) | sqrt((2l+1)/4π) P_l(z), the angular function of a cosine z |
| Y_lm(v) | real spherical harmonic of a unit vector v, orthonormal on the sphere |
| L | number of degrees, l = 0 … L − 1 |

Addition theorem: Y_l(u·v) = sqrt(4π/(2l+1)) Σ_m Y_lm(u) Y_lm(v).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

STRAIGHT = 1e-5
"""Sine of the angle below which three atoms count as a straight line, where a dihedral angle has no meaning."""


def legendre(z: Float[Tensor, "*shape"], num: int) -> Float[Tensor, "*shape num"]:
    """Return Y_l(z) for l = 0 … ``num`` − 1 by Bonnet's recurrence."""
    polynomials = [torch.ones_like(z), z][:num]
    for degree in range(2, num):
        previous, before = polynomials[-1], polynomials[-2]
        polynomials.append(((2 * degree - 1) * z * previous - (degree - 1) * before) / degree)
    return torch.stack([p * _norm(degree) for degree, p in enumerate(polynomials)], dim=-1)


def legendre_at(z: float, num: int) -> Float[Tensor, " num"]:
    """Return Y_l(z) at one number ``z``, in float64."""
    return legendre(torch.tensor(z, dtype=torch.float64, device="cpu"), num)


def spherical_harmonics(v: Float[Tensor, "*shape 3"], num: int) -> Float[Tensor, "*shape num*num"]:
    """Return Y_lm(v) for l = 0 … ``num`` − 1 and m = −l … l, flat index l² + l + m.

    Y_lm = N_lm (d^m P_l/dz^m) Re or Im (x + iy)^m, polynomials of the components: smooth everywhere on the sphere,
    the poles included.
    """
    x, y, z = v.unbind(-1)
    cosines, sines = _powers(x, y, num)
    columns: list[Tensor] = [z] * (num * num)
    for m in range(num):
        for degree, derivative in enumerate(_legendre_derivatives(z, m, num), start=m):
            scaled = derivative * _harmonic_norm(degree, m)
            centre = degree * degree + degree
            columns[centre + m] = scaled * cosines[m]
            if m:
                columns[centre - m] = scaled * sines[m]
    return torch.stack(columns, dim=-1)


def degree_of_harmonic(num: int) -> Int[Tensor, " num*num"]:
    """Return l of every flat index l² + l + m."""
    return torch.tensor([degree for degree in range(num) for _ in range(2 * degree + 1)])


def addition_weights(num: int) -> Float[Tensor, " num*num"]:
    """Return sqrt(4π/(2l+1)) for every flat index l² + l + m, in float64."""
    return torch.sqrt(4 * math.pi / (2 * degree_of_harmonic(num).to(torch.float64) + 1))


def frames(axis: Float[Tensor, "e 3"]) -> Float[Tensor, "e 3 3"]:
    """Return orthonormal rows (e₁, e₂, axis) for unit vectors ``axis``.

    Any frame serves, as only differences of azimuths enter; it moves smoothly with the axis, so that derivatives of
    every order are those of the differences.
    """
    smallest = axis.detach().abs().argmin(dim=-1)
    helper = torch.nn.functional.one_hot(smallest, 3).to(axis.dtype)
    first = helper - (helper * axis).sum(-1, keepdim=True) * axis
    first = first / torch.linalg.vector_norm(first, dim=-1, keepdim=True)
    return torch.stack([first, torch.linalg.cross(axis, first), axis], dim=-2)


def damped_azimuth_harmonics(local: Float[Tensor, "*shape 3"], num: int) -> Float[Tensor, "*shape slots"]:
    """Return the slots of `azimuth_harmonics` with order κ multiplied by the κ-th power of the sine to the axis.

    These are Re and Im (x + iy)^κ, polynomials of the components: they go smoothly to zero where a vector turns into
    the axis, so that nothing counts as straight and the last slot is zero.
    """
    cosines, sines = _powers(local[..., 0], local[..., 1], num)
    return torch.stack([*cosines, *sines[1:], torch.zeros_like(cosines[0])], dim=-1)


def azimuth_harmonics(local: Float[Tensor, "*shape 3"], num: int) -> tuple[Float[Tensor, "*shape slots"], Tensor]:
    """Return (cos 0φ … cos (L−1)φ, sin φ … sin (L−1)φ, straight) of a unit vector in a local frame, and "is straight".

    There are 2L slots. A vector along the axis has no azimuth: its cosines and sines are zero and the last slot is one;
    for every other vector the last slot is zero. Chebyshev's recurrence needs no inverse trigonometric function, and
    the replaced square root keeps derivatives of every order finite.
    """
    first, second = local[..., 0], local[..., 1]
    squared = first * first + second * second
    straight = squared.detach() < STRAIGHT * STRAIGHT
    sine = torch.sqrt(torch.where(straight, torch.ones_like(squared), squared))
    bent = (~straight).to(local.dtype)
    cos, sin = bent * first / sine, bent * second / sine
    cosines, sines = [bent, cos][:num], [sin][: num - 1]
    for order in range(2, num):
        cosines.append(2 * cos * cosines[-1] - cosines[-2])
        sines.append(2 * cos * sines[-1] - (sines[-2] if order > 2 else 0))
    return torch.stack([*cosines, *sines, 1 - bent], dim=-1), straight


def legendre_to_cosines(num: int) -> Float[Tensor, "num num"]:
    """Return c with Y_l(cos θ) = Σ_κ c[l, κ] cos κθ: the Chebyshev form of the Legendre polynomials, float64."""
    nodes = (torch.arange(num, dtype=torch.float64) + 0.5) * math.pi / num
    values = legendre(torch.cos(nodes), num)
    transform = torch.cos(nodes[:, None] * torch.arange(num, dtype=torch.float64)) * 2 / num
    transform[:, 0] /= 2
    return values.T @ transform


def _powers(x: Tensor, y: Tensor, num: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the real and the imaginary parts of (x + iy)^κ for κ = 0 … ``num`` − 1."""
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(1, num):
        c, s = cosines[-1], sines[-1]
        cosines.append(x * c - y * s)
        sines.append(x * s + y * c)
    return cosines, sines


def _norm(degree: int) -> float:
    return math.sqrt((2 * degree + 1) / (4 * math.pi))


def _harmonic_norm(degree: int, m: int) -> float:
    ratio = math.factorial(degree - m) / math.factorial(degree + m)
    return _norm(degree) * math.sqrt(ratio * (2 if m else 1))


def _legendre_derivatives(z: Tensor, m: int, num: int) -> list[Tensor]:
    """d^m P_l/dz^m for l = m … num − 1, by recurrence in l."""
    derivatives = [torch.full_like(z, math.prod(range(1, 2 * m, 2)))]
    if m + 1 < num:
        derivatives.append((2 * m + 1) * z * derivatives[0])
    for degree in range(m + 2, num):
        above = (2 * degree - 1) * z * derivatives[-1] - (degree + m - 1) * derivatives[-2]
        derivatives.append(above / (degree - m))
    return derivatives
