from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from atomslim.atoms import AtomsBatch, Sample
from atomslim.compress.prune import keep_blocks
from atomslim.compress.realign import RIDGES, NormalEquations, realign
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.evaluation.batches import batches
from atomslim.families.jmp import JMP
from samples import DIRECT
from small_models import jmp
from train.water import waters


def structures(model: JMP, count: int = 8) -> Iterator[tuple[AtomsBatch, Any]]:
    for batch in batches(model, "direct", waters(count), 2):
        yield batch.atoms, batch.topology


def random_rows(rows: int, kept: int, wanted: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return draw(rows, kept), draw(rows, wanted), draw(wanted, kept)


def ridge_regression(kept: Tensor, wanted: Tensor, prior: Tensor, ridge: float) -> Tensor:
    """Solve the problem of all rows at once: the penalty stands below them as rows of its own."""
    root = torch.diag((ridge * kept.square().sum(0)).sqrt())
    stacked = torch.cat([kept, root]), torch.cat([wanted, root @ prior.T])
    return torch.linalg.lstsq(*stacked, driver="gelsd").solution.T


def r_squared(found: Tensor, wanted: Tensor) -> float:
    return 1 - float((found - wanted).square().sum() / wanted.square().sum())


def test_streaming_equals_one_least_squares_problem() -> None:
    kept, wanted, prior = random_rows(40, 6, 3)
    equations = NormalEquations.zeros(6, 3)
    for part in range(0, 40, 7):
        equations.add(kept[part : part + 7], wanted[part : part + 7])
    ridge = 1e-3
    expected = ridge_regression(kept, wanted, prior, ridge)
    weight, used = equations.solve(prior, ridge)
    assert used == ridge
    torch.testing.assert_close(weight, expected, rtol=1e-10, atol=1e-12)
    assert equations.explained(weight) == pytest.approx(r_squared(kept @ weight.T, wanted), abs=1e-12)


def test_columns_that_follow_from_the_kept_ones_are_recovered_exactly() -> None:
    kept, _, _ = random_rows(50, 5, 1)
    mix = random_rows(5, 4, 1, seed=1)[0]
    weight_full = random_rows(3, 9, 1, seed=2)[0]
    full = torch.cat([kept, kept @ mix], dim=1)
    equations = NormalEquations.zeros(5, 3)
    equations.add(kept, full @ weight_full.T)
    weight, _ = equations.solve(weight_full[:, :5], 1e-14)
    torch.testing.assert_close(kept @ weight.T, full @ weight_full.T, rtol=1e-9, atol=1e-9)


def test_an_endless_ridge_gives_the_sliced_layer() -> None:
    model = jmp(DIRECT, num_blocks=3)
    small = keep_blocks(model, [1, 3])
    before = {name: layer.weight().clone() for name, layer in small.readout_maps().items()}
    realign(small, model, structures(model), ridge=1e12)
    for name, layer in small.readout_maps().items():
        torch.testing.assert_close(layer.weight(), before[name], rtol=1e-9, atol=1e-9)


def test_the_scale_of_a_feature_does_not_matter() -> None:
    kept, wanted, prior = random_rows(30, 4, 2)
    scales = torch.tensor([1e-3, 1.0, 50.0, 1e4], dtype=torch.float64)
    plain, scaled = NormalEquations.zeros(4, 2), NormalEquations.zeros(4, 2)
    plain.add(kept, wanted)
    scaled.add(kept * scales, wanted)
    expected = plain.solve(prior, 0.1)[0]
    torch.testing.assert_close(scaled.solve(prior / scales, 0.1)[0] * scales, expected, rtol=1e-9, atol=1e-10)


def test_cutting_nothing_changes_nothing() -> None:
    model = jmp(DIRECT, num_blocks=2)
    small = keep_blocks(model, 2)
    fits = realign(small, model, structures(model))
    for name, layer in small.readout_maps().items():
        torch.testing.assert_close(layer.weight(), model.readout_maps()[name].weight(), rtol=1e-3, atol=1e-5)
        assert fits[name].sliced == pytest.approx(1.0, abs=1e-9)


def test_pre_activations_come_closer_to_the_full_models_on_unseen_structures() -> None:
    model = jmp(DIRECT, num_blocks=3, sum_scale=1.0)
    small = keep_blocks(model, 2, realign="least-squares", calibration=waters(40), batch_size=4)
    fit = small.history[-1]["fit"]
    assert fit["node"]["R2 fitted"] > fit["node"]["R2 sliced"]
    assert fit["edge"]["R2 fitted"] > fit["edge"]["R2 sliced"]
    sliced = keep_blocks(model, 2)
    unseen = next(batches(model, "direct", waters(6, seed=7), 6))
    with torch.no_grad():
        wanted = model.read(model.features(unseen.atoms, unseen.topology))
        ours, before = (one.read(one.features(unseen.atoms, unseen.topology)) for one in (small, sliced))
    assert wanted.edge is not None
    assert ours.edge is not None
    assert before.edge is not None
    assert (ours.node - wanted.node).norm() < 0.5 * (before.node - wanted.node).norm()
    assert (ours.edge - wanted.edge).norm() < 0.5 * (before.edge - wanted.edge).norm()


@pytest.mark.parametrize("kept", [[1, 2], [3], [1, 3]])
def test_features_are_the_cut_models_and_what_is_wanted_the_full_models(kept: list[int]) -> None:
    model = jmp(DIRECT, num_blocks=3, sum_scale=1.0)
    small = keep_blocks(model, kept)
    fits = realign(small, model, structures(model), ridge=1e-3)
    sliced = keep_blocks(model, kept)
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {"node": [], "edge": []}
    with torch.no_grad():
        for batch, topology in structures(model):
            ours, whole = sliced.features(batch, topology), model.features(batch, topology)
            for branch, one, two in (("node", ours.node, whole.node), ("edge", ours.edge, whole.edge)):
                rows[branch].append((torch.cat(one, 1), torch.cat(two, 1)))
    for branch, layer in model.readout_maps().items():
        weight, prior = layer.weight().detach(), sliced.readout_maps()[branch].weight().detach()
        features, wanted = (torch.cat(parts) for parts in zip(*rows[branch], strict=True))
        wanted = wanted @ weight.T
        found = small.readout_maps()[branch].weight().detach()
        torch.testing.assert_close(found, ridge_regression(features, wanted, prior, 1e-3), rtol=1e-8, atol=1e-9)
        unseen, seen = rows[branch][3][0], slice(0, len(features) - len(rows[branch][3][0]))
        tested = ridge_regression(features[seen], wanted[seen], prior, 1e-3)
        wanted = rows[branch][3][1] @ weight.T
        assert fits[branch].fitted == pytest.approx(r_squared(unseen @ tested.T, wanted), abs=1e-9)
        assert fits[branch].sliced == pytest.approx(r_squared(unseen @ prior.T, wanted), abs=1e-9)
        assert (fits[branch].rows, fits[branch].held_out) == (len(features), len(unseen))
        assert fits[branch].structures == 8


def test_singular_equations_are_noticed_where_rounding_hides_it() -> None:
    kept, wanted, prior = random_rows(60, 5, 2)
    equations = NormalEquations.zeros(8, 2)
    equations.add(torch.cat([kept, kept[:, :3] @ torch.ones(3, 3).to(kept)], 1), wanted)
    weight, used = equations.solve(torch.cat([prior, prior[:, :3]], 1), 0.0)
    assert used >= 1e-10
    assert weight.abs().max() < 10
    nearly = NormalEquations.zeros(2, 2)
    nearly.gram = torch.tensor([[1.0, 1 - 2.0**-53], [1 - 2.0**-53, 1.0]], dtype=torch.float64)  # has a root, of 1.5e-8
    assert nearly.solve(prior[:, :2], 0.0)[1] >= 1e-10
    full_rank = NormalEquations.zeros(5, 2)
    full_rank.add(kept, wanted)
    assert full_rank.solve(prior, 0.0)[1] == 0.0


def test_too_few_batches_to_hold_one_out_are_said() -> None:
    model = jmp(DIRECT, num_blocks=3)
    fit = realign(keep_blocks(model, 2), model, structures(model, 4))["node"]
    assert fit.held_out == 0
    assert fit.ridge == 1e-6
    assert fit.fitted > fit.sliced


def test_the_models_modes_come_back_whatever_happens() -> None:
    model = jmp(DIRECT, num_blocks=3).train()
    small = keep_blocks(model, 2)

    def broken() -> Iterator[tuple[AtomsBatch, Any]]:
        yield from structures(model)
        raise DataError("water.xyz: record 9")

    with pytest.raises(DataError, match="record 9"):
        realign(small, model, broken())
    assert model.training
    assert small.training


def test_features_that_are_not_finite_are_an_error() -> None:
    model = jmp(DIRECT, num_blocks=3)
    small = keep_blocks(model, 2)
    with torch.no_grad():
        model.embedding.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="calibration batch 1 has features that are not finite"):
        realign(small, model, structures(model))


