"""Small Orb models that the package itself builds, with random weights, and saves as its trainer saves its own."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it compiles harmonics by what torch 2.13 calls deprecated
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.atomic_system import SystemConfig, ase_atoms_to_atom_graphs
    from orb_models.forcefield.calculator import ORBCalculator

__all__ = ["built", "calculator", "edges", "saved"]

SIZES = {"latent_dim": 8, "base_mlp_hidden_dim": 12, "head_mlp_hidden_dim": 10, "num_message_passing_steps": 3}

STRONGER = 2.5
"""Times torch's fresh weights, which hardly look at the geometry."""


def built(kind: str, neighbours: int, **changes: Any) -> Any:
    """Return an object of the package's class, as its own functions make it: conservative, direct or v2."""
    system = SystemConfig(radius=6.0, max_num_neighbors=neighbours)
    if kind == "v2":
        return _small_v2(system, **changes)
    make = getattr(pretrained, f"orb_v3_{kind}_architecture")
    return make(**{**SIZES, **changes}, system_config=system, device="cpu")


def _small_v2(system: Any, num_message_passing_steps: int = 3) -> Any:
    """Make what `orb_v2_architecture` makes, which has its widths written in it, narrower."""
    heads, network = pretrained.EnergyHead, pretrained.MoleculeGNS
    head = {"latent_dim": 8, "num_mlp_layers": 1, "mlp_hidden_dim": 10, "activation": "ssp"}
    return pretrained.DirectForcefieldRegressor(
        heads={
            "energy": heads(**head, predict_atom_avg=True),
            "forces": pretrained.ForceHead(**head),
            "stress": pretrained.GraphHead(**head, target="stress", node_aggregation="mean"),
        },
        model=network(
            latent_dim=8,
            interaction_params={"distance_cutoff": True, "attention_gate": "sigmoid"},
            num_message_passing_steps=num_message_passing_steps,
            num_mlp_layers=2,
            mlp_hidden_dim=12,
            rbf_transform=partial(pretrained.gaussian_basis_function, num_bases=20, radius=10.0),
            use_embedding=True,
            activation="ssp",
            mlp_norm="layer_norm",
        ),
        system_config=system,
    )


def saved(path: Path, kind: str, neighbours: int = 120, *, seed: int = 0, **changes: Any) -> Path:
    """Save random weights, normalisers and norms included, large enough that forces are some tenths of an eV/Å."""
    torch.manual_seed(seed)
    model = built(kind, neighbours, **changes)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear) and layer.weight.requires_grad:
            layer.weight.data *= STRONGER
    for name, weight in model.named_parameters():
        if name.endswith(("norm.weight", "bias")) and "heads" not in name:
            torch.nn.init.normal_(weight, 0.9, 0.2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(0.01, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.02, 0.4)
    torch.save(model.state_dict(), path)
    return path


def calculator(path: Path, kind: str, neighbours: int = 120, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Return the package's calculator with the weights of a file, read as the package reads them."""
    model = built(kind, neighbours, **changes)
    with _default(torch.float32), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it sets torch's default dtype
        precision = "float64" if dtype == torch.float64 else "float32-highest"
        model = pretrained.load_model(model, str(path), "cpu", precision=precision, compile=False)
    return _Calculator(model, dtype)


def edges(atoms: Atoms, neighbours: int) -> Any:
    """Return the package's graph of a structure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it hands tensors to NumPy in a way that is deprecated
        return ase_atoms_to_atom_graphs(atoms, SystemConfig(radius=6.0, max_num_neighbors=neighbours), device="cpu")


class _Calculator(ORBCalculator):  # type: ignore[misc]  # it has no types
    """Computes with torch's default dtype set to that of the model, and only then; says nothing."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        super().__init__(model, device="cpu")
        self._dtype = dtype

    def calculate(self, *args: Any, **options: Any) -> None:
        with _default(self._dtype), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it hands tensors to NumPy in a way that is deprecated
            super().calculate(*args, **options)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before, products = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_float32_matmul_precision(products)
