"""Narrower models: which channels stay, how the rest is fitted, and what is the same whatever is cut."""

from pathlib import Path
from typing import cast

import pytest
import torch

from atomslim.atoms import AtomsBatch, from_ase
from atomslim.compress.calibration import calibration_structures
from atomslim.compress.channel_scores import Problem, removal_order, scored
from atomslim.compress.distill import projections
from atomslim.compress.prune import keep_blocks
from atomslim.compress.width import narrow
from atomslim.errors import ConfigError, DataError
from atomslim.evaluation.batches import datasets
from atomslim.families.jmp import JMP
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.model_file import export, load, save
from families.toy import Toy, ToyConfig
from samples import CONSERVATIVE
from small_models import DIRECT, jmp
from train.water import waters

DATA = waters(16)
SMALLER = {"edge": 12, "atom": 10, "triplet_in": 6, "quadruplet_out": 7, "pair_in": 5, "radial": 4, "spherical": 2}


@pytest.fixture(scope="module")
def model() -> JMP:
    return jmp(DIRECT, num_blocks=1, num_spherical=3, sum_scale=1.0)


@pytest.fixture(scope="module")
def batch() -> AtomsBatch:
    return from_ase([sample.to_ase() for sample in waters(3, seed=7)])


@pytest.fixture(scope="module")
def narrower(model: JMP) -> JMP:
    return narrow(model, SMALLER, DATA, sweeps=2)


def outputs(model: BlockModel, batch: AtomsBatch) -> torch.Tensor:
    said = model.predict(batch)
    return torch.cat([said["energy"], said["forces"].flatten()])


def test_the_layout_names_every_axis_of_every_weight(model: JMP) -> None:
    layout = family_of(model).channels(model)
    for name, tensor in model.state_dict().items():
        if tensor.dim() and not name.endswith("offset"):
            axes = layout.axes[name]
            assert len(axes) == min(tensor.dim(), 2)
            assert torch.Size([layout.length(axis) for axis in axes]).numel() == tensor.numel()


def test_channels_in_another_order_compute_the_same(model: JMP, batch: AtomsBatch) -> None:
    torch.manual_seed(1)
    layout = family_of(model).channels(model)
    order = {stream: torch.randperm(size) for stream, size in layout.sizes.items()}
    shuffled = cast("JMP", family_of(model).narrowed(model, order))
    assert not torch.equal(shuffled.embedding.weight, model.embedding.weight)
    torch.testing.assert_close(outputs(shuffled, batch), outputs(model, batch), rtol=1e-9, atol=1e-11)
    ours, theirs = (narrow(one, {"edge": 15}, DATA, sweeps=0) for one in (shuffled, model))
    torch.testing.assert_close(outputs(ours, batch), outputs(theirs, batch), rtol=1e-6, atol=1e-8)
    kept = theirs.history[-1]["channels"]["edge"]
    assert sorted(int(order["edge"][index]) for index in ours.history[-1]["channels"]["edge"]) == kept


def test_nothing_removed_is_exact(model: JMP, batch: AtomsBatch) -> None:
    same = narrow(model, {"edge": 18, "atom": 14}, DATA)
    assert torch.equal(outputs(same, batch), outputs(model, batch))
    assert same.history[-1]["widths after"] == {}
    assert model.history == []


@pytest.mark.parametrize("score", ["least-squares", "activation", "taylor"])
def test_channels_that_are_zero_go_and_nothing_changes(batch: AtomsBatch, score: str) -> None:
    model = jmp(CONSERVATIVE, num_blocks=1, num_spherical=3, direct_forces=False)
    layout = family_of(model).channels(model)
    cut = {"atom": 12, "edge": 16, "quadruplet_in": 4}
    torch.manual_seed(2)
    dead = {name: torch.randperm(size)[:2] for name, size in layout.sizes.items() if layout.widths[name] in cut}
    with torch.no_grad():
        for name, axes in layout.axes.items():
            weight = model.get_parameter(name)
            ((made,),) = axes[-1] if name == "embedding.weight" else axes[0]
            if made in dead:
                (weight.T if name == "embedding.weight" else weight)[dead[made]] = 0
    structures = list(calibration_structures(model, datasets(model, DATA, labelled=False), 16, 4))
    found = scored(model, structures, score)  # type: ignore[arg-type]
    kept = found.kept(cut)
    assert all(not set(dead[stream].tolist()) & set(kept[stream].tolist()) for stream in dead)
    torch.testing.assert_close(outputs(found.narrowed(kept), batch), outputs(model, batch), rtol=1e-6, atol=1e-8)


