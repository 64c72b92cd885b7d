"""The metrics of a run for TensorBoard and for Weights & Biases, beside those in metrics.csv; both are extras."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from atomslim.errors import ConfigError, one_line
from atomslim.files import atomic_write
from atomslim.parsing import read_yaml

_CLOCK = ("step", "epoch", "seconds", "waiting_seconds", "validation_seconds", "structures")
"""Columns of time; the step is the axis, the rest is under clock/."""


class Board(Protocol):
    """Shows the metrics of a run elsewhere."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        ...

    def close(self) -> None:
        """Write what is still to be written."""
        ...


def require_tensorboard() -> Any:
    """Return torch's writer; raises ConfigError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- an extra, and slow to import
    except ImportError as error:
        raise ConfigError("tensorboard: is not installed: pip install 'atomslim[tensorboard]'") from error
    return SummaryWriter


def require_wandb() -> Any:
    """Return the package; raises ConfigError where it is not installed."""
    try:
        import wandb  # noqa: PLC0415 -- an extra, and slow to import
    except ImportError as error:
        raise ConfigError("wandb: is not installed: pip install 'atomslim[wandb]'") from error
    return wandb


REQUIRED = {"tensorboard": require_tensorboard, "wandb": require_wandb}
"""What each board needs."""


class TensorBoard:
    """Writes rows of metrics into the folder `tensorboard` of a run."""

    def __init__(self, folder: Path, steps: int) -> None:
        """Start, or resume: what was written after the resumed step is hidden."""
        self._writer = require_tensorboard()(str(folder / "tensorboard"), purge_step=steps + 1)

    def log(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(_named(name), value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WandB:
    """Sends rows of metrics to Weights & Biases, or with WANDB_MODE=offline into the folder `wandb` of a run.

    The project is `WANDB_PROJECT`, or atomslim. A resumed run is the same run there.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        """Start, or resume after ``steps``; raises ConfigError if it cannot, as without a login."""
        wandb = require_wandb()
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "atomslim"),
                dir=str(folder),
                id=_identity(folder / "wandb" / "run-id", new=steps < 0),
                name=folder.name,
                config=read_yaml(folder / "config.yaml"),
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(console="off"),  # stdout is the command's
            )
        except wandb.errors.Error as error:
            text = f"wandb: {one_line(error)}: log in with `wandb login`, or set WANDB_MODE=offline"
            raise ConfigError(text) from error
        self._run.define_metric("*", step_metric="step")

    def log(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        self._run.log({name if name == "step" else _named(name): value for name, value in row.items()})

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()


def boards(chosen: Mapping[str, bool], folder: Path, steps: int) -> list[Board]:
    """Return the chosen boards for a run that resumes after ``steps`` (−1: a new one)."""
    kinds: dict[str, type[TensorBoard | WandB]] = {"tensorboard": TensorBoard, "wandb": WandB}
    return [kinds[name](folder, steps) for name, wanted in chosen.items() if wanted]


def _named(name: str) -> str:
    return f"clock/{name}" if name in _CLOCK else name


def _identity(path: Path, *, new: bool) -> str:
    """Return the run's id there, and note it beside the metrics."""
    if new or not path.is_file():
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(uuid.uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
