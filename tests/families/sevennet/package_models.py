"""Small SevenNet models that the package itself builds, with random weights, and saves in its own format."""

import warnings
from pathlib import Path
from typing import Any

import e3nn
import torch
from sevenn import __version__
from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
from sevenn.calculator import SevenNetCalculator
from sevenn.model_build import build_E3_equivariant_model
from sevenn.util import chemical_species_preprocess

SMALL: dict[str, Any] = {
    "channel": 6,
    "lmax": 2,
    "is_parity": False,
    "num_convolution_layer": 3,
    "cutoff": 4.0,
    "weight_nn_hidden_neurons": [8],
    "radial_basis": {"radial_basis_name": "bessel", "bessel_basis_num": 5},
    "conv_denominator": [9.0, 10.0, 11.0],
    "shift": -1.5,
    "scale": 1.3,
}


def options(**changes: Any) -> dict[str, Any]:
    species = chemical_species_preprocess(["H", "C", "O", "Na", "Cl"])
    made = {**DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG, **SMALL, "version": __version__, **species, **changes}
    blocks = made["num_convolution_layer"]
    return {**made, "conv_denominator": made["conv_denominator"][:blocks]}


def checkpoint(path: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint with random weights, biases and scales included."""
    made = options(**changes)
    before = e3nn.get_optimization_defaults()
    e3nn.set_optimization_defaults(jit_script_fx=False)
    model = build_E3_equivariant_model(made)
    e3nn.set_optimization_defaults(**before)
    torch.manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.3)
    content = {"config": made, "model_state_dict": model.state_dict(), "epoch": 7}
    torch.save({**content, "optimizer_state_dict": {}, "scheduler_state_dict": {}}, path)
    return path


def calculator(path: Path | str, modal: str | None = None) -> SevenNetCalculator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = e3nn.get_optimization_defaults()
        e3nn.set_optimization_defaults(jit_script_fx=False)
        made = SevenNetCalculator(str(path), device="cpu", modal=modal)
        e3nn.set_optimization_defaults(**before)
    return made
