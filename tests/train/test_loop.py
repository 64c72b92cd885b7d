"""How a run ends before its time: a loss that is not finite, a signal, patience; and how it is taken up again."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import atomslim
from atomslim.errors import AtomslimError, AtomslimWarning
from atomslim.train import loop, validation
from atomslim.train.loop import Conductor, StopRequest
from atomslim.train.optimisation import Labels
from atomslim.train.run_folder import RunFolder
from samples import small_model
from train.water import waters

GO_ON = "continue with --resume"
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


def signalled_in(patch: pytest.MonkeyPatch, number: int, *, step: int = 1) -> None:
    """Send this process a signal in the step after so many."""
    count = Conductor._count

    def counted(running: Conductor, *arguments: Any) -> int:
        if running.standing.clock.steps == step:
            signal.raise_signal(number)
        return count(running, *arguments)

    patch.setattr(Conductor, "_count", counted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_after_a_saved_step(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    signalled_in(monkeypatch, number)
    with (
        pytest.warns(AtomslimWarning, match=rf"run: {number.name}: stopped and saved after step 2: {GO_ON}"),
        pytest.raises(SystemExit) as left,
    ):
        tune(tmp_path / "run")
    assert left.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert RunFolder(tmp_path / "run").load_state()["clock"]["steps"] == 2


def test_ctrl_c_stops_after_a_saved_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signalled_in(monkeypatch, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=rf"run: Ctrl-C: stopped and saved after step 2: {GO_ON}"):
        tune(tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    assert RunFolder(tmp_path / "run").load_state()["clock"]["steps"] == 2
    tune(tmp_path / "run", resume=True)
    assert summary(tmp_path / "run")["steps"] == 4


def test_a_second_ctrl_c_ends_at_once_but_an_echo_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, now = StopRequest(), [100.0]
    monkeypatch.setattr("atomslim.train.loop.time.monotonic", lambda: now[0])
    try:
        stop.listen(signal.SIGINT)
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        stop.let_interrupts_through()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_ignored_signals_stay_ignored() -> None:
    """As those of what a shell's script runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        StopRequest().listen(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("part", "line"), [("validation", "^$"), ("test", f"run: interrupted; the last saved state is there: {GO_ON}")]
)
def test_ctrl_c_outside_of_steps_ends_at_once(
    part: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first validation nothing is saved yet; in the test, all is."""
    errors = validation.model_errors

    def interrupted(model: Any, tasks: Any, asked: str, *arguments: Any) -> Any:
        if asked == part:
            signal.raise_signal(signal.SIGINT)
        return errors(model, tasks, asked, *arguments)  # type: ignore[arg-type] # one of the names of parts

    monkeypatch.setattr(loop, "model_errors", interrupted)
    with pytest.raises(KeyboardInterrupt, match=line):
        tune(tmp_path / "run")
    assert RunFolder(tmp_path / "run").has_state == (part == "test")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_while_baselines_are_measured_stops_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = validation.mean_errors

    def signalled(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return errors(*arguments)

    monkeypatch.setattr(loop, "mean_errors", signalled)
    with pytest.warns(AtomslimWarning, match="after step 0"), pytest.raises(SystemExit) as left:
        tune(tmp_path / "run")
    assert left.value.code == 143
    tune(tmp_path / "run", resume=True)
    assert summary(tmp_path / "run")["steps"] == 4


def test_a_finished_run_is_not_changed_by_resuming_it(tmp_path: Path) -> None:
    """It had ended by patience, after steps that made it worse."""
    options = {"steps": 50, "validate_every": "1 steps", "patience": 2, "optimiser": {"learning_rate": 1.0}}
    tune(tmp_path / "run", **options, schedule={"warmup": "0 steps"})
    ended, weights = summary(tmp_path / "run"), (tmp_path / "run" / "state.pt").read_bytes()
    assert ended["steps"] == ended["best_step"] + 2 < 50
    tune(tmp_path / "run", **options, schedule={"warmup": "0 steps"}, resume=True)
    assert summary(tmp_path / "run") == ended
    assert (tmp_path / "run" / "state.pt").read_bytes() == weights
