"""The device that a command uses."""

from typing import Literal

from atomslim.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
"""What ``--device`` takes."""


def device_of(device: Device) -> Literal["cpu", "cuda"]:
    """Return cpu or cuda; auto is cuda where torch can use it. Raises ConfigError for cuda where there is none."""
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ConfigError("device cuda: no CUDA device is available to torch here: use cpu")
    return "cuda" if there and device != "cpu" else "cpu"
