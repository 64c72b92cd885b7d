import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import atomslim
from atomslim.compress.neighbours import with_neighbours
from atomslim.compress.prune import keep_blocks
from atomslim.errors import ConfigError
from atomslim.evaluation.evaluate import evaluate
from atomslim.families.jmp import JMP
from samples import DIRECT
from small_models import jmp
from train.test_processes import environment, losses
from train.water import waters

pytestmark = pytest.mark.filterwarnings("ignore:.*different reference energies")  # no trained model is at hand

RUNNER = Path(__file__).with_name("distill_runner.py")

RUN: dict[str, Any] = {
    "progress": False,
    "batch_size": 4,
    "tasks": [{"name": "direct", "split": {"train": 16, "validation": 4, "test": 4}}],
    "optimiser": {"learning_rate": 3e-3},
    "ema": None,
    "log_every": 1,
}


def teacher() -> JMP:
    return jmp(DIRECT, num_blocks=3, sum_scale=1.0)


def answers(model: JMP, count: int, seed: int) -> list[Any]:
    """Structures whose labels are a model's predictions."""
    made = waters(count, seed=seed)
    for number, sample in enumerate(made):
        predicted = model.predict(atomslim.from_ase(sample.to_ase()))
        targets = {"energy": predicted["energy"][0].numpy(), "forces": predicted["forces"].numpy()}
        made[number] = replace(sample, targets=targets)
    return made


def test_a_student_comes_closer_to_its_teacher(tmp_path: Path) -> None:
    full = teacher()
    small = keep_blocks(full, 1)
    before = {name: weight.clone() for name, weight in small.state_dict().items()}
    found = atomslim.distill(
        small, full, waters(24), output=tmp_path / "run", steps=30, validate_against="teacher", **RUN
    )
    unseen = answers(full, 8, seed=5)
    assert evaluate(found, unseen).errors["forces"].mae < 0.7 * evaluate(small, unseen).errors["forces"].mae
    assert all(torch.equal(weight, before[name]) for name, weight in small.state_dict().items())
    assert found.history[-1]["operation"] == "distil"
    assert found.block_ids == (1,)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert next(row for row in summary["rows"] if row["target"] == "forces")["test"]["mae"] > 0


def test_labels_are_optional(tmp_path: Path) -> None:
    full = teacher()
    bare = [replace(sample, targets={}) for sample in waters(24)]
    found = atomslim.distill(
        keep_blocks(full, 2), full, bare, output=tmp_path / "bare", steps=2, validate_against="teacher", **RUN
    )
    assert found.num_blocks == 2
    both = atomslim.distill(
        keep_blocks(full, 2), full, waters(24), output=tmp_path / "both", steps=2, labels=0.5, **RUN
    )
    assert both.num_blocks == 2


@pytest.mark.parametrize("extra", [{"rattle": 0.02}, {"weights": {"blocks": 1.0, "hessian": 0.1}}], ids=str)
def test_a_stopped_run_goes_on_exactly(tmp_path: Path, extra: dict[str, Any]) -> None:
    full = teacher()
    for name, stops in (("whole", [6]), ("parts", [3, 6])):
        for steps in stops:
            atomslim.distill(
                keep_blocks(full, 1),
                full,
                waters(24),
                output=tmp_path / name,
                resume=steps == 6 and len(stops) > 1,
                steps=steps,
                checkpoint_every="1 steps",
                **{**RUN, "schedule": {"cosine": None, "warmup": "1 steps"}, "validate_every": "6 steps"},
                **extra,
            )
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    assert all(torch.equal(weight, states[1]["model"][name]) for name, weight in states[0]["model"].items())


@pytest.mark.parametrize("neighbours", [None, 1])
def test_kept_answers_change_no_loss(neighbours: int | None, tmp_path: Path) -> None:
    """Also where the student has graphs of its own, and its teacher answers on others."""
    full = teacher()
    small = keep_blocks(full, 1)
    small = small if neighbours is None else with_neighbours(small, neighbours)
    curves = []
    for cache in (False, True):
        folder = tmp_path / str(cache)
        atomslim.distill(small, full, waters(24), output=folder, steps=6, teacher_cache=cache, **RUN)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        curves.append([row["loss"] for row in rows if "loss" in row])
    assert len(curves[0]) == 6
    assert curves[1] == pytest.approx(curves[0], rel=1e-9)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    """With two tasks, of which a process's part of a batch may lack one; the two share kept answers, the one asks."""
    several = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for name, launcher, options in (("1", (), {}), ("2", several, {"devices": 2, "teacher_cache": True})):
        line = [sys.executable, *launcher, str(RUNNER), str(tmp_path / name), "4"]
        subprocess.run(line, env=environment(labels=0.5, **options), check=True)
    assert len(losses(tmp_path / "1")) == 4
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-4)
    assert [folder.name for folder in tmp_path.iterdir() if (folder / "teacher.answers").exists()] == ["2"]


def test_narrower_students_learn_through_maps_that_are_resumed(tmp_path: Path) -> None:
    full = teacher()
    narrow = atomslim.narrow(full, {"edge": 12}, waters(16), sweeps=0)
    atomslim.distill(narrow, full, waters(24), output=tmp_path / "run", steps=2, **RUN)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["objective"]["edge.weight"].shape == (18, 12)


def test_wrong_use_is_said(tmp_path: Path) -> None:
    full = teacher()
    small = keep_blocks(full, 1)
    with pytest.raises(ConfigError, match="name the data"):
        atomslim.distill(small, full, output=tmp_path / "a", steps=1)
    with pytest.raises(ConfigError, match="unknown task 'oc20'"):
        atomslim.distill(small, full, {"oc20": waters(4)}, output=tmp_path / "b", steps=1)
    with pytest.raises(ConfigError, match="leave the loss on labels out"):
        atomslim.distill(
            small,
            full,
            waters(24),
            output=tmp_path / "c",
            steps=1,
            labels=1.0,
            validate_against="teacher",
            **{key: RUN[key] for key in ("tasks", "progress")},
        )
    with pytest.raises(ConfigError, match="a calculator has labels and no features"):
        atomslim.distill(small, "ase:ase.calculators.emt:EMT", waters(4), output=tmp_path / "b", steps=1)
    with pytest.raises(ConfigError, match="how long"):
        atomslim.distill(small, full, waters(4), output=tmp_path / "d")
    assert not (tmp_path / "b").exists()
