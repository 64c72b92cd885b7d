"""Commands that run a model take --device, and a device that is not there is one line."""

import inspect

import pytest
import torch

from atomslim.cli.devices import device_of
from atomslim.cli.main import app, main
from atomslim.cli.settings import chosen_device
from atomslim.errors import ConfigError

CPU = {"accelerator": "cpu"}

COMMANDS = ("benchmark", "compare", "evaluate", "package", "predict", "prune", "relevance", "serve", "validate")


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_choose_the_device_themselves(name: str) -> None:
    command = app[name].default_command
    assert command is not None
    assert inspect.signature(command).parameters["device"].default == "auto"


@pytest.mark.parametrize("name", ["distill", "finetune", "pretrain"])
def test_training_stays_where_its_options_say(name: str) -> None:
    command = app[name].default_command
    assert command is not None
    assert inspect.signature(command).parameters["device"].default is None


def test_the_device_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (chosen_device(None), chosen_device("cpu"), chosen_device("auto")) == ({}, CPU, CPU)
    with pytest.raises(ConfigError, match="no CUDA device is available"):
        chosen_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device("auto") == chosen_device("cuda") == {"accelerator": "gpu"}


def test_auto_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (device_of("auto"), device_of("cuda"), device_of("cpu")) == ("cuda", "cuda", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (device_of("auto"), device_of("cpu")) == ("cpu", "cpu")
    with pytest.raises(ConfigError, match="device cuda: no CUDA device is available to torch here: use cpu"):
        device_of("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "mini", "--device", "cuda"]) == 1
    assert capsys.readouterr().err == (
        "atomslim: error: device cuda: no CUDA device is available to torch here: use cpu\n"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_gives_the_same_on_the_device() -> None:
    import atomslim
    from samples import CONSERVATIVE, ethanol, small_model

    found = []
    for device in ("cpu", "cuda"):
        atoms = ethanol()
        atoms.calc = atomslim.Calculator(small_model(CONSERVATIVE), device=device)
        found.append((atoms.get_potential_energy(), atoms.get_forces()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-9)
