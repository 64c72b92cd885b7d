"""Datasets whose validation or test set is a file of its own, and names with environment variables."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.io import write

import atomslim
from atomslim.errors import ConfigError, DataError
from samples import small_model
from small_models import SIZES
from train.water import waters

QUICK: dict[str, Any] = {"steps": 2, "batch_size": 2, "cutoff": 4.5, "log_every": 1, "progress": False}
SETS = {"train": 12, "validation": 5, "test": 4}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of three sets in a folder, whose name the environment has."""
    for seed, (name, count) in enumerate(SETS.items()):
        frames = [sample.to_ase() for sample in waters(count, seed=seed)]
        write(tmp_path / f"{name}.xyz", frames, format="extxyz")
    monkeypatch.setenv("WATER_SETS", str(tmp_path))
    return tmp_path


def tune(run: Path, **options: Any) -> None:
    atomslim.finetune(small_model().float(), "xyz:$WATER_SETS/train.xyz", output=run, name="water", **(QUICK | options))


def counts(run: Path) -> dict[str, int]:
    """Return how many structures each set has, by the force components that errors were taken over."""
    split = json.loads((run / "split.water.json").read_text())
    rows = json.loads((run / "summary.json").read_text())["rows"]
    forces = next(row for row in rows if row["target"] == "forces")
    tested = 0 if forces["test"] is None else forces["test"]["count"] // 9
    return {"train": len(split["train"]), "validation": forces["after"]["count"] // 9, "test": tested}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"validation_data": "xyz:$WATER_SETS/validation.xyz"}, {"train": 12, "validation": 5, "test": 0}),
        (
            {"validation_data": "xyz:$WATER_SETS/validation.xyz", "test_data": "xyz:${WATER_SETS}/test.xyz"},
            {"train": 12, "validation": 5, "test": 4},
        ),
        ({"test_data": "xyz:$WATER_SETS/test.xyz"}, {"train": 11, "validation": 1, "test": 4}),
        (
            {"validation_data": "xyz:$WATER_SETS/validation.xyz", "split": {"train": 6, "validation": 2, "test": 3}},
            {"train": 6, "validation": 5, "test": 3},
        ),
    ],
)
def test_own_sets_are_used_whole_and_the_rest_is_for_training(
    folder: Path, options: dict[str, Any], expected: dict[str, int]
) -> None:
    tune(folder / "run", **options)
    assert counts(folder / "run") == expected


def test_the_best_model_is_chosen_on_the_own_validation_set(folder: Path) -> None:
    tune(folder / "run", validation_data="xyz:$WATER_SETS/validation.xyz")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    forces = next(row for row in summary["rows"] if row["target"] == "forces")
    tuned = atomslim.load(folder / "run" / "best.safetensors")
    found = atomslim.evaluate(tuned, f"xyz:{folder}/validation.xyz")
    assert found.errors["forces"].mae == pytest.approx(forces["after"]["mae"], rel=1e-6)


def test_a_stopped_run_with_own_sets_goes_on_exactly(folder: Path) -> None:
    options: dict[str, Any] = {"validation_data": "xyz:$WATER_SETS/validation.xyz", "checkpoint_every": "1 steps"}
    options["schedule"] = {"warmup": "1 steps", "cosine": None}  # a rate that does not depend on the end
    tune(folder / "whole", **options, steps=4)
    tune(folder / "parts", **options, steps=2)
    tune(folder / "parts", **options, steps=4, resume=True)
    whole, parts = (atomslim.load(folder / run / "last.safetensors").state_dict() for run in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(ConfigError, match="name validation_data"):
        tune(folder / "parts", **(options | {"validation_data": ""}), steps=4, resume=True)


def test_tasks_of_pre_training_have_own_sets_too(folder: Path) -> None:
    task = {"name": "water", "data": "xyz:$WATER_SETS/train.xyz", "cutoff": 4.5}
    task |= {"validation_data": "xyz:$WATER_SETS/validation.xyz", "test_data": "xyz:$WATER_SETS/test.xyz"}
    sizes = SIZES | {"num_blocks": 1, "num_spherical": 3, "direct_forces": False}
    options = {"sizes": sizes, "tasks": [task], "steps": 1, "scale_batches": 1}
    atomslim.pretrain(options, output=folder / "run", progress=False)
    assert counts(folder / "run") == SETS


@pytest.mark.parametrize("field", ["validation_data", "test_data"])
def test_what_is_wrong_with_own_sets_is_named(folder: Path, field: str) -> None:
    with pytest.raises(DataError, match=r"elsewhere\.xyz: there is no such file"):
        tune(folder / "run", **{field: "xyz:$WATER_SETS/elsewhere.xyz"})
    with pytest.raises(ConfigError, match=r"WATER_SETS_TOO is not set: set it") as caught:
        tune(folder / "run", **{field: "xyz:$WATER_SETS_TOO/test.xyz"})
    assert "\n" not in str(caught.value)
    assert not (folder / "run").exists()
