"""Energies add up, reused heads change nothing by themselves, and labels on another reference are noticed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

import atomslim
from atomslim.atoms import Sample, to_batch
from atomslim.compress.neighbours import with_neighbours
from atomslim.data.references import fit_references
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.families.jmp import JMP
from atomslim.models.block_model import BlockModel
from atomslim.models.tasks import energy_and_forces
from atomslim.train.targets import isolated_atoms, parsed_e0s
from small_models import all_neighbours, jmp
from train.water import waters

SPLIT = {"train": 12, "validation": 4, "test": 0}
QUICK: dict[str, Any] = {"split": SPLIT, "steps": 1, "batch_size": 4, "progress": False}
SHIFTS = {1: -13.5, 6: -1029.0, 8: -2041.0}


def small(forces: Any = "direct", seed: int = 0) -> JMP:
    return jmp(energy_and_forces("own", forces=forces, graph=all_neighbours(4.5)), seed=seed).float()


def mixed(count: int = 16, seed: int = 0) -> list[Atoms]:
    generator = np.random.default_rng(seed)
    frames = [molecule(name) for name in ("H2O", "CH4", "CO2", "CH3OH", "H2", "C2H6", "H2CO", "H2O2")]
    frames = [frames[number % len(frames)].copy() for number in range(count)]
    for atoms in frames:
        atoms.positions += generator.normal(size=atoms.positions.shape) * 0.03
    return frames


def labelled_by(model: BlockModel, frames: list[Atoms], shifts: dict[int, float] | None = None) -> list[Sample]:
    """Structures with a model's own predictions as labels, references added to the energies."""
    samples = []
    for number, atoms in enumerate(frames):
        plain = Sample.from_ase(atoms, {})
        found = model.predict(to_batch([plain]), "own")
        extra = sum((shifts or {}).get(int(z), 0.0) for z in atoms.numbers)
        targets: dict[str, Any] = {"energy": float(found["energy"]) + extra, "forces": found["forces"].detach().numpy()}
        samples.append(Sample.from_ase(atoms, targets, name=f"made, record {number}"))
    return samples


def energies(model: BlockModel, *structures: Atoms) -> list[float]:
    return [float(model.predict(to_batch([Sample.from_ase(atoms, {})]))["energy"]) for atoms in structures]


# -- references


def test_compositions_that_can_be_told_apart_decide_and_the_rest_stays_as_expected() -> None:
    table = np.array([[2.0, 0, 1], [4, 1, 0], [0, 1, 2], [4, 1, 1], [2, 1, 1]])
    right = np.array([-13.6, -1029.5, -2042.0])
    fit = fit_references(table, table @ right, np.ones(5))
    assert fit.rank == 3
    assert fit.values == pytest.approx(right, abs=1e-6)


def test_one_composition_moves_what_is_expected_least() -> None:
    table, expected = np.array([[9.0, 8.0, 1.0, 2.0]]), np.array([-13.8, -57.9, -79.3, -110.5])
    fit = fit_references(table, table @ expected - 0.3, np.array([50.0]), 50 * 0.1**2, expected)
    assert fit.rank == 1
    assert (table @ fit.values).item() == pytest.approx((table @ expected).item() - 0.3, abs=1e-4)
    ethanol = np.array([6.0, 2.0, 0.0, 1.0])
    assert abs(ethanol @ (fit.values - expected)) < 0.2


def test_nothing_expected_is_an_equal_share() -> None:
    fit = fit_references(np.array([[4.0, 1.0]]), np.array([-50.0]), np.array([20.0]), 20 * 0.1**2)
    assert fit.values == pytest.approx([-10.0, -10.0], abs=1e-9)


def test_nearly_collinear_compositions_give_no_absurd_references() -> None:
    """Water clusters, one of them with a proton more: noise of 0.1 eV must not become tens of eV."""
    generator = np.random.default_rng(0)
    table = np.array([[2.0 * n, n] for n in range(20, 60)])
    table[7, 0] += 1
    right = np.array([-13.8, -110.5])
    values = table @ right + generator.normal(size=40)
    fit = fit_references(table, values, np.ones(40), prior=right + np.array([0.3, -0.2]))
    assert np.abs(fit.values - right).max() < 1.0


def test_tables_and_files_of_references(tmp_path: Path) -> None:
    assert parsed_e0s("H=-13.6, 8=-2042") == {1: -13.6, 8: -2042.0}
    assert parsed_e0s({"h": -13.6, 6: -1029}) == {1: -13.6, 6: -1029.0}
    (tmp_path / "e0s.json").write_text(json.dumps({"H": -13.6}))
    assert parsed_e0s(str(tmp_path / "e0s.json")) == {1: -13.6}
    atom = Atoms("N", info={"energy": -1485.0})
    write(tmp_path / "atoms.xyz", [atom])
    assert parsed_e0s(str(tmp_path / "atoms.xyz")) == {7: -1485.0}


