"""Small MACE models that the package itself builds, with random weights, and saves as it saves its own."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomslim.families.mace.package import o3

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package and e3nn 0.4.4 use what is deprecated
    from mace import modules
    from mace.calculators import MACECalculator

__all__ = ["calculator", "loaded", "modules", "options", "saved"]

NUMBERS = [1, 6, 8, 11, 17]
FIRST, LATER = "RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock"


def options(**changes: Any) -> dict[str, Any]:
    heads = changes.get("heads", ["Default"])
    made: dict[str, Any] = {
        "r_max": 4.0,
        "num_bessel": 5,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls_first": FIRST,
        "interaction_cls": LATER,
        "num_interactions": 2,
        "num_elements": len(NUMBERS),
        "hidden_irreps": "6x0e+6x1o",
        "MLP_irreps": "4x0e",
        "atomic_energies": np.arange(1.0, 1.0 + len(heads) * len(NUMBERS)).reshape(len(heads), -1) * -0.7,
        "avg_num_neighbors": 7.0,
        "atomic_numbers": NUMBERS,
        "correlation": 3,
        "gate": torch.nn.functional.silu,
        "radial_MLP": [7, 7],
        "heads": heads,
        "atomic_inter_scale": [1.3 + 0.2 * index for index in range(len(heads))],
        "atomic_inter_shift": [0.4 - 0.1 * index for index in range(len(heads))],
        **changes,
    }
    for name in ("interaction_cls_first", "interaction_cls", "readout_cls"):
        if name in made:
            made[name] = getattr(modules.blocks, made[name])
    for name in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if name in made:
            made[name] = o3.Irreps(made[name])
    return made


def saved(
    path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float64, cls: str = "ScaleShiftMACE", **changes: Any
) -> Path:
    """Save a model with random weights, biases included."""
    made = options(**changes)
    if cls == "MACE":
        made = {name: value for name, value in made.items() if not name.startswith("atomic_inter")}
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.manual_seed(seed)
            model = getattr(modules, cls)(**made)
        finally:
            torch.set_default_dtype(before)
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(weight, std=0.3)
        torch.save(model, path)
    return path


def loaded(path: Path) -> Any:
    """Return the package's object, as it reads its own files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=False)


def calculator(path: Path, dtype: str = "float64", **options: Any) -> MACECalculator:
    before = torch.get_default_dtype()
    logging.disable(logging.WARNING)  # it says that it converts dtypes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = MACECalculator(str(path), device="cpu", default_dtype=dtype, **options)
    logging.disable(logging.NOTSET)
    torch.set_default_dtype(before)
    return made