def test_costs_are_those_of_the_best_weights() -> None:
    """Against least squares one subset at a time; each channel stands at two indices."""
    torch.manual_seed(0)
    inputs, weight = torch.randn(50, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    columns = torch.arange(8).view(2, 4).T  # channel c: indices c and c + 4
    wanted = inputs @ weight.T

    def error(gone: tuple[int, ...]) -> float:
        left = [index for index in range(8) if index % 4 not in gone]
        rest = wanted - inputs[:, left] @ torch.linalg.lstsq(inputs[:, left], wanted).solution
        return float(rest.square().sum() / wanted.square().sum())

    problem = Problem.of(inputs.T @ inputs, weight, columns)
    assert problem is not None
    first = min(range(4), key=lambda one: error((one,)))
    assert float(problem.costs()[first]) == pytest.approx(error((first,)), rel=1e-3)
    problem.remove(torch.tensor([first]))
    second = min(set(range(4)) - {first}, key=lambda one: error((first, one)))
    added = error((first, second)) - error((first,))
    assert float(problem.costs()[second]) == pytest.approx(added, rel=1e-3)
    again = Problem.of(inputs.T @ inputs, weight, columns)
    assert again is not None
    assert removal_order([again], 4)[:2].tolist() == [first, second]


def test_fitted_layers_give_what_the_full_model_gives(model: JMP, narrower: JMP, batch: AtomsBatch) -> None:
    entry = narrower.history[-1]
    assert entry["widths before"] == {name: family_of(model).widths(model)[name] for name in SMALLER}
    assert entry["widths after"] == SMALLER == {name: family_of(model).widths(narrower)[name] for name in SMALLER}
    stages = entry["layers"]["stages"]
    assert [stage["stage"] for stage in stages] == ["embedding", "block 1", "readout", "heads"]
    assert all(stage["R2 after"] >= stage["R2 before"] for stage in stages)
    structures = list(calibration_structures(model, datasets(model, DATA, labelled=False), 16, 4))
    bare = family_of(model).narrowed(model, scored(model, structures).kept(SMALLER))
    fitted, sliced = (float((outputs(one, batch) - outputs(model, batch)).norm()) for one in (narrower, bare))
    assert fitted < 0.5 * sliced


def test_it_is_a_model_like_any_other(narrower: JMP, batch: AtomsBatch, tmp_path: Path) -> None:
    save(narrower, tmp_path / "small.safetensors")
    export(narrower, tmp_path / "small.pt")
    for name in ("small.safetensors", "small.pt"):
        again = cast("JMP", load(tmp_path / name))
        assert again.config.emb_size_edge == 12
        assert again.history[: len(narrower.history)] == narrower.history
        torch.testing.assert_close(outputs(again, batch), outputs(narrower, batch))
    assert keep_blocks(narrower, 0).num_blocks == 0


def test_equal_widths_need_a_layer_that_the_format_cannot_express(model: JMP, tmp_path: Path) -> None:
    small = narrow(model, {"edge": 14}, DATA, sweeps=0)
    assert small.config.emb_size_edge == small.config.emb_size_atom == 14
    assert "backbone.outputs.0.atom_update.dense.weight" in small.state_dict()
    save(small, tmp_path / "small.safetensors")
    assert load(tmp_path / "small.safetensors").state_dict().keys() == small.state_dict().keys()
    with pytest.raises(ConfigError, match="cannot hold a layer between edge and atom features of one width"):
        export(small, tmp_path / "small.pt")


def test_one_stream_of_atoms_and_edges_is_cut_as_one(batch: AtomsBatch) -> None:
    model = jmp(DIRECT, num_blocks=1, num_spherical=3, emb_size_edge=14)
    order = {stream: torch.arange(size).flip(0) for stream, size in family_of(model).channels(model).sizes.items()}
    flipped = family_of(model).narrowed(model, order)
    torch.testing.assert_close(outputs(flipped, batch), outputs(model, batch), rtol=1e-9, atol=1e-11)
    small = narrow(model, {"atom": 0.5, "edge": 0.5}, DATA, sweeps=0)
    assert small.config.emb_size_edge == small.config.emb_size_atom == 7
    with pytest.raises(ConfigError, match="atom and edge features are one: give both the same width"):
        narrow(model, {"atom": 10}, DATA)


def test_maps_of_distillation_begin_as_the_selection(model: JMP, narrower: JMP) -> None:
    twice = narrow(narrower, {"edge": 9}, DATA, sweeps=0)
    for student, widths in ((narrower, (12, 10)), (twice, (9, 10))):
        maps = projections(student, model)
        assert set(maps) == {"node", "edge", "node 0", "node 1", "edge 0", "edge 1"}
        for name, map_ in maps.named_children():
            assert isinstance(map_, torch.nn.Linear)
            indices = map_.weight.argmax(0).tolist()
            assert len(set(indices)) == widths[name.startswith("node")]
            wanted = torch.zeros_like(map_.weight)
            wanted[indices, range(len(indices))] = 1.0
            assert torch.equal(map_.weight, wanted)
    kept = narrower.history[-1]["channels"]["edge"]
    assert projections(narrower, model).get_parameter("edge 1.weight").argmax(0).tolist() == kept
    again = twice.history[-1]["channels"]["edge"]
    assert projections(twice, model).get_parameter("edge 1.weight").argmax(0).tolist() == [
        kept[index] for index in again
    ]


@pytest.mark.parametrize(
    ("widths", "complaint"),
    [
        ({"edge": 19}, "width edge 19: give a whole number from 1 to 18, which the model has, or a share below 1"),
        ({"edge": 0}, "width edge 0: give a whole number"),
        ({"edge": 7.5}, "width edge 7.5: give a whole number"),
        ({"edges": 9}, "no width 'edges': the model has atom 14, edge 18, triplet_in 8"),
        ({}, "no width to cut: name some of atom, edge"),
        ({"edge": 1.0}, "width edge 1.0: write 18 for all channels, or 1 for one"),
        ({"edge": True}, "width edge True: write 18 for all"),
        ({"edgee": 3}, r"; did you mean edge\?"),
    ],
)
def test_widths_that_cannot_be(model: JMP, widths: dict[str, float], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        narrow(model, widths, DATA)


def test_too_few_structures_and_other_families(model: JMP) -> None:
    with pytest.raises(DataError, match=r"2 calibration structures have \d+ rows .* at least \d+, and as high a limit"):
        narrow(model, {"atom": 8}, DATA[:2])
    with pytest.raises(ConfigError, match="narrow: score 'size': there are least-squares, activation, taylor"):
        narrow(model, {"atom": 8}, DATA, score="size")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Toy models cannot be made narrower here: only blocks"):
        narrow(Toy(ToyConfig(), [CONSERVATIVE]), {"atom": 8}, DATA)
