"""Features of a CHGNet model in other coordinates, x → x M, by changing weights only, exact up to rounding.

Features of atoms and of bonds come from the embedding and from the last layers of updates, which are multiplied by M,
and are read by linear layers, which are multiplied by M⁻¹: in the embedding and the first blocks, so that what
follows reads x M instead of x. Features of angles have no last linear layer, and are not changed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atomslim.families.chgnet.layers import linear_indices


def tell_atoms(embedding: Any, blocks: Sequence[Any], matrix: Float[Tensor, "d_atom d_atom"]) -> None:
    """Change the coordinates of atom features of an embedding and of blocks, in place."""
    back, width = torch.linalg.inv(matrix), len(matrix)
    _set(embedding.atom_embedding.embedding.weight, lambda weight: weight @ matrix)
    for block in blocks:
        _take_in(block.atoms.twoBody_atom, back, (slice(0, width), slice(-width, None)))
        _give(block.atoms.mlp_out.layers[-1], matrix)
        for update in (block.bonds, block.angles):
            if update is not None:
                _take_in(update.twoBody_bond, back, (slice(-width, None),))


def tell_bonds(embedding: Any, blocks: Sequence[Any], matrix: Float[Tensor, "d_bond d_bond"]) -> None:
    """Change the coordinates of bond features of an embedding and of blocks, in place."""
    back, width = torch.linalg.inv(matrix), len(matrix)
    atoms = embedding.atom_embedding.embedding.embedding_dim
    _give(embedding.bond_embedding, matrix)
    for block in blocks:
        _take_in(block.atoms.twoBody_atom, back, (slice(atoms, atoms + width),))
        for update in (block.bonds, block.angles):
            if update is not None:
                _take_in(update.twoBody_bond, back, (slice(0, width), slice(width, 2 * width)))
        if block.bonds is not None:
            _give(block.bonds.mlp_out.layers[-1], matrix)


def invertible(matrix: Float[Tensor, "d d"], worst: float) -> Float[Tensor, "d d"]:
    """Return a matrix in float64, its singular values at least a ``worst``-th of the largest."""
    left, values, right = torch.linalg.svd(matrix.double())
    return left @ torch.diag(values.clamp(min=float(values.max()) / worst)) @ right


def _give(layer: Any, matrix: Tensor) -> None:
    """Multiply the output of a linear layer: its weight, and its bias if it has one."""
    for parameter in layer.parameters():
        _set(parameter, lambda weight: matrix.T @ weight)


def _take_in(network: Any, back: Tensor, slices: Sequence[slice]) -> None:
    """Multiply the columns of a gated network's first layers that read features."""
    for mlp in (network.mlp_core, network.mlp_gate):
        weight = mlp.layers[linear_indices(mlp)[0]].weight
        for columns in slices:
            weight[:, columns] = (weight[:, columns].double() @ back.T).to(weight)


def _set(parameter: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    parameter.copy_(change(parameter.double()).to(parameter))
