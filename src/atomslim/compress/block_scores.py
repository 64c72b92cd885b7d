"""Scores of blocks on tasks: plain data."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atomslim.evaluation.classification import MEAN_OF_LABELS
from atomslim.evaluation.errors import PER_ATOM, Errors

Numbers = NDArray[np.float64]

_REPEATED = {PER_ATOM, MEAN_OF_LABELS}

ROUNDING = 1e-5
"""Fraction of what leaving a block out adds, below which an error is rounding."""

SCORES = {
    "gradcam": "GradCAM",
    "taylor": "Taylor",
    "influence": "influence",
    "leave-out": "leave-out",
}
"""Name in files and options → name for people."""


@dataclass(frozen=True)
class Score:
    """One score of every block, (b + 1,), with its standard deviation over batches."""

    mean: Numbers
    deviation: Numbers
    batches: int

    @classmethod
    def of(cls, rows: Numbers) -> "Score":
        """Summarise the scores of batches (batches, b + 1)."""
        deviation = rows.std(0, ddof=1) if len(rows) > 1 else np.full(rows.shape[1], np.nan)
        return cls(rows.mean(0), deviation, len(rows))

    def followed_by(self, count: int) -> "Score":
        """Return the same, padded with NaN for so many without a score."""
        none = np.full(count, np.nan)
        return Score(np.append(self.mean, none), np.append(self.deviation, none), self.batches)

    @property
    def normalised(self) -> "Score":
        """The same divided by the sum over blocks; NaN (the embedding's influence) does not count."""
        total = np.nansum(self.mean)
        scale = 1.0 / total if total > 0 else 1.0
        return Score(self.mean * scale, self.deviation * scale, self.batches)


def _largest(changes: Numbers) -> float:
    return float(np.nanmax(np.abs(changes), initial=0.0))


@dataclass(frozen=True)
class TaskRelevance:
    """Scores of one task, by branch ("node", "edge"), and errors with all blocks and without each."""

    structures: int
    gradcam: dict[str, Score]
    taylor: dict[str, Score]
    influence: dict[str, Score]
    errors: dict[str, Errors]
    left_out: dict[str, Numbers]
    """Target → what leaving out each block adds to the MAE in the target's unit, (b + 1,); NaN for the embedding.

    For binary labels, what it adds to the log loss.
    """
    units_left_out: dict[str, Numbers] = field(default_factory=dict)
    """The same for each finer unit, and for shorter cutoffs."""
    units: dict[str, Score] = field(default_factory=dict)
    """GradCAM's and Taylor's scores of finer units, per atom; NaN if there is none."""
    data: str = ""
    """Name of the dataset."""

    def summed(self, name: str) -> Numbers:
        """Return one number per block: the mean of the branches' normalised scores, or of the relative added errors.

        Energies per atom, the same errors as energies', and means over labels do not count. Where every score is 0, so
        is the mean.
        """
        if name == "leave-out":
            return self.relative(self.left_out)
        by_branch: dict[str, Score] = getattr(self, name)
        counted = [score.normalised.mean for score in by_branch.values() if np.nansum(score.mean) > 0]
        shares: Numbers = np.mean(counted or [score.mean for score in by_branch.values()], axis=0)
        return shares

    def of_units(self, name: str) -> Numbers:
        """Return one number for each unit, on the scale of `summed`: by gradients, shares of the sum over blocks."""
        if name == "leave-out":
            return self.relative(self.units_left_out)
        total = float(np.nansum(getattr(self, name)["node"].mean))
        mean: Numbers = self.units[name].mean
        return mean / total if total > 0 else mean

    def relative(self, left_out: dict[str, Numbers]) -> Numbers:
        """Return what leaving out adds to the errors, relative to them, as the mean over targets.

        If the errors are rounding, as for labels that the model made, ratios are meaningless: then the change
        is compared with the largest one, so that every target counts equally.
        """
        changes = [
            left_out[target] / max(error.smooth_error, ROUNDING * _largest(left_out[target]), 1e-300)
            for target, error in self.errors.items()
            if target not in _REPEATED
        ]
        return np.mean(changes, axis=0) if changes else np.array([])

    @property
    def answers_labels(self) -> bool:
        """Whether all errors are rounding compared with what leaving out a block adds: labels are the model's own."""
        return bool(self.errors) and all(
            error.smooth_error <= ROUNDING * _largest(self.left_out[target]) for target, error in self.errors.items()
        )


@dataclass(frozen=True)
class BlockScores:
    """Scores of the blocks of a model on one or more tasks."""

    blocks: tuple[int, ...]
    """Their numbers in the original model, 0 the embedding."""
    tasks: dict[str, TaskRelevance]
    units: tuple[str, ...] = ()
    """Names of the finer units, and of shorter cutoffs."""

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores there are."""
        measured = all(task.errors for task in self.tasks.values())
        return tuple(name for name in SCORES if name != "leave-out" or measured)

    def mix(self, name: str) -> Numbers:
        """Return a score of every block over the mix: the mean of the tasks' (b + 1,)."""
        mean: Numbers = np.mean([task.summed(name) for task in self.tasks.values()], axis=0)
        return mean

    @property
    def unit_scores(self) -> tuple[str, ...]:
        """Names of the scores that units have."""
        by_gradient = [name for name in self.scores if all(name in task.units for task in self.tasks.values())]
        return tuple(name for name in self.scores if self.units and (name in by_gradient or name == "leave-out"))

    def unit_mix(self, name: str) -> Numbers:
        """Return a score of every unit over the mix, on the same scale as `mix` of blocks; NaN if there is none.

        Gradient scores are fractions of the sum over blocks, in addition to those of blocks.
        """
        mean: Numbers = np.mean([task.of_units(name) for task in self.tasks.values()], axis=0)
        return mean
