"""The results of a comparison for one model: plain data."""

from dataclasses import asdict, dataclass, field
from typing import Any

from atomslim.benchmarking.speed import Speed
from atomslim.evaluation.classification import COLUMNS, ClassErrors
from atomslim.evaluation.errors import Errors


@dataclass(frozen=True)
class ComparedModel:
    """One model's errors and costs."""

    name: str
    blocks: int
    parameters: int
    errors: dict[str, dict[str, Errors]]
    """Task → target → errors."""
    by_element: dict[str, dict[str, float]]
    """Task → element → force MAE in eV/Å."""
    speed: Speed | None
    """Of a batch."""
    single: Speed | None
    """Of one structure."""
    validation: dict[str, str] = field(default_factory=dict)
    """Check → passed, what failed, measured, or not done; empty where nothing was checked."""

    @property
    def latency(self) -> float | None:
        """Seconds for one structure."""
        return None if self.single is None else self.single.seconds

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        speeds = {"speed": self.speed, "single": self.single}
        plain = {name: None if speed is None else speed.as_dict() for name, speed in speeds.items()}
        return {**asdict(self), **plain, "latency": self.latency}

    def row(self) -> dict[str, str | float | None]:
        """Everything but the errors by element in one line: names of columns with their units → numbers."""
        cells: dict[str, str | float | None] = {
            "model": self.name,
            "blocks": self.blocks,
            "parameters": self.parameters,
        }
        for task, found in self.errors.items():
            for name, error in found.items():
                cells |= _cells(f"{name}, {task}", error)
        if self.speed is not None:
            cells |= {"FLOPs": self.speed.flops, "latency (s)": self.latency, "× floor": self.speed.over_floor}
            cells |= {"latency spread (s)": None if self.single is None else self.single.spread}
            cells |= {"structures/s": self.speed.throughput, "peak memory (bytes)": self.speed.memory}
        return cells | {f"check {name}": outcome for name, outcome in self.validation.items()}


def _cells(name: str, error: Errors) -> dict[str, str | float | None]:
    if isinstance(error, ClassErrors):
        return {f"{shown} {name}": error.metrics[metric] for metric, shown in COLUMNS.items()}
    return {f"MAE {name} ({error.unit})": error.mae}
