"""The package's own layers, with its changes of torch's settings undone."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it compiles harmonics by what torch 2.13 calls deprecated
    from orb_models.forcefield import featurization_utilities as featurization
    from orb_models.forcefield.angular import SphericalHarmonics
    from orb_models.forcefield.forcefield_utils import maybe_remove_net_force_and_torque
    from orb_models.forcefield.gns import AttentionInteractionNetwork, MoleculeGNS
    from orb_models.forcefield.nn_util import build_mlp, get_cutoff
    from orb_models.forcefield.pair_repulsion import ZBLBasis
    from orb_models.forcefield.rbf import BesselBasis

from atomslim.atoms import AtomsBatch
from atomslim.families.orb.config import OrbConfig

__all__ = ["AttentionInteractionNetwork", "MoleculeGNS", "ZBLBasis", "building", "get_cutoff", "mlp", "network"]


@contextmanager
def building() -> Iterator[None]:
    """Make layers in float32 on the CPU, as the package does; keep torch's generator and defaults."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Make constants that the package creates in torch's default dtype as precise as the weights."""
    before = torch.get_default_dtype()
    if dtype == before:
        yield
        return
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def network(config: OrbConfig, num_blocks: int) -> Any:
    """Return the package's network with fresh weights: embeddings, encoder, blocks, and a decoder that heads ignore."""
    bessel = config.lmax is not None
    return MoleculeGNS(
        latent_dim=config.width,
        num_message_passing_steps=num_blocks,
        num_mlp_layers=config.mlp_layers,
        mlp_hidden_dim=config.mlp_hidden,
        rbf_transform=BesselBasis(r_max=config.radial_cutoff, num_bases=config.num_radial)
        if bessel
        else partial(featurization.gaussian_basis_function, num_bases=config.num_radial, radius=config.radial_cutoff),
        angular_transform=SphericalHarmonics(config.lmax, normalize=True, normalization="component")
        if bessel
        else None,
        outer_product_with_cutoff=bessel,
        use_embedding=True,
        interaction_params={"distance_cutoff": True, "attention_gate": "sigmoid"},
        activation=config.activation,
        mlp_norm=config.norm,
    )


def mlp(config: OrbConfig, out: int) -> nn.Module:
    """Return a head's layers."""
    hidden = [config.head_hidden] * config.head_layers
    made: nn.Module = build_mlp(config.width, hidden, out, activation=config.activation)
    return made


def without_net(forces: Tensor, batch: AtomsBatch) -> Tensor:
    """Remove the mean of forces, and the torque of structures without a cell, as the package does."""
    seen = SimpleNamespace(
        positions=batch.positions.to(forces), n_node=batch.natoms, system_features={"cell": batch.cell}
    )
    found: Tensor = maybe_remove_net_force_and_torque(seen, forces, remove_mean=True, remove_torque=True)
    return found


def nearest_of_package(
    batch: AtomsBatch, cutoff: float, neighbours: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return source, target and offset of the edges that the package chooses for one structure on a CPU.

    Which of equally close neighbours it keeps depends on rounding and order in its search, not on a rule.
    """
    positions, cell = batch.positions.detach().cpu(), batch.cell[0].detach().cpu()
    periodic = bool(batch.pbc.any())
    wrapped = featurization.map_to_pbc_cell(positions, cell) if periodic else positions
    senders_receivers, _, shifts = featurization.compute_pbc_radius_graph(
        positions=wrapped,
        cell=cell if periodic else torch.zeros_like(cell),
        pbc=batch.pbc[0].cpu(),
        radius=cutoff,
        max_number_neighbors=neighbours,
        edge_method="knn_scipy",
        device="cpu",
        float_dtype=dtype,
    )
    target, source = senders_receivers
    offset = shifts.round().long()
    if periodic:
        moved = torch.linalg.solve(cell.T, (wrapped - positions).T).T.round().long()
        offset = offset + moved[source] - moved[target]
    return source.long(), target.long(), offset
