import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from atomslim.families.jmp.gemnet_oc.angular import (
    addition_weights,
    azimuth_harmonics,
    degree_of_harmonic,
    frames,
    legendre,
    legendre_at,
    legendre_to_cosines,
    spherical_harmonics,
)

L = 7


def unit_vectors(number: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(number, 3, dtype=torch.float64), dim=-1)


def test_legendre_against_closed_forms() -> None:
    z = torch.linspace(-1, 1, 11, dtype=torch.float64)
    values = legendre(z, 4)
    for degree, polynomial in enumerate([z**0, z, (3 * z**2 - 1) / 2, (5 * z**3 - 3 * z) / 2]):
        expected = math.sqrt((2 * degree + 1) / (4 * math.pi)) * polynomial
        assert torch.allclose(values[:, degree], expected, rtol=1e-13, atol=1e-15)


def test_addition_theorem() -> None:
    u, v = unit_vectors(20), unit_vectors(20)
    products = spherical_harmonics(u, L) * spherical_harmonics(v, L) * addition_weights(L)
    summed = torch.zeros(20, L, dtype=torch.float64).index_add(1, degree_of_harmonic(L), products)
    assert torch.allclose(summed, legendre((u * v).sum(-1), L), atol=1e-14)


def test_harmonics_are_orthonormal_on_the_sphere() -> None:
    # a product quadrature that is exact for the degrees at hand
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(L + 1)
    azimuths = torch.arange(2 * L + 2, dtype=torch.float64) * 2 * math.pi / (2 * L + 2)
    z = torch.from_numpy(nodes)[:, None].expand(-1, len(azimuths))
    sine = torch.sqrt(1 - z**2)
    v = torch.stack([sine * torch.cos(azimuths), sine * torch.sin(azimuths), z], dim=-1).reshape(-1, 3)
    area = torch.from_numpy(weights)[:, None].expand(-1, len(azimuths)).reshape(-1, 1) * 2 * math.pi / len(azimuths)
    harmonics = spherical_harmonics(v, L)
    assert torch.allclose(harmonics.T @ (area * harmonics), torch.eye(L * L, dtype=torch.float64), atol=1e-13)


def test_cosine_form_of_the_polynomials() -> None:
    angle = torch.linspace(0, math.pi, 9, dtype=torch.float64)
    series = torch.cos(angle[:, None] * torch.arange(L)) @ legendre_to_cosines(L).T
    assert torch.allclose(series, legendre(torch.cos(angle), L), atol=1e-14)


def test_frames_are_orthonormal_for_every_axis() -> None:
    axes = torch.cat([unit_vectors(20), torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    frame = frames(axes)
    assert torch.allclose(frame @ frame.transpose(1, 2), torch.eye(3, dtype=torch.float64), atol=1e-14)
    assert torch.equal(frame[:, 2], axes)


def test_azimuth_slots() -> None:
    local = unit_vectors(8)
    slots, straight = azimuth_harmonics(local, L)
    azimuth = torch.atan2(local[:, 1], local[:, 0])[:, None]
    expected = torch.cat([torch.cos(azimuth * torch.arange(L)), torch.sin(azimuth * torch.arange(1, L))], dim=-1)
    assert torch.allclose(slots[:, :-1], expected, atol=1e-13)
    assert not slots[:, -1].any()
    assert not straight.any()


@pytest.mark.parametrize("z", [1.0, -1.0])
def test_azimuth_of_a_straight_line_is_the_last_slot(z: float) -> None:
    slots, straight = azimuth_harmonics(torch.tensor([[1e-7, 0.0, z]]), L)
    assert straight.item()
    assert slots.tolist() == [[0.0] * (2 * L - 1) + [1.0]]


def test_derivatives_to_second_order() -> None:
    v = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    for function in (
        lambda x: spherical_harmonics(x, 4),
        lambda x: frames(torch.nn.functional.normalize(x, dim=-1)),
        lambda x: azimuth_harmonics(x, 4)[0],
    ):
        assert gradcheck(function, v)
        assert gradgradcheck(function, v)


def test_value_at_one_number() -> None:
    assert torch.allclose(legendre_at(0.3, L), legendre(torch.tensor(0.3, dtype=torch.float64), L))
