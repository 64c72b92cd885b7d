"""The loss on labels: what is computed for it, and that leaving the rest out changes neither loss nor gradients."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Tensor

from atomslim.atoms import Sample
from atomslim.data.loader import Batch, collate
from atomslim.families.jmp import JMP
from atomslim.models.losses import Term, loss_sums, task_terms, weighted_mean
from atomslim.train.optimisation import Labels
from samples import CONSERVATIVE, DIRECT
from small_models import jmp
from train.water import waters

OTHER = CONSERVATIVE.model_copy(update={"name": "other"})
STRESS = Term("conservative", "stress", 1.0, "l1", 1.0, 1.0)


def learner() -> JMP:
    return jmp(DIRECT, CONSERVATIVE, OTHER, num_blocks=1, sum_scale=1.0).train()


def batch_of(model: JMP, samples: list[Sample], *tasks: str) -> Batch:
    targets = dict.fromkeys(model.tasks, ("energy", "forces", "stress"))
    return collate(samples, tasks, targets, model.topology)


def crystal() -> Sample:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    labels: dict[str, Any] = {"energy": -6.0, "forces": np.full((2, 3), 0.1), "stress": 0.01 * np.eye(3)}
    return Sample.from_ase(atoms, labels)


def gradients(model: JMP, loss: Tensor) -> list[Tensor]:
    """Every weight of the learned tasks has one, if only zeros."""
    return list(torch.autograd.grad(loss, [*model.backbone.parameters(), *model.heads.parameters()]))


@pytest.mark.parametrize("tasks", [("direct",) * 3, ("conservative",) * 3, ("direct", "other", "direct")], ids=str)
def test_derivatives_are_those_of_the_tasks_that_occur(tasks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls, derivatives = learner(), list[int](), JMP._derivatives
    batch = batch_of(model, waters(3), *tasks)
    terms = [term for task in model.tasks.values() for term in task_terms(task)]
    sums = loss_sums(terms, model(batch.atoms, batch.topology, normalised=True, create_graph=True), batch)
    expected = weighted_mean(terms, sums, torch.stack([part.count for part in sums]))

    def counted(*arguments: Any, **more: Any) -> dict[str, Tensor]:
        calls.append(1)
        return derivatives(*arguments, **more)

    monkeypatch.setattr(JMP, "_derivatives", counted)
    loss = Labels(terms).loss(model, batch, Tensor.detach)
    assert len(calls) == len({"conservative", "other"} & set(tasks))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for ours, whole in zip(gradients(model, loss), gradients(model, expected), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-12)


def test_batches_without_a_crystal_have_no_stress_to_learn() -> None:
    model = jmp(CONSERVATIVE, DIRECT, num_blocks=1, sum_scale=1.0).train()
    for task in ("conservative", "direct"):
        batch = batch_of(model, waters(2), task, task)
        assert float(Labels([STRESS]).loss(model, batch, Tensor.detach).detach()) == 0.0
    both = batch_of(model, [crystal(), *waters(1)], "conservative", "direct")
    assert float(Labels([STRESS]).loss(model, both, Tensor.detach).detach()) > 0.0
    only = replace(both, tasks=("direct", "direct"))
    assert float(Labels([STRESS]).loss(model, only, Tensor.detach).detach()) == 0.0
