"""How a run stands besides weights and optimiser, as it goes into the saved state and out of it."""

import math
from dataclasses import dataclass, field
from typing import Any

from atomslim.errors import ConfigError
from atomslim.evaluation.classification import parsed as parsed_errors
from atomslim.train.budget import Clock
from atomslim.train.validation import Results

STATE_VERSION = 3
_OTHER_SCORE = 2
"""Until this version, the score was a mean of MAE/σ, which no later score can be compared with."""


@dataclass
class Standing:
    """What the conductor keeps count of."""

    clock: Clock = field(default_factory=Clock)
    validations: int = 0
    best: float = math.inf
    """The best score so far."""
    best_step: int = 0
    waited: int = 0
    """Validations since the best."""
    saved_seconds: float = 0.0
    """The training clock at the last saved state."""

    def state(self) -> dict[str, Any]:
        """Everything but the clock, as plain numbers for a checkpoint."""
        return {key: value for key, value in vars(self).items() if key != "clock"}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Standing":
        """Take up a run's saved state."""
        standing = cls(**state["standing"], clock=Clock(**state["clock"]))
        if state["version"] == _OTHER_SCORE:
            standing.best = math.inf
        return standing


def require_version(state: dict[str, Any]) -> None:
    """Raise ConfigError for a saved state of another version of this program."""
    if state.get("version") not in {_OTHER_SCORE, STATE_VERSION}:
        raise ConfigError(
            f"the saved state has version {state.get('version')}, this program writes {STATE_VERSION}: continue with "
            "the version of atomslim that began the run"
        )


def plain(results: Results) -> dict[str, Any]:
    """Return errors as plain numbers and texts."""
    return {task: {name: vars(value) for name, value in errors.items()} for task, errors in results.items()}


def parsed(results: dict[str, Any]) -> Results:
    """Return what `plain` wrote down."""
    return {task: {name: parsed_errors(value) for name, value in errors.items()} for task, errors in results.items()}
