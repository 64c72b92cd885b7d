"""Times of cases that take turns, and what may be said of them: on a busy machine, nothing but that it was busy.

Another job makes a pass take any number of times as long, and rarely both of two passes that are compared. So cases run
in rounds, in a new random order in each, and fill a second or more in all; of every round a case keeps its shortest
time. A speed-up is the median of the rounds' ratios. Its spread is half their interquartile range, and how far the
ratio of the shortest times of all rounds is from it. Where the spread exceeds `BOUND`, or there were too
few rounds to tell it, no speed-up is claimed.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

BOUND = 0.15
"""Largest spread of a ratio, or of a time, that is still told, as a share of it."""

FEWEST_ROUNDS = 3
"""Fewer do not show a spread."""

BUSY = (
    f"the machine was busy, or there were too few repeats (times may differ by ± {BOUND:.0%} between them): repeat it "
    "when nothing else runs, or with more --repeats"
)
"""Why something is not claimed, and what helps."""

MOST_ROUNDS = 20
"""Short passes are repeated within a round instead."""

FILL_SECONDS = 1.0
"""What every case fills in all rounds together."""


class Case(Protocol):
    """Something that is timed."""

    @property
    def estimate(self) -> float:
        """Seconds that one pass takes, about."""
        ...

    def fill(self, seconds: float) -> None:
        """Run one pass, or as many as take so many seconds, and note the shortest time: one round."""
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
    """Say whether times tell how long something takes."""
    return len(times) >= FEWEST_ROUNDS and half_range(times) <= BOUND * statistics.median(times)


@dataclass(frozen=True)
class Gain:
    """How many times as fast one case is as another, by the rounds in which both were timed."""

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
        """Compare times of the same rounds; what shares one time, as a case does with itself, is exactly as fast."""
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
        """Whether the speed-up may be told."""
        return self.spread <= BOUND

    def __str__(self) -> str:
        """Give the speed-up with its spread, or what there is instead."""
        if self.reliable:
            return f"{self.median:.2f} × ± {self.spread:.0%}" if self.spread else f"{self.median:.2f} ×"
        return f"unclear ({self.problem})"

    @property
    def problem(self) -> str:
        """Why the speed-up is not told, in a few words."""
        return f"± {self.spread:.0%}" if math.isfinite(self.spread) else "too few repeats"

    def words(self) -> str:
        """Say it as part of a sentence: the speed-up, or what was in its way, what FLOPs suggest, and how to repeat."""
        if self.reliable:
            return f"{self.median:.2f} × the speed"
        why = "the machine was busy" if math.isfinite(self.spread) else "nothing is known of their spread"
        return (
            f"a speed-up that is not claimed ({self.problem}: {why}; FLOPs suggest {self.flops:.2f} ×; repeat it when "
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
        """Begin without any."""
        return cls({name: [] for name in names})

    def fill(self, run: Callable[[], dict[str, float]], seconds: float) -> None:
        """Run once, or as often as takes so many seconds, and keep the shortest time of each part."""
        seen = [run()]
        while sum(sum(one.values()) for one in seen) < seconds:
            seen.append(run())
        for name, times in self.parts.items():
            times.append(min(one[name] for one in seen))
