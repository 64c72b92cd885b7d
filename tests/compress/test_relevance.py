"""Scores against their definitions, computed anew with loops and autograd only."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atomslim.atoms import Sample, from_ase
from atomslim.compress.block_scores import Score
from atomslim.compress.choose import chosen_blocks, removal_order
from atomslim.compress.prune import keep_blocks
from atomslim.compress.relevance import batch_scores, block_relevance
from atomslim.compress.scores import gradcam, influence, taylor
from atomslim.compress.width import narrow
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.evaluation.batches import batches
from atomslim.evaluation.evaluate import evaluate
from atomslim.families.jmp import JMP, JMPGraphSettings
from atomslim.models import Target, Task
from atomslim.models.family import family_of
from atomslim.models.losses import task_terms
from samples import CONSERVATIVE, DIRECT
from small_models import jmp
from train.water import waters

pytestmark = pytest.mark.filterwarnings("ignore:.*different reference energies")  # no trained model is at hand


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_scores_are_their_definitions() -> None:
    features, gradients = [draw(5, 3, seed=1), draw(5, 3, seed=2)], [draw(5, 3, seed=3), draw(5, 3, seed=4)]
    for block in range(2):
        products = [
            [float(features[block][row, column] * gradients[block][row, column]) for column in range(3)]
            for row in range(5)
        ]
        relevance = sum(max(value, 0.0) for row in products for value in row) / 15
        first_order = sum(abs(sum(row)) for row in products) / 5
        assert float(gradcam(features, gradients)[block]) == pytest.approx(relevance, abs=1e-14)
        assert float(taylor(features, gradients)[block]) == pytest.approx(first_order, abs=1e-14)
    cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(*features, strict=True)]
    turned = influence(features)
    assert math.isnan(float(turned[0]))
    assert float(turned[1]) == pytest.approx(1 - sum(cosines) / 5, abs=1e-14)


def by_definition(model: JMP, task: str, count: int) -> dict[str, list[float]]:
    """Score the blocks of one batch through a loss written out structure by structure."""
    samples = waters(count)
    batch = next(batches(model, task, samples, count))
    settings = model.task(task)
    atoms = batch.atoms
    positions = atoms.positions.detach().requires_grad_()
    moved = replace(atoms, positions=positions)
    features = model.features(moved, batch.topology)
    outputs = model.raw_outputs(model.read(features), settings)
    energy_target = settings.of_kind("energy")
    assert energy_target is not None
    loss = torch.zeros((), dtype=torch.float64)
    physical = outputs["energy"] * energy_target.std + energy_target.mean
    direct = settings.of_kind("direct_forces")
    if direct is None:
        forces = -torch.autograd.grad(physical.sum(), positions, create_graph=True)[0]
        scale = 1.0
    else:
        forces, scale = outputs["forces"] * direct.std, direct.std
    for number, sample in enumerate(samples):
        loss = loss + (physical[number] - float(sample.targets["energy"])).abs() / energy_target.std / count
        wanted = torch.tensor(sample.targets["forces"])
        own = forces[3 * number : 3 * number + 3]
        loss = loss + torch.stack([(own[atom] - wanted[atom]).norm() / scale for atom in range(3)]).mean() / count
    found = {}
    for branch, blocks in (("node", features.node), ("edge", features.edge)):
        if blocks:
            gradients = torch.autograd.grad(loss, blocks, retain_graph=True, allow_unused=True, materialize_grads=True)
            found[branch] = [
                sum(max(float(value), 0.0) for value in (f * g).detach().flatten()) / f.numel()
                for f, g in zip(blocks, gradients, strict=True)
            ]
    return found


@pytest.mark.parametrize("task", [DIRECT, CONSERVATIVE], ids=lambda task: task.name)
def test_relevance_of_a_batch_equals_the_definition(task: Task) -> None:
    model = jmp(task, num_blocks=2, direct_forces=task.direct, sum_scale=1.0)
    batch = next(batches(model, task.name, waters(3), 3))
    found = batch_scores(model, batch, task_terms(task))["gradcam"]
    expected = by_definition(model, task.name, 3)
    assert found.keys() == expected.keys()
    for branch, values in expected.items():
        assert max(values) > 0
        np.testing.assert_allclose(found[branch].numpy(), values, rtol=1e-12, atol=1e-14)


def test_scores_of_a_run_are_means_over_batches_with_their_spread() -> None:
    model = jmp(DIRECT, num_blocks=2)
    samples = waters(6)
    found = block_relevance(model, samples, batch_size=2, leave_out=False).tasks["direct"].gradcam["edge"]
    rows = [
        batch_scores(model, batch, task_terms(DIRECT))["gradcam"]["edge"].numpy()
        for batch in batches(model, "direct", samples, 2)
    ]
    np.testing.assert_allclose(found.mean, np.mean(rows, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, np.std(rows, axis=0, ddof=1), rtol=1e-12)
    assert found.batches == 3
    assert found.normalised.mean.sum() == pytest.approx(1.0)


def test_a_smaller_last_batch_weighs_no_more_than_its_structures() -> None:
    """The loss is a mean over the batch, so that each structure's gradient is larger where there are fewer."""
    same = [waters(1)[0]] * 5
    found = block_relevance(jmp(DIRECT, num_blocks=2), same, batch_size=2, leave_out=False).tasks["direct"]
    for score in (*found.gradcam.values(), *found.taylor.values(), *found.influence.values()):
        np.testing.assert_allclose(np.nan_to_num(score.deviation), 0.0, atol=1e-12 * np.nanmax(score.mean))


