"""Large structures: coefficients computed for a part of the edges at a time, and again in every block."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from atomslim.atoms import AtomsBatch, from_ase, to_batch
from atomslim.families.jmp import JMP
from atomslim.families.jmp.gemnet_oc import bases
from atomslim.families.jmp.gemnet_oc.coefficients import OutgoingEdges
from atomslim.models import Task
from samples import CONSERVATIVE, DIRECT, ethanol, sheared_crystal, slab
from small_models import jmp
from train.water import waters

BATCH = from_ase([ethanol(), sheared_crystal(), slab()])


def model_of(task: Task) -> JMP:
    return jmp(task, num_blocks=2, direct_forces=task.direct, sum_scale=1.0).eval()


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Compute in parts, until this is called."""
    monkeypatch.setitem(bases.KEPT_EDGES, "cpu", 8)
    monkeypatch.setattr(bases, "EDGES_AT_ONCE", 6)
    monkeypatch.setattr(bases, "PAIRS_AT_ONCE", 5)

    def whole() -> None:
        monkeypatch.setitem(bases.KEPT_EDGES, "cpu", 10**6)
        monkeypatch.setattr(bases, "PAIRS_AT_ONCE", 10**6)

    return whole


def kept_bytes(model: JMP, batch: AtomsBatch) -> int:
    """Return the bytes that the forward pass keeps for the backward pass, besides weights."""
    topology = model.topology(batch)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in weights:
            sizes[address] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(batch, topology)
    del outputs
    return sum(sizes.values())


@pytest.mark.parametrize("task", [DIRECT, CONSERVATIVE], ids=["direct", "conservative"])
def test_predictions_are_the_same(task: Task, together: Callable[[], None]) -> None:
    model = model_of(task)
    found = model.predict(BATCH)
    together()
    expected = model.predict(BATCH)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-12, equal_nan=True)


def test_derivatives_of_forces_are_the_same(together: Callable[[], None]) -> None:
    model, batch = model_of(CONSERVATIVE), to_batch(waters(2))
    topology = model.topology(batch)

    def gradients() -> list[Tensor]:
        outputs = model(batch, topology)[CONSERVATIVE.name]
        model.zero_grad()
        (outputs["energy"].square().sum() + outputs["forces"].square().sum()).backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    found = gradients()
    together()
    for ours, theirs in zip(found, gradients(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_coefficients_are_not_kept(together: Callable[[], None]) -> None:
    model = model_of(CONSERVATIVE)
    found = kept_bytes(model, BATCH)
    together()
    assert found < 0.6 * kept_bytes(model, BATCH)


@pytest.mark.usefixtures("together")
def test_training_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of(DIRECT), to_batch(waters(2))
    kept: list[bool] = []
    each = OutgoingEdges.each

    def noted(self: OutgoingEdges[object], function: Callable[..., Tensor]) -> Tensor:
        kept.append(self.kept is not None)
        return each(self, function)

    monkeypatch.setattr(OutgoingEdges, "each", noted)
    model(batch, model.topology(batch))
    model.train()(batch, model.topology(batch))
    assert kept == [False] * 6 + [True] * 6
