import copy
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import molecule

pytest.importorskip("sevenn", reason="needs the extra sevennet")

import atomslim
from atomslim.atoms import from_ase
from atomslim.compress.prune import keep_blocks
from atomslim.errors import CheckpointError, ConfigError, StructureError
from atomslim.families.sevennet.config import Modality, SevenNetConfig
from atomslim.families.sevennet.geometry import harmonics
from atomslim.families.sevennet.irreps import checked_irreps
from atomslim.testing import check_block_model, sample_structures
from families.sevennet.small_sevennet import SIZES, small, task
from train.water import waters

LEVELS = Modality(names=("SCAN", "PBE"), embedding=True, intro=True, outro=True, readout=True)


def test_it_is_a_block_model() -> None:
    check_block_model(small())


def test_a_model_of_rotations_only_is_a_block_model() -> None:
    irreps = ("6x0e", "7x0e+4x1e+3x2e", "6x0e")
    model = small(
        parity=False, irreps=irreps, self_connection=("nequip", "linear"), envelope="XPLOR", envelope_onset=3.0
    )
    check_block_model(model)
    assert not model.mirror_images


def test_levels_of_theory_go_with_the_task_of_each_structure() -> None:
    levels = {"SCAN": "SCAN", "PBE": "PBE"}
    model = small(task("SCAN"), task("PBE"), modality=LEVELS, task_modalities=levels)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("modality", "offset")):
                weight.normal_()
    batch = from_ase(sample_structures()[:2])
    mixed = model.topology(batch, ["PBE", "SCAN"])
    both = {name: model.predict(batch, name, mixed)["energy"] for name in levels}
    alone = {name: model.predict(batch, name)["energy"] for name in levels}
    assert torch.allclose(both["PBE"][0], alone["PBE"][0])
    assert torch.allclose(both["SCAN"][1], alone["SCAN"][1])
    assert not torch.allclose(alone["SCAN"], alone["PBE"])


def test_a_cut_leaves_out_what_nothing_reads() -> None:
    model = small()
    assert model.with_blocks((1, 2)).config.irreps == ("6x0e", "7x0e+4x1o+3x2e", "8x0e")
    assert model.with_blocks((1, 3)).config.irreps == ("6x0e", "8x0e+5x1o+2x2e", "6x0e")
    assert model.with_blocks((3,)).config.irreps == ("8x0e", "6x0e")
    assert model.with_blocks(()).config.irreps == ("6x0e",)


@pytest.mark.parametrize("kept", [(1, 3), (2, 3), (1, 2), (2,)])
def test_a_cut_is_the_model_with_zeros_for_what_is_missing(kept: tuple[int, ...]) -> None:
    """Blocks run one by one on states that lack the irreps which the one before does not give."""
    model, batch = small(), from_ase(sample_structures())
    graph = model.topology(batch)
    cut = model.with_blocks(kept).features(batch, graph).node
    terms, scalars = model._edge_terms(batch, graph), model.embedding(graph)
    state = {irrep.ir: scalars[:, None] for irrep in checked_irreps("6x0e")}
    for index, block in enumerate(kept, start=1):
        widths = {entry.ir: entry.mul for entry in checked_irreps(model.config.irreps[block - 1])}
        given = {
            kind: torch.nn.functional.pad(x[..., : widths[kind]], (0, max(widths[kind] - x.shape[-1], 0)))
            for kind, x in state.items()
            if kind in widths
        }
        empty = {
            kind: scalars.new_zeros(len(scalars), kind.dim, mul) for kind, mul in widths.items() if kind not in given
        }
        scalars, state = model.blocks[block - 1]({**given, **empty}, graph, terms)
        wide = torch.nn.functional.pad(scalars, (0, cut[index].shape[1] - scalars.shape[1]))
        assert torch.allclose(cut[index], wide, atol=1e-12)


def test_keeping_all_blocks_changes_no_bit() -> None:
    model, batch = small(), from_ase(sample_structures())
    same = model.with_blocks((1, 2, 3))
    for name, values in model.predict(batch).items():
        assert torch.equal(same.predict(batch)[name].nan_to_num(), values.nan_to_num())