def test_structures_without_edges_have_no_say_on_edges() -> None:
    atom = Sample.create([18], [[0.0, 0.0, 0.0]], {"energy": 0.0, "forces": [[0.0, 0.0, 0.0]]})
    model = jmp(DIRECT, num_blocks=2)
    settings: dict[str, Any] = {"batch_size": 1, "leave_out": False}
    both, one = (block_relevance(model, data, **settings) for data in ([*waters(2), atom], waters(2)))
    assert both.tasks["direct"].gradcam["edge"].batches == 2
    np.testing.assert_allclose(both.tasks["direct"].gradcam["edge"].mean, one.tasks["direct"].gradcam["edge"].mean)
    assert np.isfinite(both.mix("gradcam")).all()
    assert np.isfinite(both.mix("influence")[1:]).all()
    assert block_relevance(model, [atom], **settings).tasks["direct"].gradcam.keys() == {"node"}


def test_labels_that_are_met_exactly_make_nothing_relevant() -> None:
    model = jmp(DIRECT, num_blocks=2)
    sample = waters(1)[0]
    predicted = model.predict(from_ase(sample.to_ase()))
    exact = replace(sample, targets={"forces": predicted["forces"].numpy()})
    found = block_relevance(model, [exact], leave_out=False)
    np.testing.assert_array_equal(found.mix("gradcam"), np.zeros(3))


def test_labels_that_the_model_made_are_said_and_leave_out_stays_finite() -> None:
    model = jmp(CONSERVATIVE, num_blocks=2)
    with torch.no_grad():
        answers = [model.predict(from_ase(sample.to_ase())) for sample in waters(4)]
    own = [
        replace(sample, targets={"energy": answer["energy"][0].numpy(), "forces": answer["forces"].numpy()})
        for sample, answer in zip(waters(4), answers, strict=True)
    ]
    with pytest.warns(AtomslimWarning, match="task conservative: the labels are the model's own answers"):
        found = block_relevance(model, own, batch_size=2)
    left_out = found.mix("leave-out")[1:]
    assert np.isfinite(left_out).all()
    assert left_out.max() < 1e6


def test_a_task_of_one_number_has_scores_of_atoms_only() -> None:
    gap = Task(graph=JMPGraphSettings(), name="gap", targets=(Target(name="gap", kind="scalar", reduction="mean"),))
    samples = [replace(sample, targets={"gap": np.array(1.0)}) for sample in waters(3)]
    found = block_relevance(jmp(gap, num_blocks=2), samples)
    np.testing.assert_allclose(found.mix("gradcam"), found.tasks["gap"].gradcam["node"].normalised.mean)
    assert found.tasks["gap"].left_out.keys() == {"gap"}


def test_energies_count_once_in_what_leaving_out_costs() -> None:
    found = block_relevance(jmp(DIRECT, num_blocks=2, sum_scale=1.0), waters(4)).tasks["direct"]
    changes = [found.left_out[name] / found.errors[name].mae for name in ("energy", "forces")]
    np.testing.assert_allclose(found.summed("leave-out"), np.mean(changes, axis=0))


def test_a_model_without_blocks_has_nothing_to_score() -> None:
    with pytest.raises(ConfigError, match="no interaction blocks"):
        block_relevance(jmp(DIRECT, num_blocks=0), waters(2))


def test_the_file_gives_the_same_order_as_the_scores(tmp_path: Path) -> None:
    model = keep_blocks(jmp(DIRECT, num_blocks=4, sum_scale=1.0), [1, 3, 4])
    found = block_relevance(model, waters(4), batch_size=2)
    found.write(tmp_path)
    for score in found.scores:
        order = removal_order(tmp_path / "relevance.json", model, score)
        assert order == removal_order(found, model, score)
        assert set(order[:2]) == set(found.lowest(2, score))
        kept = chosen_blocks(model, {"drop": 2}, tmp_path / "relevance.json", score)
        assert keep_blocks(model, kept or ()).block_ids == order[2:]


