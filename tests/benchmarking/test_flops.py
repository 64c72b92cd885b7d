"""Counted FLOPs against hand counts: multiply and add are two."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from ase.build import bulk, molecule
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from atomslim.atoms import AtomsBatch, from_ase
from atomslim.benchmarking.passes import Job, Mode
from atomslim.benchmarking.speed import count_flops
from atomslim.families.jmp.gemnet_oc import Topology
from atomslim.families.jmp.gemnet_oc.segments import Segments, order_by_size, segment_apply, segment_outer
from samples import CONSERVATIVE, DIRECT
from small_models import jmp


def segments() -> Segments:
    segment = torch.tensor([0, 0, 0, 1, 2, 2, 2, 3])
    return Segments.of(segment[order_by_size(segment)], 5)


@pytest.mark.parametrize("second", [False, True])
def test_sums_by_atom_are_counted_forward_and_backward(*, second: bool) -> None:
    rows, r, p, q = 8, 2, 3, 5
    x, y = (torch.randn(rows, r, width, requires_grad=True) for width in (p, q))
    product = 2 * rows * r * p * q
    assert count_flops(lambda: segment_outer(x, y, segments())) == product
    matrices = torch.randn(5, p, q, requires_grad=True)
    assert count_flops(lambda: segment_apply(x, matrices, segments())) == product

    def derivatives() -> None:
        found = torch.autograd.grad(segment_outer(x, y, segments()).square().sum(), (x, y), create_graph=second)
        if second:
            torch.autograd.grad(found[0].sum(), (x, y))

    # the sum, its two gradients; then the two operands of the first gradient, one of which is again a sum with two
    assert count_flops(derivatives) == (7 if second else 3) * product


def test_the_interactions_of_a_block_have_the_flops_of_their_formulas() -> None:
    model = jmp(DIRECT, num_blocks=1).float()
    batch = from_ase([molecule("CH3CH2OH")])
    topology = model.topology(batch)
    c, n, main = model.config, batch.num_atoms, len(topology.main)
    found: dict[str, int] = {}
    block = cast("Any", model.backbone.blocks[0])
    for name in ("atom_to_atom", "edge_to_atom"):
        _count_calls(getattr(block, name), name, found)
    with torch.no_grad():
        model(batch, topology)
    pairs, narrow, summed = len(topology.atom), c.emb_size_aint_in, c.emb_size_aint_out
    radial = c.emb_size_rbf * narrow
    assert found["atom_to_atom"] == 2 * (
        n * c.emb_size_atom * narrow + pairs * radial + n * radial * summed + n * summed * c.emb_size_atom
    )
    narrow, summed, angular = c.emb_size_trip_in, c.emb_size_trip_out, c.emb_size_cbf * c.emb_size_trip_in
    gated = c.emb_size_edge * (c.emb_size_edge + c.emb_size_rbf + narrow)
    assert found["edge_to_atom"] == 2 * (main * (gated + angular) + n * angular * summed + n * summed * c.emb_size_atom)


def _count_calls(module: nn.Module, name: str, found: dict[str, int]) -> None:
    forward = module.forward

    def counted(*inputs: Any) -> Any:
        outputs: list[Any] = []
        found[name] = count_flops(lambda: outputs.append(forward(*inputs)))
        return outputs[0]

    module.forward = counted


def test_products_with_vectors_are_counted() -> None:
    matrix, vector = torch.randn(3, 5), torch.randn(5)
    assert count_flops(lambda: matrix @ vector) == 2 * 3 * 5


class Operations(TorchDispatchMode):
    """Notes every operation that torch carries out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(function.overloadpacket))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["energy", "forces", "train"])
def test_no_matrix_product_escapes_the_count(mode: Mode) -> None:
    run, _, _ = passes(mode, "conservative")
    with Operations() as seen:
        run()
    assert "aten.bmm" in seen.names
    uncounted = {"dot", "vdot", "addmv", "addr", "addbmm", "ger", "inner", "_trilinear"}
    uncounted |= {"linear", "matmul", "einsum", "tensordot", "bilinear"}  # torch makes these of others, which count
    assert not {f"aten.{name}" for name in uncounted} & seen.names


def passes(mode: Mode, task: str) -> tuple[Callable[[], object], AtomsBatch, Topology]:
    model = jmp(DIRECT, CONSERVATIVE, num_blocks=1)
    batch = from_ase([molecule("CH3CH2OH"), bulk("Cu", cubic=True)])
    topology = model.topology(batch, task)
    return Job(model, task, mode).on(batch, topology), batch, topology


@pytest.mark.parametrize("mode", ["energy", "forces", "train"])
def test_the_count_is_that_of_torch(mode: Mode) -> None:
    run, _, _ = passes(mode, "conservative")
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.mv: lambda shape, *_, **__: 2 * math.prod(shape)}
    ) as counter:
        run()
    assert count_flops(run) == counter.get_total_flops()


@pytest.mark.parametrize("task", ["direct", "conservative"])
def test_derivatives_cost_what_they_cost(task: str) -> None:
    modes: tuple[Mode, ...] = ("energy", "forces", "train")
    counts = {mode: count_flops(passes(mode, task)[0]) for mode in modes}
    assert counts["energy"] < counts["forces"] < counts["train"]
    if task == "conservative":
        assert counts["forces"] > 1.8 * counts["energy"]
        assert counts["train"] > 1.8 * counts["forces"]
    else:
        assert 2.5 * counts["forces"] < counts["train"] < 3.1 * counts["forces"]
