"""Targets and axes of a choice among everything that can be removed, with their checks."""

from collections.abc import Collection

from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of


def require_axes(model: BlockModel, axes: Collection[str]) -> None:
    """Raise ConfigError for an axis that a model does not have."""
    of = family_of(model)
    if "units" in axes and not model.fine_units:
        raise ConfigError(f"axes: {of.title} models have no finer units than blocks: leave units out")
    if "widths" in axes:
        of.require("widths")
    if "neighbours" in axes:
        of.require("neighbour caps")


def beyond_flops(model: BlockModel, axes: Collection[str]) -> bool:
    """Whether an axis is included whose speed-up FLOPs do not predict."""
    of = family_of(model)
    narrower = "widths" in axes and bool(of.feature_widths(model))
    return narrower or ("neighbours" in axes and "neighbour caps" in of.capabilities)


def require_target(**targets: float | None) -> None:
    """Raise ConfigError unless there is exactly one valid target."""
    if sum(value is not None for value in targets.values()) != 1:
        raise ConfigError(
            "give one target: a number of parameters, a speed-up, a time, a memory or a largest difference"
        )
    speed, error = targets["speed"], targets["error"]
    for name, unit in (("ms", "ms"), ("memory", "MB")):
        value = targets[name]
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"at most {value:g} {unit}: give more than 0")
    if speed is not None and not 1 <= speed < float("inf"):
        raise ConfigError(f"speed-up {speed:g}: give 1 or more")
    if error is not None and not 0 <= error < float("inf"):
        raise ConfigError(f"largest difference {error:g}: give 0 or more; 0.1 is 10 %")
