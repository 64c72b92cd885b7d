import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import atomslim
from atomslim.train.run_folder import RunFolder

RUNNER = Path(__file__).with_name("runner.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STEPS = 24


def command(folder: Path, steps: int, *launcher: str) -> list[str]:
    return [sys.executable, *launcher, str(RUNNER), str(folder), str(steps)]


def environment(**options: object) -> dict[str, str]:
    paths = [str(Path(atomslim.__file__).parents[1]), str(RUNNER.parents[1])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "RUNNER_OPTIONS": json.dumps(options),
    }


def rows(folder: Path) -> int:
    return read_bytes(folder / "metrics.jsonl").count(b"\n")


def read_bytes(path: Path) -> bytes:
    """Read a file that may not be there, or no longer."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def running(folder: Path) -> bool:
    """Whether a process that was given the folder is still there."""
    return any(str(folder).encode() in read_bytes(path) for path in Path("/proc").glob("[0-9]*/cmdline"))


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, sum("loss" in row for row in rows) + 1))
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_gives_the_same_weights(tmp_path: Path) -> None:
    """Between steps, in steps, in validations and while files are written."""
    environ = environment(dropout=0.2, validate_every="5 steps")
    subprocess.run(command(tmp_path / "whole", 32), env=environ, check=True)
    subprocess.run([*command(tmp_path / "killed", 32), "8"], env=environ, check=True)
    for name in ("best", "last"):
        whole, killed = (atomslim.load(tmp_path / run / f"{name}.safetensors") for run in ("whole", "killed"))
        for key, weight in whole.state_dict().items():
            assert torch.equal(weight, killed.state_dict()[key]), key
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run of one process, which nobody disturbs."""
    folder = tmp_path_factory.mktemp("one") / "run"
    subprocess.run(command(folder, STEPS), env=environment(), check=True)
    return losses(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")], ids=["SIGTERM", "Ctrl-C"]
)
@pytest.mark.parametrize("launcher", [TORCHRUN, ()], ids=["torchrun", "Lightning"])
def test_a_signal_ends_all_processes_with_the_state_saved(
    launcher: tuple[str, ...], number: signal.Signals, said: str, undisturbed: list[float], tmp_path: Path
) -> None:
    """Clusters and terminals signal all of a group, processes that read data among them; torchrun passes it on."""
    folder, environ = tmp_path / "run", environment(devices=2, workers=1)
    line = command(folder, STEPS, *launcher)
    with (tmp_path / "said").open("wb") as stderr:
        process = subprocess.Popen(line, env=environ, stderr=stderr, start_new_session=True)
        while process.poll() is None and rows(folder) < 5:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        assert process.wait(timeout=45) != 0  # torchrun itself would kill what goes on for 30 s
    text = (tmp_path / "said").read_text()
    found = re.findall(rf"{said}: stopped and saved after step (\d+): continue with --resume", text)
    assert [int(step) for step in found] == [RunFolder(folder).load_state()["clock"]["steps"]], text
    patience = time.monotonic() + 30
    while running(folder) and time.monotonic() < patience:  # without torchrun, the first does not wait for the others
        time.sleep(0.1)
    assert not running(folder)
    assert not (folder / "summary.json").exists()
    if (number == signal.SIGTERM) == bool(launcher):  # what is saved is the same by either signal
        subprocess.run(line, env=environ, check=True)
        assert losses(folder) == pytest.approx(undisturbed, rel=1e-4)


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(tmp_path: Path) -> None:
    subprocess.run(command(tmp_path / "one", 4), env=environment(), check=True)
    subprocess.run(command(tmp_path / "two", 4, *TORCHRUN), env=environment(devices=2), check=True)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("one", "two"))
    for first, second in zip(one["rows"], two["rows"], strict=True):
        assert first["test"]["count"] == second["test"]["count"]
        assert first["test"]["mae"] == pytest.approx(second["test"]["mae"], rel=1e-3)
