"""CHGNet as a block model: the checks that all families pass, cuts, heads, shorter cutoffs, training."""

import csv
import json
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

import atomslim
from atomslim.atoms import Sample, from_ase
from atomslim.compress.cutoff import with_cutoff
from atomslim.compress.relevance import batch_scores, block_relevance
from atomslim.errors import ConfigError
from atomslim.evaluation.batches import batches
from atomslim.evaluation.evaluate import evaluate
from atomslim.families.chgnet.model import CHGNet
from atomslim.models import Task
from atomslim.models.losses import task_terms
from atomslim.models.tasks import Target
from atomslim.testing import check_block_model
from atomslim.train.start import with_tasks
from chgnet_models import package_model, saved


@pytest.fixture
def model(tmp_path: Path) -> CHGNet:
    return cast("CHGNet", atomslim.load(saved(package_model(n_conv=4), tmp_path / "model.pth.tar")))


@pytest.fixture
def crystal() -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    atoms.rattle(0.08, seed=3)
    return atoms


@pytest.mark.parametrize("kind", [{}, {"mlp_out_bias": True}, {"conv_norm": "layer", "mlp_first": False}])
def test_it_passes_the_checks_of_all_families(kind: dict[str, Any], tmp_path: Path) -> None:
    check_block_model(atomslim.load(saved(package_model(**kind), tmp_path / "model.pth.tar")))


def test_the_shipped_model_passes_them() -> None:
    check_block_model(atomslim.load("chgnet:0.3.0"))


def test_keeping_all_blocks_changes_no_bit(model: CHGNet, crystal: Atoms) -> None:
    batch, same = from_ase(crystal), model.with_blocks([1, 2, 3, 4])
    expected = model.predict(batch)
    assert all(torch.equal(values, expected[name]) for name, values in same.predict(batch).items())


@pytest.mark.parametrize("kept", [kept for count in range(4) for kept in combinations((1, 2, 3, 4), count)])
def test_any_subset_of_blocks_runs_and_holds_nothing_that_is_not_read(
    kept: tuple[int, ...], model: CHGNet, crystal: Atoms
) -> None:
    small = model.with_blocks(kept)
    assert small.block_ids == kept
    outputs = small(from_ase(crystal), create_graph=True)["chgnet"]
    assert ("magmoms" in outputs) == (len(kept) > 1)
    sum(values.square().sum() for values in outputs.values()).backward()
    unread = {name for name, weight in small.named_parameters() if weight.grad is None}
    assert {name for name in unread if name.startswith("blocks")} == set()


def test_relevance_scores_updates_by_what_they_change(model: CHGNet, crystal: Atoms, tmp_path: Path) -> None:
    """Against a pass written out, whose loss is the error of an energy that is too low."""
    model = model.double()
    label = float(model.predict(from_ase(crystal))["energy"]) + 1
    cell: Any = {"cell": crystal.cell.array, "pbc": crystal.pbc}
    sample = Sample.create(crystal.numbers, crystal.positions, {"energy": label}, **cell)
    batch = next(batches(model, "chgnet", [sample], 1))
    found = batch_scores(model, batch, task_terms(model.task()))
    atoms, bonds, angles, geometry = model.embedding(batch.atoms, batch.topology, model.config.atom_graph_cutoff)
    changed: dict[str, tuple[Tensor, Tensor]] = {}
    for number, block in enumerate(model.blocks, start=1):
        given = bonds, angles
        atoms, bonds, angles = block(atoms, bonds, angles, geometry)
        changed |= {f"bonds {number}": (given[0], bonds), f"angles {number}": (given[1], angles)}
    heads: Any = model.heads
    energy = heads["chgnet"]["energy"].mlp(model.readout(atoms)).sum()
    for index, unit in enumerate(model.fine_units):
        before, after = changed[unit]
        product = ((after - before) * torch.autograd.grad(-energy, after, retain_graph=True)[0]).detach()
        assert float(found["taylor"]["unit"][index]) == pytest.approx(float(product.sum(1).abs().sum()) / 8, rel=1e-9)
        relevance = float(product.clamp(min=0).sum()) / 8 / product.shape[1]
        assert float(found["gradcam"]["unit"][index]) == pytest.approx(relevance, rel=1e-9)

    scores = block_relevance(model, [sample], cutoffs=[4.0])
    assert scores.units == (*model.fine_units, "cutoff 4 Å")
    near = evaluate(with_cutoff(model, 4.0), [sample]).errors["energy"].mae
    worse = near / evaluate(model, [sample]).errors["energy"].mae - 1
    assert scores.unit_mix("leave-out")[-1] == pytest.approx(worse, rel=1e-6)
    total = scores.tasks["chgnet"].taylor["node"].mean.sum()
    np.testing.assert_allclose(scores.unit_mix("taylor")[:-1] * total, found["taylor"]["unit"])
    scores.write(tmp_path / "scores")
    rows = list(csv.DictReader((tmp_path / "scores" / "relevance.csv").read_text().splitlines()))
    assert [row["block or unit"] for row in rows][-2:] == ["bonds 3", "cutoff 4 Å"]
    assert (rows[-1]["taylor, mix"], rows[-2]["taylor, mix"]) == ("", f"{scores.unit_mix('taylor')[-2]:.3f}")
    assert json.loads((tmp_path / "scores" / "relevance.json").read_text())["units"]["names"] == list(scores.units)


