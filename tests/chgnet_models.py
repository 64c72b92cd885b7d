"""CHGNet as its package has it: small models with random weights, files of them, and results of its own calculator."""

import contextlib
import io
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from numpy.typing import NDArray

pytest.importorskip("chgnet", reason="needs the extra chgnet: pip install 'atomslim[chgnet]'")

SIZES: dict[str, Any] = {
    "atom_fea_dim": 9,
    "bond_fea_dim": 7,
    "angle_fea_dim": 5,
    "num_radial": 6,
    "num_angular": 7,
    "n_conv": 3,
    "atom_conv_hidden_dim": 8,
    "bond_conv_hidden_dim": 6,
    "mlp_hidden_dims": [10, 11],
    "mlp_out_bias": False,
    "gMLP_norm": "layer",
    "readout_norm": "layer",
    "cutoff_coeff": 6,
    "atom_graph_cutoff": 4.5,
}
"""All widths differ, so that a mixed-up axis shows."""


def package_model(seed: int = 0, **changes: Any) -> Any:
    """Return a small model of the package's class; its weights are larger than fresh ones, so that all count."""
    from chgnet.model import CHGNet

    torch.manual_seed(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        model = CHGNet(**SIZES | changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.startswith("composition"):
                parameter.mul_(1.5)
    return model


def saved(model: Any, path: Path) -> Path:
    """Write a model as the package's trainer does."""
    torch.save({"model": model.as_dict(), "optimizer": {}, "trainer_args": {"targets": "efsm"}}, path)
    return path


@cache
def shipped_model(version: str = "0.3.0") -> Any:
    """Return a model that the package ships, read by the package."""
    from chgnet.model import CHGNet

    with contextlib.redirect_stdout(io.StringIO()):
        return CHGNet.load(model_name=version, use_device="cpu", verbose=False)


def package_results(model: Any, atoms: Atoms) -> dict[str, NDArray[np.float64]]:
    """Return what the package's calculator gives: energy, forces, stress, magmoms, as it has them."""
    from chgnet.model import CHGNetCalculator

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), _quiet():
        calculator = CHGNetCalculator(model, use_device="cpu")
        calculator.calculate(atoms)
    return {name: np.array(calculator.results[name], dtype=np.float64) for name in calculator.results}


@contextlib.contextmanager
def _quiet() -> Any:
    """Let the package use what torch and pymatgen will drop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
