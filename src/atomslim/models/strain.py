"""Structures under a strain to differentiate by, and the stress that comes of it."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from atomslim.atoms import AtomsBatch


def strained(batch: AtomsBatch) -> tuple[AtomsBatch, Tensor | None]:
    """Return the batch with positions to differentiate and, if any structure is periodic, under zero strain (b, 3, 3).

    r → r (1 + ε), cell → cell (1 + ε), with ε symmetrised, so that stress has no rotational part.
    """
    positions = batch.positions.detach().requires_grad_() if not batch.positions.requires_grad else batch.positions
    if not bool(batch.pbc.any()):
        return replace(batch, positions=positions), None
    strain = positions.new_zeros(batch.num_structures, 3, 3).requires_grad_()
    symmetric = (strain + strain.transpose(1, 2)) / 2
    deformation = torch.eye(3, dtype=positions.dtype, device=positions.device) + symmetric
    moved = torch.einsum("ni,nij->nj", positions, deformation[batch.batch])
    return replace(batch, positions=moved, cell=batch.cell @ deformation), strain


def stress_of(derivative: Float[Tensor, "b 3 3"], batch: AtomsBatch) -> Float[Tensor, "b 3 3"]:
    """Return (1/V) ∂E/∂ε, NaN for structures without periodicity or volume, from the energy's derivative by strain."""
    volume = torch.linalg.det(batch.cell.detach()).abs()
    there = (batch.pbc.any(-1) & (volume > 0))[:, None, None]
    stress = derivative / torch.where(there, volume[:, None, None], 1.0)  # no NaN on the way back through this
    return torch.where(there, stress, torch.nan)
