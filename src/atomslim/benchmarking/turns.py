"""Times of cases that take turns, and what can be concluded: on a busy machine, only that it was busy.

Another job can slow down one of two compared passes many times and not the other. So cases run
in rounds, in a new random order in each, and fill a second or more in all; from every round a case keeps its shortest
time. A speed-up is the median of the rounds' ratios. Its spread is half their interquartile range, or the
distance to the ratio of the shortest times of all rounds, if that is larger. Where the spread exceeds `BOUND`, or there
were too few rounds to tell, no speed-up is reported.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

BOUND = 0.15
"""Largest relative spread of a ratio, or of a time, that is still reported."""

FEWEST_ROUNDS = 3
"""Fewest rounds that show a spread."""

BUSY = (
    f"the machine was busy, or there were too few repeats (times may differ by ± {BOUND:.0%} between them): repeat it "
    "when nothing else runs, or with more --repeats"
)
"""Why something is not reported, and what helps."""

MOST_ROUNDS = 20
"""Most rounds; short passes are repeated within a round instead."""

FILL_SECONDS = 1.0
"""Seconds that every case fills in all rounds together."""


class Case(Protocol):
    """Something that is timed."""

    @property
    def estimate(self) -> float:
        """Seconds that one pass takes, about."""
        ...

    def fill(self, seconds: float) -> None:
        """Run one round: one pass, or as many as fit into so many seconds; note the shortest time."""
        ...


def take_turns(cases: Sequence[Case], repeats: int) -> None:
    """Time cases in ``repeats`` rounds or more, in a random order each, until every case has filled a second."""
    if not cases:
        return
    rounds = number_of_rounds(max(case.estimate for case in cases), repeats)
    random = np.random.default_rng(0)
    for _ in range(rounds):
        for index in random.permutation(len(cases)):
            cases[index].fill(FILL_SECONDS / rounds)


def number_of_rounds(longest: float, repeats: int) -> int:
    """Return how many rounds the slowest case fills a second with: at least ``repeats``, at most `MOST_ROUNDS`."""
    return max(repeats, min(MOST_ROUNDS, math.ceil(FILL_SECONDS / max(longest, 1e-9))))


def half_range(values: Sequence[float]) -> float:
    """Return half the interquartile range; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def steady(times: Sequence[float]) -> bool:
    """Say whether times are reliable."""
    return len(times) >= FEWEST_ROUNDS and half_range(times) <= BOUND * statistics.median(times)


@dataclass(frozen=True)
class Gain:
    """Speed-up of one case over another, from the rounds in which both were timed."""

    median: float
    """Of the rounds' ratios."""
    minima: float
    """Ratio of the shortest times."""
    spread: float
    """As a share of the median; infinite where there were too few rounds."""
    flops: float
    """What the FLOPs of both suggest."""

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float], flops: float) -> "Gain":
        """Compare times of the same rounds; cases that share one time are exactly as fast."""
        if list(before) == list(after):
            return cls(1.0, 1.0, 0.0, flops)
        ratios = [first / second for first, second in zip(before, after, strict=True)]
        median, minima = statistics.median(ratios), min(before) / min(after)
        spread = half_range(ratios) / median + abs(minima / median - 1)
        return cls(median, minima, spread if len(ratios) >= FEWEST_ROUNDS else math.inf, flops)

    @classmethod
    def read(cls, plain: dict[str, Any]) -> "Gain":
        """Return what `as_dict` gave."""
        spread = math.inf if plain["spread"] is None else plain["spread"]
        return cls(plain["median"], plain["minima"], spread, plain["flops"])

    @property
    def reliable(self) -> bool:
        """Whether the speed-up is reliable."""
        return self.spread <= BOUND

    def __str__(self) -> str:
        """Give the speed-up with its spread, or why it is unclear."""
        if self.reliable:
            return f"{self.median:.2f} × ± {self.spread:.0%}" if self.spread else f"{self.median:.2f} ×"
        return f"unclear ({self.problem})"

    @property
    def problem(self) -> str:
        """Why the speed-up is not reported, in a few words."""
        return f"± {self.spread:.0%}" if math.isfinite(self.spread) else "too few repeats"

    def words(self) -> str:
        """Say it as part of a sentence: the speed-up, or why it is unclear, what FLOPs suggest, and how to repeat."""
        if self.reliable:
            return f"{self.median:.2f} × the speed"
        why = "the machine was busy" if math.isfinite(self.spread) else "nothing is known of their spread"
        return (
            f"an unclear speed-up ({self.problem}: {why}; FLOPs suggest {self.flops:.2f} ×; repeat it when "
            "nothing else runs, or with more --repeats)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers; None for a spread that is not known."""
        spread = self.spread if math.isfinite(self.spread) else None
        return {**vars(self), "spread": spread, "reliable": self.reliable}


@dataclass
class Rounds:
    """The shortest times of one case by round, each of several parts."""

    parts: dict[str, list[float]]

    @classmethod
    def of(cls, *names: str) -> "Rounds":
        """Start without any times."""
        return cls({name: [] for name in names})

    def fill(self, run: Callable[[], dict[str, float]], seconds: float) -> None:
        """Run once, or for so many seconds, and keep the shortest time of each part."""
        seen = [run()]
        while sum(sum(one.values()) for one in seen) < seconds:
            seen.append(run())
        for name, times in self.parts.items():
            times.append(min(one[name] for one in seen))
