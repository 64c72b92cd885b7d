import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import atomslim
from atomslim.errors import ConfigError, DataError
from atomslim.families.jmp import JMP
from atomslim.train.loop import Conductor
from samples import DIRECT, small_model
from train.water import waters

SPLIT = {"train": 24, "validation": 6, "test": 6}
QUICK: dict[str, Any] = {"split": SPLIT, "steps": 3, "batch_size": 2, "cutoff": 4.5, "log_every": 1, "progress": False}


def model() -> JMP:
    return small_model().float()


def weights(path: Path) -> dict[str, torch.Tensor]:
    return atomslim.load(path).state_dict()


def test_a_run_learns_and_leaves_a_complete_folder(tmp_path: Path) -> None:
    options = QUICK | {"steps": 60, "validate_every": "20 steps", "optimiser": {"learning_rate": 3e-3}, "ema": 0.5}
    tuned = atomslim.finetune(model(), waters(36), output=tmp_path / "run", name="water", **options)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    forces = next(row for row in summary["rows"] if row["target"] == "forces")
    assert forces["after"]["mae"] < 0.8 * forces["mean_baseline"]["mae"]
    assert forces["before"]["mae"] > forces["after"]["mae"]
    assert forces["test"]["count"] == 6 * 9
    split = tmp_path / "run" / "split.water.json"
    found = atomslim.evaluate(tuned, waters(36), part="test", split=split)
    assert found.errors["forces"].mae == pytest.approx(forces["test"]["mae"], rel=1e-6)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["steps"] == 60
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows if row["score"]] == [0, 20, 40, 60]
    assert [int(row["step"]) for row in rows if row["loss"]] == list(range(1, 61))
    assert tuned.history[-1]["operation"] == "fine-tune"
    with pytest.raises(ConfigError, match="holds a run already"):
        atomslim.finetune(model(), waters(36), output=tmp_path / "run", name="water", **options)


def test_a_stopped_run_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 5 of 7 steps, the last state being that of step 4, in the middle of the first epoch."""
    options = QUICK | {"steps": 7, "checkpoint_every": "2 steps", "ema": 0.9, "dropout": 0.2}
    count = Conductor._count

    def stop_after_five(conductor: Conductor, *arguments: Any) -> None:
        count(conductor, *arguments)
        if conductor.standing.clock.steps == 5:
            raise KeyboardInterrupt

    atomslim.finetune(model(), waters(36), output=tmp_path / "whole", **options)
    monkeypatch.setattr(Conductor, "_count", stop_after_five)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        atomslim.finetune(model(), waters(36), output=tmp_path / "parts", **options)
    monkeypatch.undo()
    assert not (tmp_path / "parts" / "summary.json").exists()
    atomslim.finetune(model(), waters(36), output=tmp_path / "parts", resume=True, **options)
    whole, parts = (weights(tmp_path / run / "last.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 8))
    with pytest.raises(ConfigError, match="cannot resume: batch_size was 2 and is now 3"):
        atomslim.finetune(model(), waters(36), output=tmp_path / "parts", resume=True, **(options | {"batch_size": 3}))


def test_the_budget_is_the_wall_clock_of_training(tmp_path: Path) -> None:
    atomslim.finetune(model(), waters(36), output=tmp_path / "first", **(QUICK | {"steps": 1}))  # whose steps are slow
    options = QUICK | {"steps": None, "budget": "1.5s"}
    atomslim.finetune(model(), waters(36), output=tmp_path / "run", **options)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 1.5 <= summary["training_seconds"] < 7.5
    assert summary["steps"] > 1
    assert summary["validation_seconds"] > 0


def test_direct_forces_in_bfloat16_but_not_conservative_ones(tmp_path: Path) -> None:
    direct = small_model(DIRECT).float()
    tuned = atomslim.finetune(
        direct, waters(36), output=tmp_path / "direct", forces="direct", precision="bf16", **QUICK
    )
    assert tuned.task().direct
    with pytest.raises(ConfigError, match="second derivatives"):
        atomslim.finetune(model(), waters(36), output=tmp_path / "conservative", precision="bf16", **QUICK)


def test_scalars_and_several_targets(tmp_path: Path) -> None:
    samples = [sample for seed in range(36) for sample in waters(1, seed=seed, gap=0.1 * seed, dipole=1.0 / (1 + seed))]
    targets = {
        "gap": {"kind": "scalar", "reduction": "mean", "loss": "huber"},
        "dipole": {"kind": "scalar", "loss": "mse"},
    }
    tuned = atomslim.finetune(model(), samples, output=tmp_path / "run", targets=targets, **QUICK)
    assert [target.name for target in tuned.task().targets] == ["gap", "dipole"]
    assert tuned.task().targets[0].mean != 0


def test_frozen_parts_stay_as_they_are(tmp_path: Path) -> None:
    start = model()
    options = QUICK | {"optimiser": {"freeze": ["embedding", "block 1"], "learning_rate": 1e-2}}
    atomslim.finetune(start, waters(36), output=tmp_path / "run", **options)
    tuned = weights(tmp_path / "run" / "last.safetensors")
    before = start.state_dict()
    assert torch.equal(tuned["embedding.weight"], before["embedding.weight"])
    assert not torch.equal(tuned["readout.node.first.weight"], before["readout.node.first.weight"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"forces": np.zeros((3, 3))}, "forces 0"), ({"energy": 0.0}, "energy 0")],
)
def test_an_all_zero_target_is_an_error(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=match):
        atomslim.finetune(model(), waters(36, **changes), output=tmp_path / "run", **QUICK)


def test_a_missing_target_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 24 structures has gap"):
        atomslim.finetune(model(), waters(36), output=tmp_path / "run", learn=("gap",), **QUICK)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"steps": None}, "how long to train"),
        ({"budget": "5 epochs"}, "give a time"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"split": {"train": 100, "validation": 1}}, "larger than the data"),
        ({"split": {"train": 30, "validation": 0}}, "samples: the split has no validation set"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        atomslim.finetune(model(), waters(36), output=tmp_path / "run", **(QUICK | changes))
