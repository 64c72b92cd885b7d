"""How fast a student is to be."""

import math
from dataclasses import dataclass

from atomslim.errors import ConfigError

DAY = 86400.0
"""Seconds."""


@dataclass(frozen=True)
class Target:
    """How fast a student is to be, said in one of three ways."""

    speedup: float | None = None
    """Times the steps of the teacher."""
    ms_per_step: float | None = None
    ns_per_day: float | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError unless exactly one is given, above 0."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise ConfigError("target: give one of speedup, ms_per_step and ns_per_day")
        name, value = next(iter(given.items()))
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} {value:g}: give a number above 0")

    def milliseconds(self, teacher: float, time_step: float) -> float:
        """Return how long a step may take at most (ms).

        Args:
            teacher: what a step of the teacher takes (ms).
            time_step: of dynamics (fs).

        """
        if self.speedup is not None:
            return teacher / self.speedup
        if self.ms_per_step is not None:
            return self.ms_per_step
        return 1000 * DAY * time_step * 1e-6 / float(self.ns_per_day or 0)

    def __str__(self) -> str:
        """Say it as the options do."""
        if self.speedup is not None:
            return f"{self.speedup:g} × the teacher's speed"
        return f"{self.ms_per_step:g} ms a step" if self.ms_per_step is not None else f"{self.ns_per_day:g} ns a day"


def time_step(numbers: list[int]) -> float:
    """Return the time step (fs) of dynamics with these elements: 1 where there is hydrogen, else 2."""
    return 1.0 if 1 in numbers else 2.0
