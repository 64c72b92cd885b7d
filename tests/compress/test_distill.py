from dataclasses import replace

import pytest
import torch
from torch import nn

from atomslim.compress.distill import (
    Weights,
    distillation_parts,
    graphs_apart,
    hessian_part,
    hessian_rows,
    projections,
    rattled,
    require_pair,
    teach,
)
from atomslim.compress.neighbours import with_neighbours
from atomslim.compress.prune import keep_blocks
from atomslim.data.loader import Batch
from atomslim.errors import ConfigError
from atomslim.evaluation.batches import batches
from atomslim.families.jmp import JMP
from atomslim.train.optimisation import attend
from samples import CONSERVATIVE, DIRECT
from small_models import jmp
from train.water import waters

EVERYTHING = Weights(forces=2.0, energy=3.0, node=5.0, edge=7.0, blocks=11.0)


def batch_of(model: JMP, task: str = "direct", count: int = 3) -> Batch:
    return next(batches(model, task, waters(count), count))


def pair() -> tuple[JMP, JMP, Batch]:
    teacher = jmp(DIRECT, num_blocks=3, sum_scale=1.0)
    return keep_blocks(teacher, 2), teacher, batch_of(teacher)


def parts_of(student: JMP, teacher: JMP, batch: Batch, weights: Weights) -> dict[str, tuple[float, float, float]]:
    theirs = teach(teacher, batch, weights)
    ours = attend(student, batch)
    maps = projections(student, teacher).double()
    found = distillation_parts(student, teacher, ours, theirs, batch, weights, maps)
    return {part.name: (part.weight, float(part.sum.total.detach()), float(part.sum.count)) for part in found}


def test_every_part_is_its_definition() -> None:
    student, teacher, batch = pair()
    found = parts_of(student, teacher, batch, EVERYTHING)
    with torch.no_grad():
        ours, theirs = (model.trace(batch.atoms, batch.topology, normalised=True) for model in (student, teacher))
        forces = (ours.outputs["direct"]["forces"] - theirs.outputs["direct"]["forces"]).abs()
        energy = (ours.outputs["direct"]["energy"] - theirs.outputs["direct"]["energy"]).abs()
        node = (ours.readout.node - theirs.readout.node).abs()
        block = (ours.features.edge[2] - theirs.features.edge[2]).abs()
    expected = {"direct/forces": (forces, 9), "direct/energy": (energy, 3), "node": (node, 9)}
    for name, (difference, rows) in expected.items():
        weight, total, count = found[name]
        assert weight == {"direct/forces": 2.0, "direct/energy": 3.0, "node": 5.0}[name]
        assert total == pytest.approx(float(difference.reshape(rows, -1).mean(1).sum()), rel=1e-12)
        assert count == rows
    assert found["edge"][2] == len(batch.topology.main.source)
    assert found["block 2, edge"][1] == pytest.approx(float(block.sum()) / block.shape[1], rel=1e-12, abs=1e-15)
    assert "block 3, node" not in found
    assert "block 0, node" in found


def test_a_model_is_its_own_perfect_student() -> None:
    _, teacher, batch = pair()
    assert all(total == 0.0 for _, total, _ in parts_of(teacher, teacher, batch, EVERYTHING).values())


def test_parts_without_weight_are_left_out() -> None:
    student, teacher, batch = pair()
    assert set(parts_of(student, teacher, batch, Weights(energy=0, edge=0))) == {"direct/forces", "node"}


def test_a_structure_is_compared_by_its_own_task_only() -> None:
    teacher = jmp(DIRECT, CONSERVATIVE, num_blocks=2)
    batch = batch_of(teacher)
    found = parts_of(keep_blocks(teacher, 1), teacher, batch, EVERYTHING)
    assert found["conservative/forces"][1:] == (0.0, 0.0)
    assert found["direct/forces"][2] == 9.0


def test_tasks_that_do_not_occur_cost_neither_a_teacher_nor_a_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = jmp(DIRECT, CONSERVATIVE, num_blocks=2, sum_scale=1.0)
    student, batch = keep_blocks(teacher, 1), batch_of(teacher)
    whole = student.trace(batch.atoms, batch.topology, normalised=True)
    weights = list(student.parameters())
    monkeypatch.setattr(JMP, "_derivatives", lambda *_: pytest.fail("a derivative was computed"))
    theirs = teach(teacher, batch, Weights(edge=0))
    assert theirs.outputs.keys() == {"direct"}
    assert (theirs.features.node, theirs.features.edge, theirs.readout.edge) == ((), (), None)
    losses = []
    for ours in (whole, attend(student, batch)):
        parts = distillation_parts(student, teacher, ours, theirs, batch, Weights(), nn.ModuleDict())
        losses.append(torch.stack([part.weight * part.sum.total for part in parts]).sum())
    assert torch.equal(*losses)
    one, two = (torch.autograd.grad(loss, weights, allow_unused=True) for loss in losses)
    absent = list(student.heads["conservative"].parameters())
    assert all(torch.equal(first, second) for first, second in zip(one, two, strict=True))
    assert all(
        not grad.any() for grad, weight in zip(two, weights, strict=True) if any(weight is own for own in absent)
    )


