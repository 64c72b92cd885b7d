"""What is done with every model, done with a small Orb."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk, molecule
from ase.io import read, write

pytest.importorskip("families.orb.needed", exc_type=ImportError)

import atomslim
from atomslim.atoms import from_ase
from atomslim.cli.main import app
from atomslim.compress.neighbours import with_neighbours
from atomslim.compress.prune import keep_blocks
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.models.family import family_of
from atomslim.train.start import with_tasks
from families.orb.package_models import calculator, saved
from train.water import waters

SPLIT = {"train": 12, "validation": 4, "test": 4}
RUN: dict[str, Any] = {"progress": False, "steps": 2, "batch_size": 4, "ema": None}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("orb") / "a-direct-20-b.ckpt", "direct", 20)


@pytest.fixture(scope="module")
def conservative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("orb") / "a-conservative-20-b.ckpt", "conservative", 20)


def test_relevance_has_a_score_for_every_block(file: Path) -> None:
    with pytest.warns(AtomslimWarning, match="different reference energies"):  # springs know nothing of its energies
        scores = atomslim.block_relevance(atomslim.load(file), waters(8), batch_size=4)
    found = scores.tasks["orb"]
    assert len(found.gradcam["node"].mean) == 4
    assert (found.gradcam["node"].mean > 0).any()
    assert (found.influence["node"].mean[1:] > 0).all()


@pytest.mark.parametrize("realign", ["sliced", "random", "least-squares"])
def test_cuts_are_realigned(realign: Any, file: Path, tmp_path: Path) -> None:
    full, data = atomslim.load(file), waters(20)
    cut = keep_blocks(full, [2], realign=realign, calibration=data if realign == "least-squares" else None)
    if realign == "least-squares":
        fit = cut.history[-1]["fit"]["node"]
        assert fit["R2 fitted"] > fit["R2 sliced"]
    atomslim.export(cut, tmp_path / "cut.ckpt")
    ours, theirs = molecule("H2O"), molecule("H2O")
    ours.calc = atomslim.Calculator(cut)
    theirs.calc = calculator(tmp_path / "cut.ckpt", "direct", 20, num_message_passing_steps=1)
    assert ours.get_forces() == pytest.approx(theirs.get_forces(), abs=1e-4)


@pytest.mark.parametrize(("heads", "kind"), [("fresh", "conservative"), ("reuse", "direct")])
def test_tuned_models_learn_and_go_back_to_the_package(
    heads: str, kind: str, file: Path, conservative: Path, tmp_path: Path
) -> None:
    targets = {
        "energy": {"kind": "energy", "mean": 0.0},
        "forces": {"kind": f"{kind}_forces", "loss": "l2", "weight": 10.0},
    }
    run = RUN | {"steps": 20, "optimiser": {"learning_rate": 3e-2}, "split": SPLIT}
    before = atomslim.load(file if kind == "direct" else conservative)
    tuned = atomslim.finetune(before, waters(20), output=tmp_path / "run", heads=heads, targets=targets, **run)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    scores = [line["score"] for line in map(json.loads, lines) if "score" in line]
    assert min(scores) < 0.97 * scores[0]
    atomslim.export(tuned, tmp_path / "tuned.ckpt")
    forces = []
    for made in (atomslim.Calculator(tuned), calculator(tmp_path / "tuned.ckpt", kind, 20)):
        atoms = molecule("H2O")
        atoms.calc = made
        forces.append(atoms.get_forces())
    assert forces[0] == pytest.approx(forces[1], abs=1e-4)


def test_a_cut_learns_outputs_scalars_blocks_and_hessian_rows_of_the_full_model(
    conservative: Path, tmp_path: Path
) -> None:
    teacher = atomslim.load(conservative)
    student = keep_blocks(teacher, [2])
    weights = {"blocks": 1.0, "hessian": 0.1}
    tasks = [{"name": "orb", "split": SPLIT}]
    run = RUN | {"output": tmp_path / "run", "weights": weights, "validate_against": "teacher", "tasks": tasks}
    taught = atomslim.distill(student, teacher, data=waters(20), **run)
    assert taught.block_ids == (2,)
    assert any(not torch.equal(a, b) for a, b in zip(taught.parameters(), student.parameters(), strict=True))


def test_an_energy_alone_keeps_a_whole_stress(file: Path) -> None:
    model, close = atomslim.load(file), bulk("NaCl", "rocksalt", a=3.0)
    old = model.task()
    alone = with_tasks(model, [old.model_copy(update={"targets": old.targets[:1]})], reuse="orb")
    found, expected = (one.predict(from_ase(close))["stress"] for one in (alone, model))
    assert torch.allclose(found, expected, rtol=1e-5)


def test_fewer_neighbours_are_taken(file: Path) -> None:
    fewer = with_neighbours(atomslim.load(file), 0.5)
    assert fewer.task().graph.neighbours == 10


def test_stress_of_a_head_is_a_result(file: Path) -> None:
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    crystal.calc = atomslim.Calculator(file)
    with pytest.warns(AtomslimWarning, match="leaves out 37.5% of the pairs within 6 Å"):
        assert crystal.get_stress().shape == (6,)
    assert (crystal.calc.results["force_error"] > 0).all()


def test_what_orb_has_not_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="Orb models cannot be given another cutoff"):
        family_of(atomslim.load(file)).require("shorter cutoff")


def test_the_command_line_takes_it(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structures, small, out = tmp_path / "in.xyz", tmp_path / "small.safetensors", tmp_path / "out.xyz"
    write(structures, [molecule("H2O"), bulk("NaCl", "rocksalt", a=5.6)])
    commands = [
        ["info", str(file), "--json"],
        ["prune", str(file), "-o", str(small), "--keep", "1,2", "--export", str(tmp_path / "small.ckpt")],
        ["predict", str(small), str(structures), "-o", str(out)],
        ["evaluate", str(file), str(out), "--json"],
    ]
    for command in commands:
        app(command, result_action="return_value")
    printed = capsys.readouterr().out
    assert json.loads(printed[: printed.index("\n}") + 2])["family"] == "orb"
    found: Any = read(out, ":")
    assert found[1].get_stress().shape == (6,)
    assert (tmp_path / "small.ckpt").exists()