@pytest.mark.parametrize(
    ("e0s", "words"),
    [
        ("nosuch", "neither a rule"),
        ("Xx=1", "not an element"),
        ("H=nan", "not an energy"),
        ("H=a", "not an energy"),
        ({}, "is empty"),
    ],
)
def test_wrong_references_are_named(e0s: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parsed_e0s(e0s)


def test_isolated_atoms_are_found_in_a_box_too_and_taken(tmp_path: Path) -> None:
    alone = [Atoms("H", cell=[9, 9, 9], pbc=True), Atoms("O")]
    for atoms, energy in zip(alone, (-13.0, -2041.0), strict=True):
        atoms.info.update(energy=energy, config_type="isolatedatom")
    periodic = bulk("Cu") * (1, 1, 1)
    periodic.info["energy"] = -3.7
    write(tmp_path / "atoms.xyz", [*alone, periodic])
    dataset = atomslim.data.open_dataset(str(tmp_path / "atoms.xyz"))
    assert isolated_atoms(dataset) == {1: -13.0, 8: -2041.0}
    frames = waters(20)
    alone_samples = [dataset[0], dataset[1]]
    summed = [_with(sample, energy=sample.targets["energy"] + 14 + 2 * -13.0 - 2041.0) for sample in frames]
    options = QUICK | {"split": {"train": 14, "validation": 8, "seed": 1}, "heads": "fresh", "forces": "direct"}
    tuned = atomslim.finetune(small(), [*summed, *alone_samples], output=tmp_path / "run", learn=("energy",), **options)
    assert tuned.task().targets[0].references == {1: -13.0, 8: -2041.0}
    alone[0].info["energy"] = -12.0
    write(tmp_path / "two.xyz", [alone[0], *alone])
    alone[0].info["energy"] = -11.0
    write(tmp_path / "two.xyz", [alone[0]], append=True)
    with pytest.raises(DataError, match="isolated H has -11 eV here and -12 eV elsewhere"):
        isolated_atoms(atomslim.data.open_dataset(str(tmp_path / "two.xyz")))


def test_given_references_are_taken_and_a_mean_by_name_only(tmp_path: Path) -> None:
    options = QUICK | {"heads": "fresh", "forces": "direct"}
    table = {"H": -2.0, "O": -10.0}
    tuned = atomslim.finetune(small(), waters(16), output=tmp_path / "given", e0s=table, **options)
    assert tuned.task().targets[0].references == {1: -2.0, 8: -10.0}
    with pytest.raises(DataError, match="no reference for O"):
        atomslim.finetune(small(), waters(16), output=tmp_path / "few", e0s="H=-2", **options)
    mean = atomslim.finetune(small(), waters(16), output=tmp_path / "mean", e0s="mean", **options)
    assert mean.task().targets[0].references == {}
    assert mean.task().targets[0].mean == pytest.approx(-14, abs=0.5)


def _with(sample: Sample, **targets: Any) -> Sample:
    made = {name: np.asarray(value, dtype=np.float64) for name, value in targets.items()}
    return Sample.create(sample.numbers, sample.positions, {**sample.targets, **made}, name=sample.name)


# -- energies add up


@pytest.mark.parametrize("heads", ["fresh", "reuse"])
def test_energies_of_cells_and_of_far_molecules_add_up(heads: str, tmp_path: Path) -> None:
    tuned = atomslim.finetune(small(), waters(16), output=tmp_path / "run", heads=heads, forces="direct", **QUICK)
    water = molecule("H2O")
    far = water + Atoms(water.numbers, water.positions + np.array([50.0, 0, 0]))
    one, two = energies(tuned, water, far)
    assert two == pytest.approx(2 * one, rel=1e-6)
    cell = Atoms("H2O", water.positions, cell=[5.0, 5.2, 5.4], pbc=True)
    one, eight = energies(tuned, cell, cell * (2, 2, 2))
    assert eight == pytest.approx(8 * one, rel=1e-6)


# -- zero steps are the identity


@pytest.mark.parametrize("forces", ["direct", "conservative"])
@pytest.mark.parametrize("change", [lambda model: model, lambda model: with_neighbours(model, 2)])
def test_reused_heads_predict_what_they_did(
    forces: Any, change: Callable[[JMP], JMP], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = change(small(forces))
    options = QUICK | {"optimiser": {"learning_rate": 0.0}, "heads": "reuse", "forces": forces}
    tuned = atomslim.finetune(start, waters(16), output=tmp_path / "run", **options)
    assert tuned.task().graph == start.task().graph
    frames = to_batch([Sample.from_ase(atoms, {}) for atoms in mixed(4)])
    before, after = start.predict(frames), tuned.predict(frames)
    for name in ("energy", "forces"):
        assert torch.equal(before[name].detach(), after[name].detach())
    capsys.readouterr()


def test_scales_are_fitted_to_label_minus_prediction_where_references_differ(tmp_path: Path) -> None:
    start = small()
    samples = labelled_by(start, mixed(), SHIFTS)
    options = QUICK | {"optimiser": {"learning_rate": 1e-12}, "forces": "direct"}
    tuned = atomslim.finetune(start, samples, output=tmp_path / "run", **options)
    assert tuned.history[0]["heads"] == "reused"
    assert tuned.task().targets[0].references == pytest.approx(SHIFTS, abs=1e-2)
    found = atomslim.evaluate(tuned, samples)
    assert found.gap is None
    assert found.errors["energy"].mae < 0.02
    assert found.errors["forces"].mae < 1e-6


def test_the_better_heads_are_the_default_and_the_others_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = small()
    samples = labelled_by(start, mixed())
    options = QUICK | {"optimiser": {"learning_rate": 1e-12}, "forces": "direct", "progress": True}
    tuned = atomslim.finetune(start, samples, output=tmp_path / "better", **options)
    text = capsys.readouterr().err
    assert "heads: those of the model's task own; at the start, against fresh ones: " in text
    assert "before the first step (and predicting the mean): energy " in text
    assert atomslim.evaluate(tuned, samples).errors["forces"].mae < 1e-6
    atomslim.finetune(start, samples, output=tmp_path / "fresh", heads="fresh", **options)
    text = capsys.readouterr().err
    assert "heads: fresh ones; " in text
    assert "heads=reuse keeps the model's, which start better" in text
    assert "ended worse than predicting the mean" in text


# -- the model's graphs


def test_the_models_graphs_are_kept_and_the_options_say_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = with_neighbours(small(), 3)
    options = QUICK | {"forces": "direct", "progress": True}
    tuned = atomslim.finetune(start, waters(16), output=tmp_path / "own", heads="fresh", **options)
    assert tuned.task().graph == start.task().graph
    assert (
        "cutoff 4.5 Å, 3 neighbours, the model's; the dataset's cutoff 12 Å, 30 neighbours" in capsys.readouterr().err
    )
    tuned = atomslim.finetune(start, waters(16), output=tmp_path / "given", cutoff=4.0, **options)
    assert (tuned.task().graph.cutoff, tuned.task().graph.neighbours) == (4.0, 3)
    assert "as the options say; the model has cutoff 4.5 Å, 3 neighbours" in capsys.readouterr().err


def test_a_checkpoint_without_graphs_takes_the_datasets(tmp_path: Path) -> None:
    start = small()
    start.history = [{"operation": "read", "graphs": "assumed"}]
    tuned = atomslim.finetune(start, waters(16), output=tmp_path / "run", forces="direct", heads="fresh", **QUICK)
    assert (tuned.task().graph.cutoff, tuned.task().graph.neighbours) == (12.0, 30)


# -- labels on another reference


def test_errors_of_energies_are_those_after_a_fit_and_marked(tmp_path: Path) -> None:
    model, other = small(), small(seed=3)
    plain, moved = (labelled_by(other, mixed(24), shifts) for shifts in (None, SHIFTS))
    found = atomslim.evaluate(model, moved)
    assert found.gap is not None
    assert found.gap.references[6] == pytest.approx(SHIFTS[6], abs=2)
    assert found.errors["energy"].mae <= atomslim.evaluate(model, plain).errors["energy"].mae
    report = atomslim.compare({"one": model, "other": other}, moved, speed=False)
    assert report.gaps["own"].before > 100
    assert report.models[1].errors["own"]["energy"].mae < 5
    assert "energy*" in report.tables()[0].columns
    assert any("different reference energies" in sentence for sentence in report.words())
    report.write(tmp_path)
    assert "reference gaps" in (tmp_path / "compare.json").read_text()


def test_relevance_and_distillation_lower_the_labels_and_warn(tmp_path: Path) -> None:
    model = small()
    moved = labelled_by(model, mixed(16), SHIFTS)
    with pytest.warns(AtomslimWarning) as said:
        found = atomslim.block_relevance(model, moved)
    words = " ".join(str(one.message) for one in said)
    assert "different reference energies" in words
    assert "the labels are the model's own answers" in words  # what they are, once lowered
    assert found.tasks["own"].errors["energy"].mae < 0.05
    cut = atomslim.keep_blocks(model, 1)
    with pytest.warns(AtomslimWarning, match="labels are lowered by it"):
        atomslim.distill(cut, model, moved, output=tmp_path / "run", steps=1, progress=False)