def test_what_is_handed_over_is_a_map_of_what_a_block_takes_in(model: CHGNet, crystal: Atoms) -> None:
    model, batch = model.double(), from_ase(crystal)
    widths = {"atoms": model.config.atom_fea_dim, "bonds": model.config.bond_fea_dim}
    torch.manual_seed(5)
    maps = {
        kind: torch.eye(width) + 0.3 * torch.randn(width, width, dtype=torch.float64) for kind, width in widths.items()
    }

    def mapped(_block: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return given[0] @ maps["atoms"], given[1] @ maps["bonds"], *given[2:]

    with model.blocks[2].register_forward_pre_hook(mapped):
        expected = model.predict(batch)
    model.map_block_input(2, maps)
    for name, value in model.predict(batch).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-9)


def test_a_hand_over_is_fitted_told_and_goes_back_to_the_package(model: CHGNet, tmp_path: Path) -> None:
    crystals = [bulk("MgO", "rocksalt", a=4.21) for _ in range(8)]
    for seed, atoms in enumerate(crystals):
        atoms.rattle(0.1, seed=seed)
    given: list[Any] = [
        Sample.create(one.numbers, one.positions, {}, cell=one.cell.array, pbc=one.pbc) for one in crystals
    ]
    small = atomslim.keep_blocks(model, [1, 3, 4], hand_over=True, calibration=given, batch_size=2)
    (entry,) = small.history[-1]["hand-over"]
    assert entry["block"] == 3
    assert entry["after"].keys() == {"atoms", "bonds"}
    assert all(entry["after"][kind] > entry["before"][kind] for kind in entry["after"])
    atomslim.export(small, tmp_path / "small.pth.tar")
    again = atomslim.load(tmp_path / "small.pth.tar").predict(from_ase(crystals))
    for name, value in small.predict(from_ase(crystals)).items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-4)


def test_a_shorter_cutoff_has_no_step_and_is_in_the_history(model: CHGNet) -> None:
    near = with_cutoff(model, 4.0)
    assert near.task().graph.cutoff == 4.0
    assert model.task().graph.cutoff == 4.5
    assert near.history[-1]["cutoff after"] == {"chgnet": 4.0}

    def energies(one: CHGNet, *distances: float) -> list[float]:
        pairs = [Atoms("MgO", positions=[[0, 0, 0], [0, 0, distance]]) for distance in distances]
        return cast("list[float]", one.double().predict(from_ase(pairs))["energy"].tolist())

    inside, outside, far = energies(near, 4 - 1e-4, 4 + 1e-4, 9.0)
    assert inside == pytest.approx(outside, abs=1e-9)
    assert outside == pytest.approx(far, abs=1e-12)
    assert abs(energies(model, 3.8)[0] - energies(near, 3.8)[0]) > 1e-9
    with pytest.raises(ConfigError, match="give one between 0 and 4 Å"):
        with_cutoff(near, 4.2)


def test_updates_that_nothing_reads_any_more_are_cut_off(model: CHGNet) -> None:
    config = model.with_blocks([1, 3]).config
    assert (config.bond_updates, config.angle_updates) == ((True, False), (False, False))
    config = model.with_blocks([2, 3, 4]).config
    assert (config.bond_updates, config.angle_updates) == ((True, True, False), (True, False, False))