def test_gradients_go_through_the_scalars_of_each_block() -> None:
    """What is added to a block's scalars reaches the energy, by way of the next block, too."""
    model, batch = small(), from_ase(sample_structures()[2])
    graph = model.topology(batch)
    features = model.features(batch, graph)
    energy = model.raw_outputs(model.read(features), model.task())["energy"].sum()
    slopes = torch.autograd.grad(energy, features.node)
    step, block = 1e-6, model.blocks[0]
    direction = torch.randn_like(features.node[1])

    def moved(sign: int) -> torch.Tensor:
        def push(_module: object, _inputs: object, made: tuple[torch.Tensor, dict[object, torch.Tensor]]) -> object:
            scalars = made[0] + sign * step * direction
            first = next(iter(made[1]))
            return scalars, {**made[1], first: scalars[:, None]}

        with block.register_forward_hook(push):
            return model.raw_outputs(model.read(model.features(batch, graph)), model.task())["energy"].sum()

    found = ((moved(1) - moved(-1)) / (2 * step)).detach()
    assert float((slopes[1] * direction).sum().detach()) == pytest.approx(float(found), rel=1e-6)


def test_atoms_with_unlike_numbers_of_neighbours_and_none_at_all() -> None:
    model = small()
    far = Atoms("OHC", positions=[[0, 0, 0], [1, 0, 0], [50, 0, 0]])
    lonely = model.predict(from_ase(Atoms("C")))["energy"]
    pair = model.predict(from_ase(Atoms("OH", positions=far.positions[:2])))
    whole = model.predict(from_ase(far))
    assert whole["energy"] == pytest.approx(lonely + pair["energy"])
    assert not whole["forces"][2].any()


def test_an_unknown_element_is_named() -> None:
    with pytest.raises(StructureError, match="structure 1: the model does not know Au"):
        small().topology(from_ase([molecule("H2O"), Atoms("Au")]))


def test_another_cutoff_is_refused() -> None:
    model = small()
    with pytest.raises(ConfigError, match="that of a SevenNet model is part of it"):
        atomslim.finetune(model, waters(12), cutoff=3.0, steps=1, progress=False)


def test_harmonics_are_those_of_e3nn() -> None:
    from e3nn.o3 import spherical_harmonics

    vectors = torch.randn(7, 3, dtype=torch.float64)
    for degree, values in enumerate(harmonics(vectors, 5)):
        expected = spherical_harmonics(degree, vectors, normalize=False, normalization="component")
        assert torch.allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [{"irreps": ("6x1o", "6x0e")}, {"irreps": ("6x0e", "3x0e+2x1o+3x0e")}, {"cutoff": -1.0}, {"act_radial": "sin"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_configuration_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        SevenNetConfig.model_validate(SIZES | {"self_connection": ("linear",)} | changes)


def test_saved_cuts_come_back(tmp_path: Path) -> None:
    model, batch = keep_blocks(small(), [1, 3]), from_ase(sample_structures()[2])
    atomslim.save(model, tmp_path / "cut.safetensors")
    again = atomslim.load(tmp_path / "cut.safetensors")
    assert again.block_ids == (1, 3)
    assert torch.equal(again.predict(batch)["forces"], model.predict(batch)["forces"])


def test_workers_make_the_same_batches() -> None:
    batch = from_ase(sample_structures())
    graph = small().topology(batch)
    moved = graph.to("cpu")
    assert moved.groups == graph.groups
    assert torch.equal(moved.source, graph.source)
    assert graph.left_out().tolist() == [0.0] * 4


def test_blocks_computed_again_give_the_same_gradients() -> None:
    batch = from_ase(sample_structures()[3])
    model = small().train()
    again = copy.deepcopy(model)
    again.checkpoint_blocks = True
    for one in (model, again):
        one(batch, create_graph=True)["potential"]["forces"].square().sum().backward()
    for first, second in zip(model.parameters(), again.parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None)
        if first.grad is not None and second.grad is not None:
            assert torch.allclose(first.grad, second.grad, rtol=1e-9)


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    torch.save({"config": {"cutoff": 5.0, "_type_map": {1: 0}}, "model_state_dict": {}}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="'version' is missing"):
        atomslim.load(tmp_path / "empty.pth")