def test_leaving_out_is_measured_on_the_cut_model() -> None:
    model = jmp(DIRECT, num_blocks=2, sum_scale=1.0)
    samples = waters(4)
    found = block_relevance(model, samples).tasks["direct"]
    without_first = evaluate(keep_blocks(model, [2]), samples).errors["forces"].mae
    full = evaluate(model, samples).errors["forces"].mae
    assert found.left_out["forces"][1] == pytest.approx(without_first - full, rel=1e-12)
    assert np.isnan(found.left_out["forces"][0])


def test_narrower_models_are_scored_by_what_they_do_to_the_errors(tmp_path: Path) -> None:
    model, samples = jmp(DIRECT, num_blocks=1, sum_scale=1.0), waters(12)
    found = block_relevance(model, samples, widths={"edge": 0.5})
    half = round(family_of(model).widths(model)["edge"] / 2)
    narrower = evaluate(narrow(model, {"edge": half}, samples, batch_size=8), samples).errors["forces"].mae
    full = evaluate(model, samples).errors["forces"].mae
    assert found.units == (f"edge {half}",)
    assert found.tasks["direct"].units_left_out["forces"] == pytest.approx([narrower - full], rel=1e-9)
    found.write(tmp_path)
    assert f"edge {half}," in (tmp_path / "relevance.csv").read_text()
    with pytest.raises(ConfigError, match="no width 'depth'"):
        block_relevance(model, samples, widths={"depth": 2})
    with pytest.raises(ConfigError, match="widths are only scored by their errors"):
        block_relevance(model, samples, widths={"edge": 0.5}, leave_out=False)


def test_the_mix_is_the_mean_of_the_tasks() -> None:
    model = jmp(DIRECT, CONSERVATIVE, num_blocks=2)
    both = block_relevance(model, {"direct": waters(2), "conservative": waters(2, seed=1)}, leave_out=False)
    shares = [task.summed("gradcam") for task in both.tasks.values()]
    np.testing.assert_allclose(both.mix("gradcam"), (shares[0] + shares[1]) / 2)
    assert both.mix("gradcam").sum() == pytest.approx(1.0)
    assert "leave-out" not in both.scores


def test_blocks_keep_the_numbers_of_the_original_model() -> None:
    model = keep_blocks(jmp(DIRECT, num_blocks=3), [1, 3])
    found = block_relevance(model, waters(2))
    assert found.blocks == (0, 1, 3)
    assert found.lowest(2) == (1, 3)
    assert set(found.lowest(1, "leave-out")) < {1, 3}


def test_the_model_stays_as_it_was() -> None:
    model = jmp(CONSERVATIVE, num_blocks=1, direct_forces=False)
    model.embedding.weight.requires_grad_(False)
    block_relevance(model, waters(2))
    assert not model.training
    assert not model.embedding.weight.requires_grad
    assert all(weight.grad is None for weight in model.parameters())


def test_agreement_is_spearmans(tmp_path: Path) -> None:
    found = block_relevance(jmp(DIRECT, num_blocks=3, sum_scale=1.0), waters(4), batch_size=2)
    np.testing.assert_allclose(np.diag(found.agreement), 1.0)
    ranks = [np.argsort(np.argsort(found.mix(name)[1:])) for name in found.scores]
    squares = ((ranks[0] - ranks[1]) ** 2).sum()
    assert found.agreement[0, 1] == pytest.approx(1 - 6 * squares / (3 * 8))
    found.write(tmp_path / "out")
    content = json.loads((tmp_path / "out" / "relevance.json").read_text())
    assert content["blocks"] == [0, 1, 2, 3]
    assert content["mix"]["influence"][0] is None
    assert (tmp_path / "out" / "relevance.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "relevance.csv").read_text().startswith("block or unit,")


def test_a_single_batch_has_no_spread() -> None:
    assert np.isnan(Score.of(np.ones((1, 3))).deviation).all()


def test_wrong_use_is_said() -> None:
    model = jmp(DIRECT, CONSERVATIVE, num_blocks=1)
    with pytest.raises(ConfigError, match="choose one of direct, conservative"):
        block_relevance(model, waters(2))
    with pytest.raises(ConfigError, match="unknown task 'oc20'"):
        block_relevance(model, {"oc20": waters(2)})
    unlabelled = [replace(sample, targets={}) for sample in waters(2)]
    with pytest.raises(DataError, match="none of 2 structures has energy or forces"):
        block_relevance(model, {"direct": unlabelled})
