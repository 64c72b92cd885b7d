"""A tiny SevenNet whose irreps all have different widths, so that a mixed-up axis shows."""

from typing import Any

import torch

from atomslim.families.sevennet.config import SevenNetConfig
from atomslim.families.sevennet.model import SevenNet
from atomslim.models import Target, Task
from atomslim.models.graph_settings import GraphSettings

SIZES: dict[str, Any] = {
    "species": (8, 1, 6, 11, 17),
    "cutoff": 4.0,
    "num_radial": 5,
    "envelope": "poly_cut",
    "lmax_edge": 2,
    "parity": True,
    "irreps": ("6x0e", "7x0e+4x1o+3x2e", "8x0e+2x0o+5x1o+3x1e+2x2e", "6x0e"),
    "self_connection": ("linear", "nequip", "linear"),
    "radial_hidden": (9,),
    "readout_hidden": (3,),
}


def task(name: str = "potential") -> Task:
    references = {8: -4.0, 1: -1.0, 6: -3.0, 11: -0.5, 17: -0.7}
    targets = (
        Target(name="energy", kind="energy", std=1.3, references=references),
        Target(name="forces", kind="conservative_forces", unit="eV/Å"),
    )
    return Task(name=name, targets=targets, graph=GraphSettings(cutoff=4.0))


def small(*tasks: Task, seed: int = 0, **changes: Any) -> SevenNet:
    """Return a float64 model in evaluation mode with random weights; blocks hand on signals of about their size."""
    torch.manual_seed(seed)
    model = SevenNet(SevenNetConfig.model_validate(SIZES | changes), tasks or (task(),))
    for block in model.blocks:
        block.get_buffer("convolution.denominator").fill_(3.0)
    return model.double().eval()
