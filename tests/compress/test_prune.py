from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import bulk, molecule

from atomslim.atoms import AtomsBatch, from_ase
from atomslim.compress.prune import block_indices, keep_blocks
from atomslim.errors import ConfigError
from atomslim.families.jmp import JMP
from atomslim.models.model_file import export, load
from small_models import CONSERVATIVE, DIRECT, jmp
from train.water import waters


def structures() -> AtomsBatch:
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=1)
    return from_ase([molecule("CH3OH"), copper])


def without(model: JMP, batch: AtomsBatch, removed: Sequence[int]) -> dict[str, torch.Tensor]:
    """Predict with the full readout, which gets zeros for the features of removed blocks."""
    topology = model.topology(batch, "direct")
    features = model.features(batch, topology)
    node, edge = (
        tuple(block * (index not in removed) for index, block in enumerate(blocks))
        for blocks in (features.node, features.edge)
    )
    return model.raw_outputs(model.read(replace(features, node=node, edge=edge)), model.task("direct"))


def test_a_number_keeps_the_first_blocks() -> None:
    model = jmp(num_blocks=3)
    small = keep_blocks(model, 2)
    assert small.block_ids == (1, 2)
    assert model.num_blocks == 3
    assert keep_blocks(model, [1, 3]).block_ids == (1, 3)
    assert keep_blocks(model, 0).block_ids == ()


def test_a_sliced_readout_has_the_columns_of_the_kept_blocks() -> None:
    model = jmp(DIRECT, num_blocks=3)
    small = keep_blocks(model, [1, 3])
    for branch, whole in model.readout_maps().items():
        parts = whole.weight().chunk(4, dim=1)
        expected = torch.cat([parts[0], parts[1], parts[3]], dim=1)
        assert torch.equal(small.readout_maps()[branch].weight(), expected)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_cutting_the_last_blocks_is_the_full_readout_with_zeros_for_them(kept: int) -> None:
    model = jmp(DIRECT, num_blocks=3, sum_scale=1.0)
    batch = structures()
    expected = without(model, batch, range(kept + 1, 4))
    found = keep_blocks(model, kept).predict(batch, "direct")
    full = model.predict(batch, "direct")
    for name in ("energy", "forces"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-11, atol=1e-12)
        assert not torch.allclose(found[name], full[name], rtol=1e-3)


@pytest.mark.parametrize("realign", ["sliced", "random", "least-squares"])
def test_a_cut_model_exported_and_read_again_predicts_the_same_bits(tmp_path: Path, realign: str) -> None:
    calibration = waters(4) if realign == "least-squares" else None
    small = keep_blocks(jmp(DIRECT, num_blocks=3), [1, 3], realign=realign, calibration=calibration)  # type: ignore[arg-type]
    export(small, tmp_path / "small.pt")
    again = load(tmp_path / "small.pt")
    assert again.block_ids == (1, 3)
    batch = structures()
    for name, value in small.predict(batch).items():
        assert torch.equal(again.predict(batch)[name], value)


def test_blocks_keep_the_numbers_of_the_original_model() -> None:
    cut = keep_blocks(jmp(num_blocks=4), [1, 3, 4])
    assert keep_blocks(cut, [4, 3]).block_ids == (3, 4)
    assert keep_blocks(cut, 2).block_ids == (1, 3)
    assert block_indices(cut, [3]) == (2,)
    with pytest.raises(ConfigError, match=r"no block 2; the model has \[1, 3, 4\]"):
        keep_blocks(cut, [1, 2])


def test_random_readout_differs_from_the_sliced_one_and_repeats_with_the_seed() -> None:
    model = jmp(num_blocks=3)
    firsts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        firsts.append(keep_blocks(model, 2, realign="random").readout_maps())
    for branch in ("node", "edge"):
        same, again, other = (maps[branch].weight() for maps in firsts)
        assert torch.equal(same, again)
        assert not torch.equal(same, other)
        assert same.shape == keep_blocks(model, 2).readout_maps()[branch].weight().shape


def test_the_cut_is_recorded() -> None:
    model = jmp(num_blocks=3)
    entry = keep_blocks(keep_blocks(model, [1, 3]), 1).history[-1]
    assert entry["kept"] == [1]
    assert entry["of"] == [1, 3]
    assert entry["parameters after"] < entry["parameters before"]
    assert model.history == []


def test_a_model_without_interaction_blocks_still_predicts() -> None:
    outputs = keep_blocks(jmp(CONSERVATIVE), 0).predict(from_ase(molecule("H2O")))
    assert torch.isfinite(outputs["forces"]).all()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (4, "from 0 to 3"),
        (-1, "from 0 to 3"),
        ([4], "no block 4"),
        ([-1], "no block -1"),
        ([2, 2], "named twice"),
        ([0, 1], "embedding"),
    ],
)
def test_blocks_that_do_not_exist(blocks: int | list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        keep_blocks(jmp(num_blocks=3), blocks)


def test_unknown_realignment() -> None:
    with pytest.raises(ConfigError, match="'cut': there are sliced, random, least"):
        keep_blocks(jmp(), 1, realign="cut")  # type: ignore[arg-type]


def test_structures_that_nothing_is_fitted_to() -> None:
    with pytest.raises(ConfigError, match="sliced uses no calibration structures"):
        keep_blocks(jmp(), 1, calibration=waters(2))
