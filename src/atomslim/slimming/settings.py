"""Options of all trainings of a run."""

from typing import Any

from atomslim.slimming.options import SlimOptions

OPTIMISER = {"weight_decay": 0.0, "clip": 10.0, "clip_by": "norm"}
SCHEDULE = {"warmup": "5%", "warmup_factor": 0.1, "cosine": "100%", "cosine_factor": 0.02}


def settings(options: SlimOptions, rate: float) -> dict[str, Any]:
    """Return options of a training with this learning rate."""
    return {
        "batch_size": options.batch_size,
        "optimiser": OPTIMISER | {"learning_rate": rate, "rates": {}},
        "schedule": SCHEDULE,
        "ema": 0.99,
        "validate_every": "20%",
        "seed": options.seed,
    }


def how_long(options: SlimOptions, seconds: float) -> dict[str, Any]:
    """Return how long a training is: so many seconds, unless steps are given."""
    return {"budget": f"{seconds:.3f}s"} if options.steps is None else {"steps": options.steps}
