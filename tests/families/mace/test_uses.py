"""What is done with every model, done with a small MACE."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import molecule

pytest.importorskip("families.mace.needed", exc_type=ImportError)

import atomslim
from atomslim.compress.prune import keep_blocks
from atomslim.errors import AtomslimWarning, ConfigError
from families.labels import require_labels_are_learned
from families.mace.package_models import calculator, saved
from train.water import waters

SPLIT = {"train": 12, "validation": 4, "test": 4}
RUN: dict[str, Any] = {"progress": False, "steps": 2, "batch_size": 4, "ema": None}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("mace") / "a.model", correlation=2, dtype=torch.float32)


def test_relevance_has_a_score_for_every_block(file: Path) -> None:
    with pytest.warns(AtomslimWarning, match="different reference energies"):  # springs know nothing of its energies
        scores = atomslim.block_relevance(atomslim.load(file), waters(8), batch_size=4)
    found = scores.tasks["Default"].gradcam["node"].mean
    assert len(found) == 3
    assert (found > 0).all()
    assert (scores.tasks["Default"].influence["node"].mean[1:] > 0).all()


@pytest.mark.parametrize("realign", ["sliced", "random", "least-squares"])
def test_cuts_are_realigned(realign: Any, file: Path, tmp_path: Path) -> None:
    full, data = atomslim.load(file), waters(20)
    cut = keep_blocks(full, [2], realign=realign, calibration=data if realign == "least-squares" else None)
    if realign == "least-squares":
        fit = cut.history[-1]["fit"]["node"]
        assert fit["R2 fitted"] > fit["R2 sliced"]
        with pytest.raises(ConfigError, match="its re-aligned readout"):
            atomslim.export(cut, tmp_path / "cut.model")
    else:
        atomslim.export(cut, tmp_path / "cut.model")


@pytest.mark.parametrize("heads", ["fresh", "reuse"])
def test_tuned_models_learn_and_go_back_to_the_package(heads: str, file: Path, tmp_path: Path) -> None:
    targets = {
        "energy": {"kind": "energy", "mean": 0.0},
        "forces": {"kind": "conservative_forces", "loss": "l2", "weight": 10.0},
    }
    run = RUN | {"steps": 60, "optimiser": {"learning_rate": 3e-2}, "split": SPLIT}
    before = atomslim.load(file)
    tuned = atomslim.finetune(before, waters(20), output=tmp_path / "run", heads=heads, targets=targets, **run)
    errors = [atomslim.evaluate(one, waters(20)).errors["forces"].mae for one in (before, tuned)]
    assert errors[1] < 0.9 * errors[0]
    atomslim.export(tuned, tmp_path / "tuned.model")
    forces = []
    for made in (atomslim.Calculator(tuned), calculator(tmp_path / "tuned.model", "float32")):
        atoms = molecule("H2O")
        atoms.calc = made
        forces.append(atoms.get_forces())
    assert forces[0] == pytest.approx(forces[1], abs=1e-4)


def test_a_cut_learns_outputs_scalars_blocks_and_hessian_rows_of_the_full_model(file: Path, tmp_path: Path) -> None:
    teacher = atomslim.load(file)
    student = keep_blocks(teacher, [2])
    weights = {"blocks": 1.0, "hessian": 0.1}
    tasks = [{"name": "Default", "split": SPLIT}]
    run = RUN | {"output": tmp_path / "run", "weights": weights, "validate_against": "teacher", "tasks": tasks}
    taught = atomslim.distill(student, teacher, data=waters(20), **run)
    assert taught.block_ids == (2,)
    assert any(not torch.equal(a, b) for a, b in zip(taught.parameters(), student.parameters(), strict=True))


def test_labels_of_0_and_1_are_learned(file: Path, tmp_path: Path) -> None:
    require_labels_are_learned(atomslim.load(file), tmp_path)


def test_direct_forces_are_refused(file: Path) -> None:
    targets = {"energy": {"kind": "energy"}, "forces": {"kind": "direct_forces"}}
    with pytest.raises(ConfigError, match="no direct forces"):
        atomslim.finetune(atomslim.load(file), waters(12), targets=targets, heads="fresh", **RUN)
