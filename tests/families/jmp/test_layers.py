"""Layers that work in place give what their formulas say, and leave alone what is not theirs."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from atomslim.families.jmp.gemnet_oc.layers import Residual, average, residuals


def plain(layers: torch.nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        assert isinstance(layer, Residual)
        branch = silu(silu(x @ layer.first.weight.T) / 0.6 @ layer.second.weight.T) / 0.6
        x = (x + branch) / math.sqrt(2)
    return x


@pytest.mark.parametrize("num", [0, 1, 3])
@pytest.mark.parametrize("gradients", [True, False])
def test_residual_layers_follow_their_formula(num: int, gradients: bool) -> None:
    layers = residuals(num, 5).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    before = x.clone()
    with torch.set_grad_enabled(gradients):
        found = layers(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(found, plain(layers, x), rtol=1e-12, atol=1e-12)


def test_derivatives_of_residual_layers() -> None:
    layers = residuals(2, 3).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layers, x)
    assert torch.autograd.gradgradcheck(layers, x)
    weights = list(layers.parameters())
    found = torch.autograd.grad(layers(x).square().sum(), weights)
    torch.testing.assert_close(found, torch.autograd.grad(plain(layers, x).square().sum(), weights))


@pytest.mark.parametrize("gradients", [True, False])
def test_a_wide_stream_is_not_narrowed(gradients: bool) -> None:
    """Atom features in float32 and their updates in bfloat16, as under `fast`."""
    x, y = torch.randn(4, 5), torch.randn(4, 5, dtype=torch.bfloat16)
    expected = (x + y) / math.sqrt(2)
    found = average(x, y.clone())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    layers = residuals(2, 5)
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layers(x).dtype == torch.float32