def test_nothing_of_the_teacher_is_kept_for_gradients() -> None:
    for task in (DIRECT, CONSERVATIVE):
        teacher = jmp(task, num_blocks=1, direct_forces=task.direct)
        trace = teach(teacher, batch_of(teacher, task.name), EVERYTHING)
        tensors = [*trace.features.node, *trace.features.edge, trace.readout.node, *trace.outputs[task.name].values()]
        assert not any(tensor.requires_grad for tensor in tensors)


def test_a_narrower_student_is_mapped_to_the_teachers_width() -> None:
    teacher = jmp(DIRECT, num_blocks=2)
    student = jmp(DIRECT, num_blocks=1, emb_size_edge=16)
    maps = projections(student, teacher)
    assert isinstance(maps["edge"], nn.Linear)
    assert (maps["edge"].in_features, maps["edge"].out_features) == (16, 18)
    assert "node" not in maps
    assert parts_of(student, teacher, batch_of(teacher), EVERYTHING)["edge"][1] > 0


@pytest.mark.parametrize("task", [DIRECT, CONSERVATIVE], ids=["direct", "conservative"])
def test_hessian_rows_are_rows_of_the_whole_hessian(task: object) -> None:
    settings = DIRECT if task is DIRECT else CONSERVATIVE
    model = jmp(settings, num_blocks=1, direct_forces=settings.direct, sum_scale=1.0)
    batch = batch_of(model, settings.name, 1)

    def forces(positions: torch.Tensor) -> torch.Tensor:
        moved = replace(batch.atoms, positions=positions)
        return model(moved, batch.topology, create_graph=True)[settings.name]["forces"]

    whole = -torch.autograd.functional.jacobian(forces, batch.atoms.positions)
    row = torch.zeros(3, 3, dtype=torch.float64)
    row[1, 2] = 1.0
    torch.testing.assert_close(hessian_rows(model, batch, row, create_graph=False), whole[1, 2], rtol=1e-9, atol=1e-11)


def test_the_hessian_part_vanishes_for_equals_and_has_a_gradient_for_others() -> None:
    student, teacher, batch = pair()
    assert float(hessian_part(teacher, teacher, batch, 1.0).sum.total.detach()) < 1e-15
    part = hessian_part(student, teacher, batch, 1.0)
    part.sum.total.backward()
    assert student.readout_maps()["edge"].weight().grad is not None
    assert part.sum.count == 9


def test_rattled_copies_have_no_labels_and_repeat_with_the_seed() -> None:
    _, teacher, batch = pair()
    torch.manual_seed(3)
    first = rattled(batch, teacher, displacement=0.05, strain=0.0)
    torch.manual_seed(3)
    again = rattled(batch, teacher, displacement=0.05, strain=0.0)
    assert torch.equal(first.atoms.positions, again.atoms.positions)
    shift = first.atoms.positions - batch.atoms.positions
    assert 0.01 < float(shift.std()) < 0.1
    assert all(bool(torch.isnan(label).all()) for label in first.targets.values())
    assert not any(bool(there.any()) for there in first.present.values())


def test_pairs_that_do_not_fit() -> None:
    teacher = jmp(DIRECT, num_blocks=2)
    require_pair(keep_blocks(teacher, 1), teacher)
    with pytest.raises(ConfigError, match="the teacher has no task conservative"):
        require_pair(jmp(CONSERVATIVE, num_blocks=1), teacher)
    require_pair(with_neighbours(teacher, 2), teacher)
    assert not graphs_apart(keep_blocks(teacher, 1), teacher)
    (line,) = graphs_apart(with_neighbours(teacher, 2), teacher)
    assert "each makes its own, and the student learns outputs and features of atoms, not those of edges" in line
    scaled = keep_blocks(teacher, 1)
    energy = DIRECT.targets[0].model_copy(update={"std": 2.0})
    scaled.tasks = {"direct": DIRECT.model_copy(update={"targets": (energy, *DIRECT.targets[1:])})}
    with pytest.raises(ConfigError, match="energy of student and teacher differ"):
        require_pair(scaled, teacher)
