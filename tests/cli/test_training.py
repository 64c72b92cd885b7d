import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from ase.io import write

import atomslim
from atomslim.cli import main as cli
from atomslim.cli.settings import read_settings
from atomslim.errors import ConfigError
from atomslim.train.loop import Conductor
from samples import DIRECT, small_model
from small_models import SIZES
from train.water import waters

pytestmark = pytest.mark.filterwarnings("ignore:.*different reference energies")  # no trained model is at hand


def test_finetune_then_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atomslim.save(small_model().float(), tmp_path / "model.safetensors")
    write(tmp_path / "water.extxyz", [sample.to_ase() for sample in waters(12)])
    (tmp_path / "options.yaml").write_text("split: {train: 6, validation: 3}\ncutoff: 4.5\nbatch_size: 2\n")
    files = [str(tmp_path / name) for name in ("model.safetensors", "water.extxyz")]
    run = ["-o", str(tmp_path / "run"), "--steps", "2", "--config", str(tmp_path / "options.yaml")]
    assert cli.main(["finetune", *files, *run, "--set", "optimiser.learning_rate=1e-3"]) == 0, capsys.readouterr().err
    assert "best.safetensors" in capsys.readouterr().out
    assert cli.main(["finetune", "-o", str(tmp_path / "run"), "--resume"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    best = str(tmp_path / "run" / "best.safetensors")
    split = next((tmp_path / "run").glob("split.*.json"))
    assert cli.main(["evaluate", best, files[1], "--part", "test", "--split", str(split), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["structures"] == 3
    assert cli.main(["evaluate", best, files[1]]) == 0
    assert "meV/Å" in capsys.readouterr().out


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, list[str]]:
    """A few steps of each kind of training, by command."""
    model = small_model(DIRECT).float()
    atomslim.save(model, tmp_path / "model.safetensors")
    atomslim.save(atomslim.keep_blocks(model, 1), tmp_path / "student.safetensors")
    data = str(tmp_path / "water.extxyz")
    write(data, [sample.to_ase() for sample in waters(12)])
    split = {"train": 6, "validation": 3}
    task = {"name": "direct", "data": data, "split": split, "cutoff": 4.5, "forces": "direct"}
    common: dict[str, Any] = {"batch_size": 2, "steps": 3}
    options: dict[str, dict[str, Any]] = {
        "finetune": {"model": str(tmp_path / "model.safetensors"), "data": data, "split": split, "forces": "direct"},
        "pretrain": {"sizes": SIZES | {"num_blocks": 1, "num_spherical": 3}, "tasks": [task], "epochs": None},
        "distill": {name: str(tmp_path / f"{name}.safetensors") for name in ("student", "teacher")} | {"tasks": [task]},
    }
    options["distill"]["teacher"] = options["finetune"]["model"]
    lines = {}
    for name, own in options.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(common | own))
        config = [] if name == "pretrain" else ["--config"]
        lines[name] = [name, *config, str(tmp_path / f"{name}.yaml"), "-o", str(tmp_path / f"of-{name}")]
    return lines


@pytest.mark.parametrize("command", ["finetune", "pretrain", "distill"])
def test_ctrl_c_is_one_line_that_says_how_to_go_on(
    command: str,
    commands: dict[str, list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line, count = commands[command], Conductor._count

    def interrupted(*arguments: Any) -> int:
        signal.raise_signal(signal.SIGINT)
        return count(*arguments)

    monkeypatch.setattr(Conductor, "_count", interrupted)
    assert cli.main(line) == 130
    text = capsys.readouterr().err
    assert [line.partition(" ")[0] for line in text.splitlines()].count("atomslim:") == 1
    assert text.splitlines()[0].startswith("labels ")
    assert text.splitlines()[-1].startswith("atomslim: ")
    assert "stopped and saved after step 1: continue with --resume" in text
    monkeypatch.undo()
    assert cli.main([command, "-o", line[-1], "--resume"]) == 0
    assert json.loads((Path(line[-1]) / "summary.json").read_text())["steps"] == 3


@pytest.mark.parametrize("command", ["finetune", "pretrain", "distill"])
def test_as_many_processes_as_the_options_say(
    command: str,
    commands: dict[str, list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert cli.main(commands[command]) == 1
    assert "torchrun started 4 processes, and devices × nodes is 1" in capsys.readouterr().err
    assert not Path(commands[command][-1]).exists()


@pytest.mark.parametrize("command", ["finetune", "pretrain", "distill"])
def test_a_folder_without_a_run_has_nothing_to_go_on_with(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        assert cli.main([command, "-o", str(tmp_path / folder), "--resume"]) == 1
        text = capsys.readouterr().err
        assert text.startswith(f"atomslim: error: {tmp_path / folder}: holds no run to resume: name a")
        assert text.count("\n") == 1
    assert not (tmp_path / "absent").exists()


def test_settings_come_from_the_file_then_overrides_then_arguments(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("optimiser: {clip: 2.0}\nsteps: 5\n")
    found = read_settings(
        tmp_path / "a.yaml", ["optimiser.learning_rate=1.5e-3", "ema=0.9"], {"steps": 7, "epochs": None}
    )
    assert found == {"optimiser": {"clip": 2.0, "learning_rate": 1.5e-3}, "steps": 7, "ema": 0.9}
    for override, match in (("steps", "NAME=VALUE"), ("steps.more=1", "one value")):
        with pytest.raises(ConfigError, match=match):
            read_settings(tmp_path / "a.yaml", [override], {})


@pytest.mark.parametrize("command", ["finetune", "pretrain", "evaluate"])
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert f"Example: atomslim {command}" in " ".join(capsys.readouterr().out.split())


def test_nothing_to_train_on_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["finetune", "-o", str(tmp_path / "run"), "--steps", "1"]) == 1
    assert "name a model and a dataset" in capsys.readouterr().err
    assert cli.main(["pretrain", "-o", str(tmp_path / "run")]) == 1
    assert "YAML file" in capsys.readouterr().err
