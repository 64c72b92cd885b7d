"""The metrics of a run for TensorBoard, beside those in metrics.csv; TensorBoard is an extra of this package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomslim.errors import ConfigError

_CLOCK = ("step", "epoch", "seconds", "waiting_seconds", "validation_seconds", "structures")
"""Columns that say when; the step is TensorBoard's axis, the rest is under clock/."""


def require_tensorboard() -> Any:
    """Return torch's writer; raises ConfigError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- an extra, and slow to import
    except ImportError as error:
        raise ConfigError("tensorboard: is not installed: pip install 'atomslim[tensorboard]'") from error
    return SummaryWriter


class Board:
    """Writes rows of metrics into the folder `tensorboard` of a run."""

    def __init__(self, folder: Path, steps: int) -> None:
        """Begin, or go on: what was written after the step that is resumed from is hidden."""
        self._writer = require_tensorboard()(str(folder / "tensorboard"), purge_step=steps + 1)

    def log(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(f"clock/{name}" if name in _CLOCK else name, value, row["step"])
        self._writer.flush()