def test_a_fit_to_too_little_is_hardly_worse_than_slicing_on_held_out_rows() -> None:
    kept, wanted, prior = random_rows(400, 20, 4)
    wanted = kept @ prior.T + wanted  # nothing is left to learn but noise
    fit, held_out = NormalEquations.zeros(20, 4), NormalEquations.zeros(20, 4)
    fit.add(kept[:22], wanted[:22])
    held_out.add(kept[22:], wanted[22:])
    explained = {ridge: held_out.explained(fit.solve(prior, ridge)[0]) for ridge in RIDGES}
    assert explained[1e-10] < held_out.explained(prior) - 0.1
    assert max(explained.values()) > held_out.explained(prior) - 1e-5


def test_the_fit_is_recorded() -> None:
    model = jmp(DIRECT, num_blocks=3)
    entry = keep_blocks(model, 2, realign="least-squares", calibration=waters(10), limit=8, batch_size=2).history[-1]
    assert entry["calibration"] == {"direct": "samples"}
    assert entry["fit"]["edge"]["structures"] == 8
    assert entry["fit"]["edge"]["rows"] == 8 * 6
    assert entry["fit"]["edge"]["rows held out"] == 2 * 6
    few = keep_blocks(model, 2, realign="least-squares", calibration=waters(8)).history[-1]
    assert few["fit"]["node"]["rows held out"] == 2 * 3  # although they would all go into one batch


