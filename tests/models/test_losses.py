import numpy as np
import pytest
import torch
from torch import Tensor

from atomslim.atoms import Sample
from atomslim.data.loader import Batch, collate
from atomslim.models import Target
from atomslim.models.losses import Term, loss_sums, weighted_mean
from train.water import waters

ENERGY = Target(name="energy", kind="energy", mean=1.0, std=2.0, references={1: -3.0, 8: -7.0})


def batch_of(*samples: Sample, task: str = "a") -> Batch:
    return collate(samples, [task] * len(samples), {task: ["energy", "forces"]})


def value(terms: list[Term], outputs: dict[str, dict[str, Tensor]], batch: Batch) -> float:
    sums = loss_sums(terms, outputs, batch)
    return float(weighted_mean(terms, sums, torch.stack([part.count for part in sums])))


@pytest.mark.parametrize(
    ("loss", "expected"), [("l1", (0.5 + 3) / 2), ("mse", (0.25 + 9) / 2), ("huber", (0.125 + 2.5) / 2)]
)
def test_energies_are_compared_after_mean_references_and_spread(loss: str, expected: float) -> None:
    samples = waters(2)
    offset = 1.0 - 7.0 - 2 * 3.0
    labels = [float(sample.targets["energy"]) for sample in samples]
    raw = torch.tensor([(y - offset) / 2.0 for y in labels]) + torch.tensor([0.5, -3.0])
    term = Term("a", "energy", 1.0, loss, 2.0, 2.0, ENERGY)  # type: ignore[arg-type]
    assert value([term], {"a": {"energy": raw}}, batch_of(*samples)) == pytest.approx(expected, rel=1e-5)


def test_forces_are_averaged_by_structure_first() -> None:
    small = waters(1)[0]
    large = Sample.create([1] * 9, np.arange(27.0).reshape(9, 3), {"energy": 0.0, "forces": np.zeros((9, 3))})
    batch = batch_of(small, large)
    raw = batch.targets["forces"].clone()
    raw[:3] += torch.tensor([3.0, 0.0, 4.0])  # ‖ΔF‖₂ = 5 on each of three atoms, 0 on the nine others
    term = Term("a", "forces", 2.0, "l2", 1.0, 10.0)
    assert value([term], {"a": {"forces": raw}}, batch) == pytest.approx(2.0 * (5.0 / 10.0 + 0.0) / 2)


def test_fixed_atoms_and_missing_labels_do_not_count() -> None:
    sample = waters(1)[0]
    fixed = Sample.create(sample.numbers, sample.positions, sample.targets, fixed=[True, False, False])
    unlabelled = Sample.create(sample.numbers, sample.positions, {"energy": 0.0})
    batch = batch_of(fixed, unlabelled)
    raw = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True)
    terms = [Term("a", "forces", 1.0, "l2", 1.0, 1.0)]
    sums = loss_sums(terms, {"a": {"forces": raw}}, batch)
    assert float(sums[0].count) == 1
    expected = np.linalg.norm(sample.targets["forces"][1:], axis=1).mean()
    assert sums[0].total.item() == pytest.approx(expected)
    sums[0].total.backward()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()
    assert raw.grad[0].abs().max() == raw.grad[3:].abs().max() == 0


def test_each_structure_counts_for_its_own_task() -> None:
    samples = waters(3)
    batch = collate(samples, ["a", "b", "a"], {"a": ["energy"], "b": ["energy"]})
    zero = torch.zeros(3, dtype=torch.float64)
    labels = [float(sample.targets["energy"]) for sample in samples]
    terms = [Term("a", "energy", 1.0, "l1", 1.0, 1.0), Term("b", "energy", 10.0, "l1", 1.0, 1.0)]
    expected = (abs(labels[0]) + abs(labels[2]) + 10 * abs(labels[1])) / 3
    assert value(terms, {"a": {"energy": zero}, "b": {"energy": zero}}, batch) == pytest.approx(expected)
