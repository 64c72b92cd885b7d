import pytest
import torch
from ase.build import molecule

from atomslim.atoms import from_ase
from atomslim.compress.prune import keep_blocks
from atomslim.errors import ConfigError
from small_models import CONSERVATIVE, jmp


def test_a_number_keeps_the_first_blocks() -> None:
    model = jmp(num_blocks=3)
    small = keep_blocks(model, 2)
    assert small.block_ids == (1, 2)
    assert model.num_blocks == 3
    assert keep_blocks(model, [1, 3]).block_ids == (1, 3)
    assert keep_blocks(model, 0).block_ids == ()


def test_sliced_readout_is_the_full_one_with_zeros_for_removed_blocks() -> None:
    model = jmp(CONSERVATIVE, num_blocks=3)
    small = keep_blocks(model, 1)
    width = model.config.emb_size_atom
    first = model.readout_first_layers()["node"].weight
    assert torch.equal(small.readout_first_layers()["node"].weight, first[:, : 2 * width])


def test_random_readout_differs_from_the_sliced_one_and_repeats_with_the_seed() -> None:
    model = jmp(num_blocks=3)
    firsts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        firsts.append(keep_blocks(model, 2, realign="random").readout_first_layers())
    for branch in ("node", "edge"):
        same, again, other = (layers[branch].weight for layers in firsts)
        assert torch.equal(same, again)
        assert not torch.equal(same, other)
        assert same.shape == keep_blocks(model, 2).readout_first_layers()[branch].weight.shape


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


@pytest.mark.parametrize("blocks", [4, -1, [4], [2, 1]])
def test_blocks_that_do_not_exist(blocks: int | list[int]) -> None:
    with pytest.raises(ConfigError, match="to 3"):
        keep_blocks(jmp(num_blocks=3), blocks)


def test_unknown_realignment() -> None:
    with pytest.raises(ConfigError, match="'cut': give sliced, random or"):
        keep_blocks(jmp(), 1, realign="cut")  # type: ignore[arg-type]
