"""Distances and directions of edges, differentiable with respect to positions and cells."""

import torch
from jaxtyping import Float
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.models.gemnet_oc.graphs import Edges


def edge_vectors(batch: AtomsBatch, edges: Edges) -> Float[Tensor, "e 3"]:
    """Return r_st = r_t − (r_s + o·cell) in Å: from the source's periodic image to the target.

    Computed in the dtype of the positions, float64 by default: the difference of two large float32 coordinates would
    lose digits that the angles near a straight line need.
    """
    cell = batch.cell[batch.batch[edges.target]]
    image = torch.einsum("ei,eij->ej", edges.offset.to(cell), cell)
    return batch.positions[edges.target] - (batch.positions[edges.source] + image)


def lengths_and_directions(vectors: Float[Tensor, "e 3"]) -> tuple[Float[Tensor, " e"], Float[Tensor, "e 3"]]:
    """Return d = |r| (Å) and the unit vectors r/d."""
    distance = torch.linalg.vector_norm(vectors, dim=-1)
    return distance, vectors / distance[:, None]
