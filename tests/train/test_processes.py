import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import atomslim

RUNNER = Path(__file__).with_name("runner.py")


def command(folder: Path, steps: int, *launcher: str) -> list[str]:
    return [sys.executable, *launcher, str(RUNNER), str(folder), str(steps)]


def environment(**options: object) -> dict[str, str]:
    paths = [str(Path(atomslim.__file__).parents[1]), str(RUNNER.parents[1])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "RUNNER_OPTIONS": json.dumps(options),
    }


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, sum("loss" in row for row in rows) + 1))
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_gives_the_same_weights(tmp_path: Path) -> None:
    """Between steps, in steps, in validations and while files are written."""
    environ = environment(dropout=0.2, validate_every="5 steps")
    subprocess.run(command(tmp_path / "whole", 16), env=environ, check=True)
    subprocess.run([*command(tmp_path / "killed", 16), "6"], env=environ, check=True)
    for name in ("best", "last"):
        whole, killed = (atomslim.load(tmp_path / run / f"{name}.safetensors") for run in ("whole", "killed"))
        for key, weight in whole.state_dict().items():
            assert torch.equal(weight, killed.state_dict()[key]), key
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    subprocess.run(command(tmp_path / "one", 4), env=environment(), check=True)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    subprocess.run(command(tmp_path / "two", 4, *launcher), env=environment(devices=2), check=True)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("one", "two"))
    for first, second in zip(one["rows"], two["rows"], strict=True):
        assert first["test"]["count"] == second["test"]["count"]
        assert first["test"]["mae"] == pytest.approx(second["test"]["mae"], rel=1e-3)
