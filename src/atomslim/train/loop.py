"""The work around every step: rates, averages, the clock, metrics, validation, saving, resuming, stopping.

A run stops early on Ctrl-C, and on a cluster's signals before it takes the machine away:

| signal | from | exit status |
|---|---|---|
| SIGINT | Ctrl-C; a second one, a second or more later, ends at once | 130 |
| SIGTERM | a preemption, torchrun | 143 |
| SIGUSR1 | `sbatch --signal=USR1@120` | 138 |
"""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any
from warnings import warn

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from atomslim.data.loader import Batch
from atomslim.errors import AtomslimError, AtomslimWarning
from atomslim.evaluation.errors import Results
from atomslim.models.model_file import load
from atomslim.models.scope import NOTED, Shares, shares
from atomslim.threads import fitting
from atomslim.train.dataloaders import Endless
from atomslim.train.optimisation import Averages, Plateau, TrainingModule, plateau_rules, rate_factor, set_rates
from atomslim.train.options import RunOptions
from atomslim.train.reporting import ProgressBar, announced, said
from atomslim.train.run_folder import RunFolder
from atomslim.train.run_state import STATE_VERSION, Budget, Standing, parsed_results, plain_results
from atomslim.train.tasks import LearningTask
from atomslim.train.validation import Processes, before_first_step, columns, flat, mean_errors, model_errors, score

_REMEDY = "continue with --resume (in Python, resume=True)"

_ECHO_SECONDS = 1.0
"""Seconds within which a launcher may repeat the terminal's Ctrl-C."""


class StopRequest:
    """Remembers a signal, so that the running step is finished and saved first."""

    def __init__(self) -> None:
        self.number = 0
        """Number of the signal; 0: none."""
        self._since = 0.0

    def listen(self, *numbers: signal.Signals) -> None:
        """Handle signals from now on, except ignored ones; Lightning restores the former handlers at the end."""
        if threading.current_thread() is threading.main_thread():  # no other can
            for number in numbers:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._note)

    def let_interrupts_through(self) -> None:
        """From now on, Ctrl-C ends the program at once."""
        if signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        if number == self.number == signal.SIGINT and now - self._since > _ECHO_SECONDS:
            raise KeyboardInterrupt
        self.number, self._since = number, now


def ending(number: int, folder: Path, step: int, *, first: bool) -> BaseException:
    """Return what a process raises after its run was saved; the first of several says how to continue."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    line = f"{folder}: {name}: stopped and saved after step {step}: {_REMEDY}"
    if first and number == signal.SIGINT:
        return KeyboardInterrupt(line)
    if first:
        warn(line, AtomslimWarning, stacklevel=2)
    return SystemExit(128 + number)


@contextmanager
def interrupts_of(folder: Path) -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, which Lightning turns into exit status 1, and say how to continue."""
    try:
        yield
    except SystemExit as left:
        interrupt = left.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        saved = (folder / "state.pt").is_file()
        line = f"{folder}: interrupted; the last saved state is there: {_REMEDY}"
        raise KeyboardInterrupt(*(interrupt.args or ([line] if saved else []))) from None


