"""What the enumerating reference promises of itself, on made-up structures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from reference import (
    Graph,
    Inputs,
    forward,
    keys_from_config,
    legendre,
    sum_outer,
)
from reference.bases import State


def test_summed_outer_products_are_index_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    outgoing = torch.randint(0, 7, (50,), generator=generator)
    angular, values = (torch.randn(50, d, dtype=torch.float64, generator=generator) for d in (4, 3))
    plain = torch.zeros(9, 4, 3, dtype=torch.float64)
    plain.index_add_(0, outgoing, angular[:, :, None] * values[:, None])
    assert torch.allclose(sum_outer(angular, values, outgoing, 9), plain)
    assert not sum_outer(angular[:0], values[:0], outgoing[:0], 9).any()


def test_legendre_polynomials_are_orthonormal_on_the_sphere() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(16)
    y = legendre(torch.from_numpy(nodes), 7)
    gram = 2 * np.pi * torch.einsum("t,ti,tj->ij", torch.from_numpy(weights), y, y)
    assert torch.allclose(gram, torch.eye(7, dtype=torch.float64), atol=1e-13)


TINY = {
    **dict.fromkeys(("num_before_skip", "num_after_skip", "num_concat", "num_atom", "num_output_afteratom"), 1),
    **dict.fromkeys(("num_atom_emb_layers", "num_global_out_layers"), 1),
    **{f"emb_size_{name}_{end}": 3 for name in ("trip", "quad", "aint") for end in ("in", "out")},
    **dict.fromkeys(("emb_size_rbf", "emb_size_cbf", "emb_size_sbf"), 3),
    **dict.fromkeys(("emb_size_atom", "emb_size_edge", "num_radial"), 6),
    "num_blocks": 2,
    "num_spherical": 4,
    "num_elements": 120,
    "direct_forces": True,
}


def tiny_state(*, dtype: torch.dtype = torch.float64, direct_forces: bool = True) -> State:
    """Random weights, with edge and atom embeddings of one width."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for key, shape in keys_from_config({**TINY, "direct_forces": direct_forces}, tasks=1):
        state[key] = (
            torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) / max((*shape[-1:], 1)) ** 0.5
        )
        if key.endswith(".rbf.offset"):
            state[key] = torch.linspace(0, 1, *shape, dtype=dtype)
    return state


def molecule(positions: list[list[float]], dtype: torch.dtype = torch.float64) -> Inputs:
    """Every atom sees every other one, in every graph."""
    number = len(positions)
    pairs = torch.cartesian_prod(torch.arange(number), torch.arange(number)) if number else torch.zeros(0, 2).long()
    source, target = pairs[pairs[:, 0] != pairs[:, 1]].T
    graph = Graph(source, target, torch.zeros(len(source), 3, dtype=torch.long))
    reverse = torch.argsort(target * number + source)
    numbers = torch.arange(number) + 1
    graphs = dict.fromkeys(("main", "a2a", "a2ee2a", "qint"), graph)
    batch = torch.zeros(number, dtype=torch.long)
    return Inputs(
        torch.tensor(positions, dtype=dtype), numbers, torch.zeros(1, 3, 3, dtype=dtype), batch, graphs, reverse
    )


BENT = [[0.0, 0.0, 0.0], [1.1, 0.1, 0.0], [1.4, 1.2, 0.2], [2.3, 1.5, 1.1], [-0.6, 0.9, -0.7]]
PLANAR = [[0.0, 0.0, 0.0], [1.1, 0.1, 0.0], [1.4, 1.2, 0.0], [2.3, 1.5, 0.0]]
LINEAR = [[0.0, 0.0, 0.0], [0.0, 0.0, 1.1], [0.0, 0.0, 2.5], [0.0, 0.0, 3.4]]


def energy(state: State, inputs: Inputs, positions: Tensor) -> Tensor:
    return forward(state, inputs.with_positions(positions))["E"].sum()


def test_conservative_forces_are_the_gradient_of_the_energy() -> None:
    state, inputs = tiny_state(), molecule(BENT)
    positions = inputs.positions.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: energy(state, inputs, x), (positions,))


@pytest.mark.parametrize("shape", [BENT, PLANAR], ids=["bent", "planar"])
def test_second_derivatives_agree_with_finite_differences(shape: list[list[float]]) -> None:
    state, inputs = tiny_state(), molecule(shape)

    def gradient(x: Tensor) -> Tensor:
        (result,) = torch.autograd.grad(energy(state, inputs, x), x, create_graph=True)
        return result

    x = inputs.positions.clone().requires_grad_(True)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    (product,) = torch.autograd.grad((gradient(x) * direction).sum(), x)
    step = 1e-4 * direction
    sides = [gradient((inputs.positions + sign * step).requires_grad_(True)).detach() for sign in (1, -1)]
    numeric = (sides[0] - sides[1]) / 2e-4
    assert (product - numeric).abs().max() < 1e-5 * numeric.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_straight_lines_have_finite_derivatives(dtype: torch.dtype) -> None:
    state, inputs = tiny_state(dtype=dtype), molecule(LINEAR, dtype)
    x = inputs.positions.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy(state, inputs, x), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert gradient.isfinite().all()
    assert second.isfinite().all()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_very_small_molecules(number: int) -> None:
    inputs = molecule(BENT[:number])
    result = forward(tiny_state(), inputs)
    assert result["E"].shape == (1, 1)
    assert result["F"].shape == (number, 3, 1)
    assert all(value.isfinite().all() for value in result.values())


def test_energy_does_not_depend_on_orientation_and_mirror_image() -> None:
    state, inputs = tiny_state(), molecule(BENT)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))).Q
    for rotation in (turn, -turn):
        there, here = forward(state, inputs.with_positions(inputs.positions @ rotation)), forward(state, inputs)
        assert torch.allclose(there["E"], here["E"], rtol=1e-12)
        assert torch.allclose(there["F"], torch.einsum("nxt,xy->nyt", here["F"], rotation), atol=1e-12)


def test_edge_order_does_not_matter() -> None:
    state, inputs = tiny_state(), molecule(BENT)
    main = inputs.graphs["main"]
    order = torch.randperm(len(main), generator=torch.Generator().manual_seed(4))
    rank = torch.argsort(order)
    shuffled = Graph(main.source[order], main.target[order], main.offset[order])
    other = Inputs(
        inputs.positions,
        inputs.numbers,
        inputs.cell,
        inputs.batch,
        inputs.graphs | {"main": shuffled},
        rank[inputs.reverse[order]],
    )
    assert torch.allclose(forward(state, other)["F"], forward(state, inputs)["F"], atol=1e-13)


def test_a_model_without_force_branch_has_energies_only() -> None:
    result = forward(tiny_state(direct_forces=False), molecule(BENT))
    assert "E" in result
    assert not {"F", "xF0", "out_mlp_F"} & set(result)


def test_a_scale_factor_of_zero_acts_as_one() -> None:
    inputs = molecule(BENT)
    zero, one = tiny_state(), tiny_state()
    for key in zero:
        if key.endswith("scale_factor"):
            zero[key], one[key] = torch.tensor(0.0).double(), torch.tensor(1.0).double()
    assert torch.equal(forward(zero, inputs)["E"], forward(one, inputs)["E"])
