import json
from pathlib import Path

import pytest
from ase.io import write

import atomslim
from atomslim.cli import main as cli
from atomslim.cli.settings import read_settings
from atomslim.errors import ConfigError
from samples import small_model
from train.water import waters


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
