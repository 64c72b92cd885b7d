"""What was removed from a model for a target, and why."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from atomslim.compress.costs import Counted, words
from atomslim.compress.cuts import Cut
from atomslim.compress.prune import Model
from atomslim.evaluation.batches import TaskedData


@dataclass(frozen=True)
class Removal:
    """A removal, and the state of the model after it and those before."""

    name: str
    cut: Cut
    difference: float
    """From the full model, relative to its outputs."""
    count: float
    """Remaining parameters, FLOPs, ms or MB."""


@dataclass(frozen=True)
class Choice:
    """What to remove for a target, and why: every removal in turn."""

    cut: Cut
    target: str
    counted: Counted
    whole: float
    """Parameters, FLOPs, ms or MB of the full model."""
    removals: tuple[Removal, ...]
    difference: float
    """Difference of the result from the full model, before re-alignment."""
    count: float
    """Parameters, FLOPs, ms or MB of the result."""
    needless: tuple[str, ...] = ()
    """Removals that were undone."""
    tried: tuple[Removal, ...] = ()
    """All measured cuts."""

    def apply(self, model: Model, data: TaskedData | None = None, **options: Any) -> Model:
        """Return the cut model, with this choice in its history; arguments are those of `Cut.of`."""
        small = self.cut.of(model, data, **options)
        small.history[len(model.history)]["chosen"] = self.as_dict()
        return small

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        steps = [
            {"without": one.name, "difference": one.difference, f"{self.counted} left": one.count / self.whole}
            for one in self.removals
        ]
        return {
            "for": self.target,
            "by": "least difference for what is saved, among everything, blocks only and finer units only",
            "steps": steps,
            "came back": list(self.needless),
            "difference": self.difference,
            f"{self.counted} left": self.count / self.whole,
        }

    def words(self) -> Iterator[str]:
        """Say what was removed and why."""
        if not self.removals:
            whole = words(self.whole, self.counted)
            yield f"{self.target}: the full model has {whole} and meets it: nothing is removed"
        for one in self.removals:
            yield f"without {one.name}: {self._state(one.difference, one.count)}"
        for name in self.needless:
            yield f"{name} was kept: the target is met with it"
        if self.needless:
            yield f"result: {self._state(self.difference, self.count)}"

    def _state(self, difference: float, count: float) -> str:
        share = count / self.whole
        return f"{difference:.1%} from the full model before re-alignment, {share:.0%} of its {self.counted} left"

    def front(self) -> list[Removal]:
        """Return the Pareto front of cost and difference, the smallest difference first."""
        best: list[Removal] = []
        for one in sorted(self.tried, key=lambda one: (one.difference, one.count)):
            if not best or one.count < best[-1].count:
                best.append(one)
        return best
