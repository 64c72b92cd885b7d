"""The learning rate over a run: linear warm-up, cosine, and steps down where the validation error stays level."""

import math
from dataclasses import dataclass

from atomslim.train.budget import Budget, Clock
from atomslim.train.options import ScheduleOptions


@dataclass
class Plateau:
    """Lowers the rate by a factor when `patience` validations in a row brought no better result."""

    factor: float
    patience: int
    scale: float = 1.0
    best: float = math.inf
    waited: int = 0

    def observe(self, value: float) -> None:
        """Take in the result of one validation, smaller is better."""
        if value < self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale *= self.factor
            self.waited = 0

    def state(self) -> dict[str, float]:
        """What changes during a run."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}


def factor(options: ScheduleOptions, budget: Budget, clock: Clock) -> float:
    """Return the factor on the learning rate now, without the plateau's.

    With u the share of the warm-up and c the share of the cosine that are used up:
    f = f₀ + (1 − f₀) u during the warm-up, then f = f₁ + (1 − f₁)(1 + cos πc)/2, and f₁ after the cosine. The cosine
    counts from the start of the run, as in JMP, so that at the end of the warm-up it is a little below one.
    """
    warm = budget.used(options.warmup, clock)
    if warm < 1:
        return options.warmup_factor + (1 - options.warmup_factor) * warm
    if options.cosine is None:
        return 1.0
    cosine = min(budget.used(options.cosine, clock), 1.0)
    return options.cosine_factor + (1 - options.cosine_factor) * (1 + math.cos(math.pi * cosine)) / 2


def plateau_rules(options: ScheduleOptions, budget: Budget, clock: Clock) -> bool:
    """Say whether only the plateau still lowers the rate: warm-up and cosine are over."""
    parts = [options.warmup] if options.cosine is None else [options.warmup, options.cosine]
    return all(budget.used(part, clock) >= 1 for part in parts)