def test_single_updates_are_left_out_by_name(model: CHGNet, crystal: Atoms) -> None:
    assert model.fine_units == ("bonds 1", "angles 1", "bonds 2", "angles 2", "bonds 3")
    small = atomslim.keep_blocks(model, [1, 2, 4], without=["angles 1"])
    assert small.fine_units == ("bonds 1", "bonds 2")
    assert small.history[-1]["without"] == ["angles 1"]
    assert atomslim.keep_blocks(small, [1, 4]).fine_units == ("bonds 1",)
    assert model.without_units(["bonds 2", "bonds 3"]).fine_units == ("bonds 1",)  # no update of bonds reads angles
    with pytest.raises(ConfigError, match="no unit 'angles 3' to leave out: the model has bonds 1, angles 1"):
        model.without_units(["angles 3"])
    plain = atomslim.keep_blocks(model, 4, without=model.fine_units)
    assert torch.isfinite(plain.predict(from_ase(crystal))["forces"]).all()
    assert not plain.fine_units


def test_a_shorter_cutoff_fades_bonds_out_without_a_step(model: CHGNet) -> None:
    task = model.task()
    shorter = task.graph.model_copy(update={"cutoff": 3.5})
    cut = with_tasks(model, [task.model_copy(update={"graph": shorter})], reuse="chgnet").double()

    def energy(distance: float) -> float:
        return float(cut.predict(from_ase(Atoms("MgO", [[0, 0, 0], [0, 0, distance]])))["energy"])

    alone = energy(3.6)
    assert energy(3.5 - 1e-4) == pytest.approx(alone, abs=1e-9)
    assert abs(energy(3.2) - alone) > 1e-6
    near = float(model.double().predict(from_ase(Atoms("MgO", [[0, 0, 0], [0, 0, 2.9]])))["energy"])
    assert energy(2.9) == pytest.approx(near, abs=1e-12)


def test_a_batch_of_tasks_with_different_cutoffs_has_the_numbers_of_each(model: CHGNet, crystal: Atoms) -> None:
    task = model.task()
    short = task.model_copy(update={"name": "short", "graph": task.graph.model_copy(update={"cutoff": 3.5})})
    both = with_tasks(model, [task, short], reuse=task.name).double()
    together = both.predict(
        from_ase([crystal, crystal]), "chgnet", both.topology(from_ase([crystal] * 2), ["chgnet", "short"])
    )
    for index, name in enumerate(("chgnet", "short")):
        alone = both.predict(from_ase(crystal), name)
        torch.testing.assert_close(together["energy"][index : index + 1], alone["energy"])


def test_a_longer_cutoff_and_direct_forces_are_refused_by_name(model: CHGNet) -> None:
    assert model.family is not None
    with pytest.raises(ConfigError, match=r"cutoff 7 Å: this CHGNet model sees nothing beyond 4\.5 Å"):
        model.family.graph(model, cutoff=7.0)
    with pytest.raises(ConfigError, match="no cap on neighbours"):
        model.family.graph(model, neighbours=7)
    direct = Target(name="forces", kind="direct_forces", unit="eV/Å")
    with pytest.raises(ConfigError, match="have no direct forces"):
        with_tasks(model, [Task(name="new", targets=(model.task().targets[0], direct), graph=model.task().graph)])


def test_fresh_heads_are_drawn_anew_and_reused_ones_copied(model: CHGNet, crystal: Atoms) -> None:
    gap = Task(name="gap", targets=(Target(name="gap", kind="scalar", reduction="mean"),), graph=model.task().graph)
    one, same, other = (with_tasks(model, [gap], seed=seed) for seed in (1, 1, 2))
    value = [float(new.predict(from_ase(crystal))["gap"]) for new in (one, same, other)]
    assert value[0] == value[1] != value[2]
    again = with_tasks(model, [model.task()], reuse="chgnet")
    torch.testing.assert_close(again.predict(from_ase(crystal))["energy"], model.predict(from_ase(crystal))["energy"])


def test_recomputing_blocks_gives_the_same_gradients(model: CHGNet, crystal: Atoms) -> None:
    model, batch = model.double().train(), from_ase(crystal)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(batch, create_graph=True)["chgnet"]["forces"].square().sum().backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    kept = gradients()
    model.checkpoint_blocks = True
    for found, expected in zip(gradients(), kept, strict=True):
        torch.testing.assert_close(found, expected)


def test_bfloat16_in_dense_layers_stays_near(crystal: Atoms) -> None:
    model, batch = atomslim.load("chgnet:0.3.0"), from_ase(crystal)
    exact, fast = model.predict(batch), model.predict(batch, precision="fast")
    assert fast["energy"].dtype == torch.float64
    assert abs(float(fast["energy"] - exact["energy"])) / len(crystal) < 0.02
    assert float((fast["forces"] - exact["forces"]).abs().max()) < 0.2
    assert not torch.equal(fast["forces"], exact["forces"])
