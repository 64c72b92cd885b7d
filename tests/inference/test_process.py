import pytest
import torch

from atomslim.errors import ConfigError
from atomslim.inference.process import own_device, parse_process, process_of


def test_torchrun_and_srun_say_which_process_it_is() -> None:
    assert process_of({"RANK": "1", "WORLD_SIZE": "4"}) == (1, 4)
    assert process_of({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"}) == (2, 3)
    assert process_of({}) == (0, 1)


def test_a_batch_script_without_srun_is_one_process() -> None:
    assert process_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == (0, 1)


def test_a_process_is_written_with_a_slash() -> None:
    assert parse_process("3/16") == (3, 16)
    for text in ["3 of 16", "16/16", "-1/4", "1/", "1/0", "²/4", ""]:
        with pytest.raises(ConfigError, match="as in 3/16"):
            parse_process(text)


def test_an_environment_that_cannot_be_is_named() -> None:
    with pytest.raises(ConfigError, match="RANK and WORLD_SIZE: process '4/4'"):
        process_of({"RANK": "4", "WORLD_SIZE": "4"})


def test_processes_of_a_machine_share_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert own_device("cuda", {"LOCAL_RANK": "2"}) == "cuda:2"
    assert own_device("cuda", {"SLURM_LOCALID": "5"}) == "cuda:1"
    assert own_device("cuda", {}) == "cuda"
    assert own_device("cpu", {"LOCAL_RANK": "2"}) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # each process sees its own only
    assert own_device("cuda", {"LOCAL_RANK": "2"}) == "cuda"
