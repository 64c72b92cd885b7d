"""What everything else makes of CHGNet models: predictions with magnetic moments, relevance, training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from numpy.typing import NDArray

import atomslim
from atomslim.atoms import from_ase
from atomslim.cli import main as cli
from atomslim.compress.cutoff import with_cutoff
from atomslim.compress.relevance import block_relevance
from atomslim.inference.predict import predict_file
from atomslim.inference.shards import predict_shards
from chgnet_models import package_model, saved
from families.labels import require_labels_are_learned


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(package_model(), tmp_path / "model.pth.tar")


@pytest.fixture
def frames(tmp_path: Path) -> str:
    structures = []
    for seed in range(12):
        atoms = bulk("MgO", "rocksalt", a=4.3)
        atoms.rattle(0.1, seed=seed)
        forces = np.random.default_rng(seed).normal(size=(2, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 - 0.1 * seed, forces=forces)
        structures.append(atoms)
    write(tmp_path / "frames.xyz", structures)
    return str(tmp_path / "frames.xyz")


def moments(path: Path, atoms: Atoms) -> NDArray[np.float64]:
    atoms = atoms.copy()
    atoms.calc = atomslim.Calculator(path)
    return np.asarray(atoms.get_magnetic_moments())


def test_magnetic_moments_are_read_back_from_files_of_predictions(path: Path, frames: str, tmp_path: Path) -> None:
    predict_file(path, frames, tmp_path / "out.xyz", progress=False)
    found = read(tmp_path / "out.xyz", ":")
    for atoms, start in zip(found, read(frames, ":"), strict=True):
        np.testing.assert_allclose(atoms.get_magnetic_moments(), moments(path, start), atol=1e-6)
    predict_shards(path, frames, tmp_path / "shards", form="parquet", progress=False)
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(tmp_path / "shards" / "part-00000.parquet")["magmoms"].to_pylist()
    np.testing.assert_allclose(rows, [atoms.get_magnetic_moments() for atoms in found], atol=1e-6)


def test_every_block_has_its_relevance(path: Path, frames: str) -> None:
    found = block_relevance(atomslim.load(path), frames, leave_out=True)
    assert found.units == ("bonds 1", "angles 1", "bonds 2")
    assert all(found.unit_mix(name).all() for name in ("gradcam", "taylor", "leave-out"))
    mix = found.as_dict()["mix"]
    assert {"gradcam", "taylor", "influence", "leave-out"} <= mix.keys()
    assert all(len(values) == 4 and np.isfinite(values[1:]).all() for values in mix.values())


def test_relevance_of_cutoffs_is_asked_for_by_name(
    path: Path, frames: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["relevance", str(path), frames, "-o", str(tmp_path / "scores"), "--limit", "2"]
    assert cli.main([*command, "--cutoffs", "4,3.5"]) == 0
    assert "unit" in (out := capsys.readouterr().out)
    assert "cutoff 3.5 Å" in out
    for wrong, message in (
        (["--cutoffs", "four"], "--cutoffs four: write numbers, as in 5.5,5"),
        (["--cutoffs", "5"], "cutoff 5 Å: give one between 0 and 4.5 Å"),
        (["--cutoffs", "4", "--no-leave-out"], "cutoffs are only scored by their errors"),
    ):
        assert cli.main([*command, *wrong]) == 1
        assert message in capsys.readouterr().err


def test_a_cut_learns_from_the_full_model(path: Path, frames: str, tmp_path: Path) -> None:
    full = atomslim.load(path)
    small = atomslim.keep_blocks(full, 2, realign="least-squares", calibration=frames)
    options: dict[str, Any] = {"weights": {"hessian": 0.1, "blocks": 1.0}, "optimiser": {"learning_rate": 3e-3}}
    learned = atomslim.distill(
        small, full, frames, output=tmp_path / "run", steps=8, batch_size=4, validate_against="teacher", **options
    )
    batch = from_ase(read(frames, ":"))
    wanted = full.predict(batch)["forces"]
    before, after = (float((model.predict(batch)["forces"] - wanted).abs().mean()) for model in (small, learned))
    assert after < before


def test_a_shorter_cutoff_learns_from_the_full_model(path: Path, frames: str, tmp_path: Path) -> None:
    full = atomslim.load(path)
    small = with_cutoff(full, 3.5)
    options: dict[str, Any] = {"weights": {"hessian": 0.1, "blocks": 1.0}, "optimiser": {"learning_rate": 3e-3}}
    learned = atomslim.distill(
        small, full, frames, output=tmp_path / "run", steps=8, batch_size=4, validate_against="teacher", **options
    )
    assert learned.task().graph.cutoff == 3.5
    batch = from_ase(read(frames, ":"))
    wanted = full.predict(batch)["forces"]
    before, after = (float((model.predict(batch)["forces"] - wanted).abs().mean()) for model in (small, learned))
    assert after < before


@pytest.mark.parametrize("heads", ["fresh", "reuse"])
def test_it_is_tuned_on_labels(heads: str, path: Path, frames: str, tmp_path: Path) -> None:
    tuned = atomslim.finetune(atomslim.load(path), data=frames, output=tmp_path / "run", steps=3, heads=heads)
    assert torch.isfinite(tuned.predict(from_ase(read(frames)))["forces"]).all()


def test_labels_of_0_and_1_are_learned(path: Path, tmp_path: Path) -> None:
    require_labels_are_learned(atomslim.load(path), tmp_path)


def test_prune_leaves_out_units_by_name(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.safetensors"
    assert cli.main(["prune", str(path), "-o", str(small), "--without", "angles 1,bonds 2"]) == 0
    assert "without angles 1\nwithout bonds 2\n" in capsys.readouterr().out
    assert atomslim.load(small).fine_units == ("bonds 1",)
    assert cli.main(["info", str(small)]) == 0
    assert "to be left out one by one: bonds 1" in capsys.readouterr().out
    assert cli.main(["prune", str(path), "-o", str(tmp_path / "other.safetensors"), "--without", "angles 9"]) == 1
    assert "no unit 'angles 9' to leave out: the model has bonds 1, angles 1, bonds 2" in capsys.readouterr().err
