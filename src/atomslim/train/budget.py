"""What a run may use, and what it has used: steps, epochs, and the wall clock of training alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from atomslim.data.mixing import BatchPlan
from atomslim.train.durations import Duration


@dataclass
class Clock:
    """What training has used so far; validation and checkpoints are counted apart.

    ``epoch`` and ``position`` say which batch comes next: this many whole passes over the data, and this many batches
    of the one that is running.
    """

    steps: int = 0
    epoch: int = 0
    position: int = 0
    epoch_length: int = 1
    """Batches of the running epoch."""
    seconds: float = 0.0
    """Wall clock of training steps, the waiting for data included."""
    waiting_seconds: float = 0.0
    """Of these, spent waiting for data."""
    validation_seconds: float = 0.0
    structures: int = 0

    def advance(self, plan: BatchPlan, epoch_length: int, *, seconds: float, waiting: float) -> None:
        """Count one step, on a batch that was planned so."""
        self.steps += 1
        self.epoch, self.position, self.epoch_length = plan.epoch, plan.position + 1, epoch_length
        self.structures += plan.num_global
        self.seconds += seconds
        self.waiting_seconds += waiting

    def used(self, duration: Duration) -> float:
        """Return the share of a duration in seconds, steps or epochs that is used up."""
        passes = self.epoch + self.position / self.epoch_length
        used = {"seconds": self.seconds, "steps": float(self.steps), "epochs": passes}
        return used[duration.unit] / duration.amount

    def state(self) -> dict[str, float]:
        """Everything, as plain numbers for a checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    """Limits of a run, whichever is reached first."""

    limits: Sequence[Duration]

    def progress(self, clock: Clock) -> float:
        """Return how much of the run is done, from 0 to 1."""
        return min(max(clock.used(limit) for limit in self.limits), 1.0)

    def spent(self, clock: Clock) -> bool:
        """Say whether the run is over."""
        return self.progress(clock) >= 1.0

    def used(self, duration: Duration, clock: Clock) -> float:
        """Return the share of a duration that is used up; a percentage is one of the whole run."""
        if duration.amount <= 0:
            return 1.0
        return self.progress(clock) / duration.amount if duration.unit == "share" else clock.used(duration)
