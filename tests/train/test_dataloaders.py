"""`batch_cost: auto`, with a meter that knows what the memory depends on."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import atomslim
from atomslim.data.in_memory import Samples
from atomslim.data.loader import Batch
from atomslim.data.mixing import Mixture, TaskData
from atomslim.errors import ConfigError
from atomslim.train import dataloaders
from atomslim.train.dataloaders import DeviceMemory, Probe, largest_cost
from atomslim.train.distill import Distillation
from atomslim.train.options import RunOptions
from samples import DIRECT, small_model
from small_models import jmp
from train.water import waters

pytestmark = pytest.mark.filterwarnings("ignore:.*different reference energies")  # no trained model is at hand

QUICK: dict[str, Any] = {"split": {"train": 30, "validation": 3}, "steps": 1, "cutoff": 4.5, "progress": False}


class Memory:
    """Takes 1000 bytes, and 10 for every edge."""

    def __init__(self, free: int) -> None:
        self._free, self.costs = free, list[int]()

    def free(self) -> int:
        return self._free

    def peak(self, probe: Probe, cost: int) -> tuple[int, int]:
        del probe
        self.costs.append(cost)
        return cost, 1000 + 10 * cost


@pytest.fixture(scope="module")
def probe() -> Probe:
    mixture = Mixture([TaskData("water", Samples(waters(100)), ("energy",))])  # of 6 edges each
    return Probe(None, mixture, None, RunOptions(steps=1), torch.device("cpu"))  # type: ignore[arg-type] # not run


@pytest.mark.parametrize("free", [3_000, 8_000])
def test_the_cost_fills_the_share_of_what_is_free(probe: Probe, free: int) -> None:
    memory = Memory(free)
    cost = largest_cost(probe, memory, share=0.8, kept=500)
    assert cost == pytest.approx((0.8 * free - 500 - 1000) / 10, abs=1)
    assert all(1000 + 10 * tried <= 0.8 * free - 500 for tried in memory.costs)


def test_probes_end_with_the_data_and_the_cost_is_no_larger(probe: Probe) -> None:
    memory = Memory(10**9)
    assert largest_cost(probe, memory, share=1.0, kept=0) == 600
    assert max(memory.costs) <= 2 * 600


def test_too_little_memory_for_one_structure_is_an_error(probe: Probe) -> None:
    with pytest.raises(ConfigError, match=r"a batch of 6 edges takes .* raise memory_share"):
        largest_cost(probe, Memory(1100), share=0.5, kept=0)


class Metered(DeviceMemory):
    """Runs the probes; an edge takes 40 MB."""

    def free(self) -> int:
        return 10**9

    def peak(self, probe: Probe, cost: int) -> tuple[int, int]:
        found = probe(cost)
        return found, 4 * 10**7 * found


def test_a_resumed_run_keeps_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataloaders, "DeviceMemory", Metered)
    for steps in (1, 2):
        run = {**QUICK, "batch_cost": "auto", "steps": steps, "memory_share": 1 / steps, "resume": steps == 2}
        atomslim.finetune(small_model().float(), waters(36), output=tmp_path / "run", **run)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["batch_cost"] == 24


def test_distillation_measures_its_own_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher is asked in them; the narrower student's maps are trained along."""
    monkeypatch.setattr(dataloaders, "DeviceMemory", Metered)
    losses, loss = list[int](), Distillation.loss

    def counted(self: Distillation, model: Any, batch: Batch, summed: Any) -> Any:
        losses.append(len(batch))
        return loss(self, model, batch, summed)

    monkeypatch.setattr(Distillation, "loss", counted)
    teacher, narrow = jmp(DIRECT, num_blocks=1), jmp(DIRECT, num_blocks=1, emb_size_edge=16)
    task = {"name": "direct", "split": QUICK["split"]}
    for steps in (1, 2):
        run: dict[str, Any] = {"steps": steps, "resume": steps == 2, "tasks": [task], "progress": False}
        run |= {"batch_cost": "auto", "memory_share": 1 / steps}
        atomslim.distill(narrow, teacher, waters(36), output=tmp_path / "run", **run)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["batch_cost"] == 24
    assert losses == [1, 1, 2, 4, 4, 4]  # four probes, and a step of each run


def test_several_processes_are_told_to_measure_in_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="measured in one process"):
        atomslim.finetune(
            small_model().float(), waters(36), output=tmp_path / "run", **QUICK, batch_cost="auto", devices=2
        )


def test_the_memory_of_this_machine() -> None:
    device = DeviceMemory(torch.device("cpu"))
    assert 2**20 < device.free() < 2**50

    def touch(cost: int) -> int:
        torch.ones(cost, dtype=torch.uint8)
        return cost

    found, taken = device.peak(touch, 2**26)  # type: ignore[arg-type] # all a probe is
    assert found == 2**26
    assert taken == pytest.approx(2**26, rel=0.1)