class Conductor(Callback):
    """Runs a training around Lightning's steps.

    All processes take the same decisions; the first one writes files.
    """

    def __init__(
        self, operation: str, options: RunOptions, tasks: list[LearningTask], folder: RunFolder, *, show: bool
    ) -> None:
        self.operation, self.options, self.tasks, self.folder = operation, options, tasks, folder
        self.budget = Budget(options.limits)
        self.standing = Standing()
        self.plateau = Plateau(options.schedule.plateau_factor, options.schedule.plateau_patience)
        self.averages: Averages | None = None
        self.baselines: dict[str, Results] = {}
        self.latest: Results = {}
        self.tests: Results = {}
        self.history: list[dict[str, Any]] = []
        self.feed: Endless | None = None
        self.saved: dict[str, Any] | None = None
        self.stop = StopRequest()
        self.show = show
        self.bar = ProgressBar(shown=show)
        self._mark = self._batch_mark = 0.0
        self._threads = torch.get_num_threads()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Resume a saved state, or show the errors to beat."""
        self.stop.listen(signal.SIGTERM, signal.SIGUSR1)  # Lightning's own handling of SIGTERM may wait for ever
        module = _ours(pl_module)
        self.history = list(module.model.history)
        if self.options.ema is not None:
            self.averages = Averages(module.model, self.options.ema)
        if self.saved is not None:
            self._restore(trainer, module, self.saved)
        if trainer.is_global_zero:
            names = ["epoch", "seconds", "waiting_seconds", "validation_seconds", "structures", "learning_rate"]
            names += ["loss", "score", *columns(self.tasks)]
            self.folder.begin_metrics(names, self._saved_steps, **self.options.boards)
        if self.saved is None:
            with announced("measuring the errors to beat", shown=self.show and trainer.is_global_zero):
                self._begin(trainer, module)
        if signalled := trainer.strategy.broadcast(self.stop.number):
            self._leave(trainer, signalled)
        self.bar.start(self.operation)
        self.stop.listen(signal.SIGINT)  # until here there is nothing to save
        trainer.should_stop = self.budget.spent(self.standing.clock) or self._patience_over()
        self._mark = time.perf_counter()

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set rates and threads; draw this step's random numbers from its own seed, as a resumed run will."""
        del batch_idx
        torch.set_num_threads(fitting(_ours(pl_module).model, batch.atoms.num_atoms, self._threads))
        self._batch_mark = time.perf_counter()
        step = self.standing.clock.steps
        torch.manual_seed((self.options.seed * 1_000_003 + step) * 4099 + trainer.global_rank)
        set_rates(trainer.optimizers[0], self._rate())

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Skip steps with gradients that are not finite; the fp16 scaler already does so itself."""
        del trainer, pl_module
        if self.options.precision != "fp16":
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            self._require_finite(float(torch.nn.utils.get_total_norm(gradients)), self.standing.clock.steps + 1)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step, then log, validate, save and stop when due."""
        del batch_idx
        module = _ours(pl_module)
        if self.averages is not None:
            self.averages.update(module.model)
        signalled = self._count(trainer, batch)
        clock = self.standing.clock
        loss = self._loss(trainer, outputs["loss"].detach())
        if clock.steps % self.options.log_every == 0 or clock.steps == 1:
            self.bar.say(f"loss {loss:.4g}")
            self._log(trainer, {"learning_rate": self._rate(), "loss": loss})
        over = self.budget.spent(clock)
        intervals = int(self.budget.used(self.options.validate_every, clock))
        due = intervals > self.standing.validations
        if over or due:
            self._validate(trainer, module)
            self.standing.validations = max(self.standing.validations, intervals)  # more than one, if limits changed
        trainer.should_stop = over or self._patience_over()
        if trainer.should_stop or due or signalled or self._save_due():
            self._save(trainer, module)
        if signalled and not trainer.should_stop:
            self._leave(trainer, signalled)
        self.bar.update(self.budget.progress(clock))
        self._mark = time.perf_counter()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the last model, and test the best."""
        self.stop.let_interrupts_through()
        torch.set_num_threads(self._threads)
        self.bar.stop()
        module = _ours(pl_module)
        if trainer.is_global_zero:
            self._save_model(module, "last")
        trainer.strategy.barrier("models are written")
        best = load(self.folder.path / "best.safetensors", device=module.device)
        tested = [task for task in self.tasks if task.has_test]
        with announced("testing the best model", shown=self.show and trainer.is_global_zero):
            self.tests = model_errors(best, tested, "test", self.options, _processes(trainer, module))

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Restore the terminal and torch's threads."""
        del trainer, pl_module, exception
        torch.set_num_threads(self._threads)
        self.bar.stop()

    @cached_property
    def _trained_on(self) -> dict[str, Shares]:
        return {task.name: shares(sample.numbers for sample in task.looked_at()) for task in self.tasks}

    @property
    def _saved_steps(self) -> int:
        return -1 if self.saved is None else self.standing.clock.steps

    def _begin(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Measure the baselines; the loaded model is the first candidate for the best."""
        processes = _processes(trainer, module)
        self.baselines["mean"] = mean_errors(self.tasks, "validation", self.options, processes)
        self.standing.validations = -1
        self._validate(trainer, module)
        self.baselines["loaded"] = self.latest
        said(before_first_step(self.latest, self.baselines["mean"]), shown=self.show and trainer.is_global_zero)
        self._save(trainer, module)

    def _rate(self) -> float:
        clock = self.standing.clock
        return (
            self.options.optimiser.learning_rate
            * rate_factor(self.options.schedule, self.budget, clock)
            * self.plateau.scale
        )

    def _count(self, trainer: lightning.Trainer, batch: Batch) -> int:
        """Advance the clock and return a pending signal, if any; all processes use the first one's time."""
        if batch.plan is None or self.feed is None:
            raise AtomslimError("training needs batches that were planned: take them from training_feed")
        seen = time.perf_counter() - self._mark, self._batch_mark - self._mark, self.stop.number
        seconds, waiting, signalled = trainer.strategy.broadcast(seen) if trainer.world_size > 1 else seen
        length = self.feed.lengths[batch.plan.epoch]
        self.standing.clock.advance(batch.plan, length, seconds=seconds, waiting=waiting)
        return signalled

    def _loss(self, trainer: lightning.Trainer, loss: torch.Tensor) -> float:
        """Return the loss of the whole batch; raises AtomslimError before anything is saved if it is not finite."""
        if trainer.world_size > 1:
            loss = trainer.strategy.reduce(loss.clone(), reduce_op="mean")
        value = float(loss)
        self._require_finite(value, self.standing.clock.steps)
        return value

    def _require_finite(self, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise AtomslimError(
                f"{self.folder.path}: the loss or its gradient is {value} at step {step}: lower the learning rate, or "
                "check the labels; best.safetensors is from before"
            )

    def _leave(self, trainer: lightning.Trainer, number: int) -> None:
        trainer.strategy.barrier("the state is saved")
        raise ending(number, self.folder.path, self.standing.clock.steps, first=trainer.is_global_zero)

    def _log(self, trainer: lightning.Trainer, values: dict[str, Any]) -> None:
        if not trainer.is_global_zero:
            return
        clock = self.standing.clock
        times = {
            "seconds": round(clock.seconds, 4),
            "waiting_seconds": round(clock.waiting_seconds, 4),
            "validation_seconds": round(clock.validation_seconds, 4),
        }
        passes = clock.epoch + clock.position / clock.epoch_length
        self.folder.log({"step": clock.steps, "epoch": passes, **times, "structures": clock.structures, **values})

    def _validate(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        start = time.perf_counter()
        processes = _processes(trainer, module)
        with _averaged(self.averages, module):
            self.latest = model_errors(module.model, self.tasks, "validation", self.options, processes)
        standing = self.standing
        standing.validations += 1
        value = score(self.latest, self.baselines["mean"], module.terms)
        if plateau_rules(self.options.schedule, self.budget, standing.clock):
            self.plateau.observe(value)
        if value < standing.best:
            standing.best, standing.best_step, standing.waited = value, standing.clock.steps, 0
            if trainer.is_global_zero:
                self._save_model(module, "best")
        else:
            standing.waited += 1
        standing.clock.validation_seconds += time.perf_counter() - start
        self._log(trainer, {"score": value, **flat(self.latest)})

    def _patience_over(self) -> bool:
        return self.options.patience is not None and self.standing.waited >= self.options.patience

    def _save_due(self) -> bool:
        every, clock = self.options.checkpoint_every, self.standing.clock
        if every.unit == "steps":
            return clock.steps % max(int(every.amount), 1) == 0
        return clock.seconds - self.standing.saved_seconds >= every.amount

    def _save_model(self, module: TrainingModule, name: str) -> None:
        clock = self.standing.clock
        entry = {
            "operation": self.operation,
            "changes outputs": True,
            "data": [task.dataset.name for task in self.tasks],
            "steps": clock.steps,
            "training seconds": round(clock.seconds, 1),
            NOTED: self._trained_on,
        }
        module.model.history = [*self.history, *([entry] if clock.steps else [])]
        with _averaged(self.averages, module):
            self.folder.save_model(module.model, name)

    def _save(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        self.standing.saved_seconds = self.standing.clock.seconds
        if not trainer.is_global_zero:
            return
        self.folder.save_state(
            {
                "version": STATE_VERSION,
                "standing": self.standing.state(),
                "clock": self.standing.clock.state(),
                "plateau": self.plateau.state(),
                "model": module.model.state_dict(),
                "averages": None if self.averages is None else self.averages.state(),
                "objective": module.learned.state_dict(),
                "optimiser": trainer.optimizers[0].state_dict(),
                "precision": trainer.precision_plugin.state_dict(),
                "baselines": {kind: plain_results(results) for kind, results in self.baselines.items()},
                "latest": plain_results(self.latest),
                "feed": None if self.feed is None else self.feed.loader.state_dict()["of"],
            }
        )

    def _restore(self, trainer: lightning.Trainer, module: TrainingModule, state: dict[str, Any]) -> None:
        module.model.load_state_dict(state["model"])
        module.learned.load_state_dict(state["objective"])
        trainer.optimizers[0].load_state_dict(state["optimiser"])
        trainer.precision_plugin.load_state_dict(state["precision"])
        if self.averages is not None:
            self.averages.load(state["averages"])
        self.standing = Standing.of(state)
        for key, value in state["plateau"].items():
            setattr(self.plateau, key, value)
        self.baselines = {kind: parsed_results(results) for kind, results in state["baselines"].items()}
        self.latest = parsed_results(state.get("latest", {}))


def _ours(module: lightning.LightningModule) -> TrainingModule:
    if not isinstance(module, TrainingModule):
        raise TypeError(f"{type(module).__name__} is not a TrainingModule")
    return module


def _processes(trainer: lightning.Trainer, module: TrainingModule) -> Processes:
    return Processes(trainer.global_rank, trainer.world_size, module.summed, module.device)


def _averaged(averages: Averages | None, module: TrainingModule) -> AbstractContextManager[None]:
    return nullcontext() if averages is None else averages.applied(module.model)