def test_singular_equations_get_a_larger_ridge_and_say_so() -> None:
    model = jmp(DIRECT, num_blocks=3)
    small = keep_blocks(model, 2)
    with pytest.warns(AtomslimWarning, match="singular with ridge 0e"):
        fits = realign(small, model, structures(model, 2), ridge=0.0)
    assert fits["node"].ridge > 0
    assert all(bool(torch.isfinite(layer.weight()).all()) for layer in small.readout_maps().values())


def test_wrong_use_is_said() -> None:
    model = jmp(DIRECT, num_blocks=3)
    with pytest.raises(ConfigError, match="needs calibration structures"):
        keep_blocks(model, 2, realign="least-squares")
    with pytest.raises(DataError, match="has no structures"):
        keep_blocks(model, 2, realign="least-squares", calibration=list[Sample]())
    with pytest.raises(ConfigError, match="unknown task 'oc20'"):
        keep_blocks(model, 2, realign="least-squares", calibration={"oc20": waters(2)})
    with pytest.raises(ConfigError, match="not a cut of the other"):
        realign(keep_blocks(model, 2), jmp(DIRECT, num_blocks=3, emb_size_atom=15), structures(model))
    with pytest.raises(DataError, match="no calibration structures"):
        realign(keep_blocks(model, 2), model, [])
    with pytest.raises(ConfigError, match="realign 'best': there are sliced"):
        keep_blocks(model, 2, realign="best")  # type: ignore[arg-type] # wrong use
    with pytest.raises(ConfigError, match="ridge -1"):
        realign(keep_blocks(model, 2), model, structures(model), ridge=-1.0)
    with pytest.raises(ConfigError, match="limit 0"):
        keep_blocks(model, 2, realign="least-squares", calibration=waters(2), limit=0)


def test_a_seed_makes_the_random_layer_repeat() -> None:
    model = jmp(DIRECT, num_blocks=2)
    first, again, other = (
        keep_blocks(model, 1, realign="random", seed=seed).readout_maps()["edge"].weight() for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
