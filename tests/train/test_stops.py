"""How a run ends before its time: a loss that is not finite, a signal, patience; and how it is taken up again."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import atomslim
from atomslim.errors import AtomslimError, AtomslimWarning
from atomslim.train.conductor import Conductor
from atomslim.train.folder import RunFolder
from atomslim.train.module import Labels
from samples import small_model
from train.water import waters

SPLIT = {"train": 8, "validation": 2, "test": 2}
QUICK: dict[str, Any] = {"split": SPLIT, "steps": 4, "batch_size": 2, "cutoff": 4.5, "progress": False, "name": "water"}


def tune(run: Path, **options: Any) -> None:
    atomslim.finetune(small_model().float(), waters(12), output=run, **(QUICK | options))


def summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def not_a_number(loss: Tensor, weight: Tensor) -> Tensor:
    del weight
    return loss * torch.nan


def no_gradient(loss: Tensor, weight: Tensor) -> Tensor:
    """Leave the loss as it is; its gradient is 0 · ∞."""
    return loss + (weight * 0).sqrt().sum()


@pytest.mark.parametrize("spoil", [not_a_number, no_gradient])
def test_what_is_not_finite_ends_the_run_at_once_and_is_not_saved(
    spoil: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, loss = iter(range(1, 10)), Labels.loss

    def spoiled(self: Labels, model: Any, *arguments: Any) -> Tensor:
        found = loss(self, model, *arguments)
        return spoil(found, next(model.parameters())) if next(steps) == 3 else found

    monkeypatch.setattr(Labels, "loss", spoiled)
    with pytest.raises(AtomslimError, match=r"nan at step 3: lower the learning rate"):
        tune(tmp_path / "run", checkpoint_every="1 steps", validate_every="1 steps", log_every=50)
    state = RunFolder(tmp_path / "run").load_state()
    assert state["clock"]["steps"] == 2
    assert all(weight.isfinite().all() for weight in state["model"].values())
    assert not (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_after_a_saved_step(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Conductor._count

    def signalled(conductor: Conductor, *arguments: Any) -> int:
        if conductor.standing.clock.steps == 1:
            os.kill(os.getpid(), number)
        return count(conductor, *arguments)

    before = signal.getsignal(number)
    monkeypatch.setattr(Conductor, "_count", signalled)
    with (
        pytest.warns(AtomslimWarning, match=f"{number.name}: stopped and saved after step 2"),
        pytest.raises(SystemExit) as left,
    ):
        tune(tmp_path / "run")
    assert left.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert RunFolder(tmp_path / "run").load_state()["clock"]["steps"] == 2


def test_a_finished_run_is_not_changed_by_resuming_it(tmp_path: Path) -> None:
    """It had ended by patience, after steps that made it worse."""
    options = {"steps": 50, "validate_every": "1 steps", "patience": 2, "optimiser": {"learning_rate": 1.0}}
    tune(tmp_path / "run", **options, schedule={"warmup": "0 steps"})
    ended, weights = summary(tmp_path / "run"), (tmp_path / "run" / "state.pt").read_bytes()
    assert ended["steps"] == ended["best_step"] + 2 < 50
    tune(tmp_path / "run", **options, schedule={"warmup": "0 steps"}, resume=True)
    assert summary(tmp_path / "run") == ended
    assert (tmp_path / "run" / "state.pt").read_bytes() == weights
