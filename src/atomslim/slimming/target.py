"""The wanted speed of a student."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ase import Atoms

from atomslim.benchmarking.turns import Gain
from atomslim.errors import ConfigError
from atomslim.labelling.dynamics import time_step

_DAY = 86400.0

Kind = Literal["speedup", "ms per step", "ns per day"]


@dataclass(frozen=True)
class Target:
    """A speed in one of three units."""

    kind: Kind
    value: float

    @classmethod
    def of(
        cls, *, speedup: float | None = None, ms_per_step: float | None = None, ns_per_day: float | None = None
    ) -> "Target":
        """Take the one that is given; raises ConfigError for none or several, and for numbers that are not a speed."""
        given: dict[Kind, float | None] = {"speedup": speedup, "ms per step": ms_per_step, "ns per day": ns_per_day}
        wanted = [cls(kind, value) for kind, value in given.items() if value is not None]
        if len(wanted) != 1:
            raise ConfigError("give one speed: a speed-up, ms per step or ns per day")
        if not 0 < wanted[0].value < float("inf"):
            raise ConfigError(f"{wanted[0].kind} {wanted[0].value:g}: give a number above 0")
        return wanted[0]

    def reached(self, milliseconds: float, gain: Gain, step: float) -> float:
        """Return the speed relative to what was asked for, from ms per step and fs per step."""
        if self.kind == "speedup":
            return gain.median / self.value
        if self.kind == "ms per step":
            return self.value / milliseconds
        return nanoseconds(milliseconds, step) / self.value

    def __str__(self) -> str:
        """Describe it as on the command line."""
        return f"{self.value:g} × the speed" if self.kind == "speedup" else f"{self.value:g} {self.kind}"


def nanoseconds(milliseconds: float, step: float) -> float:
    """Return the ns of dynamics a day at these ms per step of so many fs."""
    return _DAY / (1e-3 * milliseconds) * step * 1e-6


def common_time_step(structures: Sequence[Atoms]) -> float:
    """Return the step of dynamics (fs) that suits all structures."""
    return min(map(time_step, structures), default=2.0)
