"""Distances and directions of edges, differentiable with respect to positions and cells."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.families.jmp.gemnet_oc.graphs import Edges

FAR = 1000.0
"""Å: every component of the vectors of edges that only fill up a table, beyond where every radial basis ends."""


@dataclass(frozen=True)
class PaddedEdges(Edges):
    """Edges of which some only fill up a table: these contribute exactly nothing to any sum weighted by distance."""

    real: Bool[Tensor, " e"]

    def __getitem__(self, rows: slice) -> "PaddedEdges":
        """Return some of the edges."""
        return PaddedEdges(self.source[rows], self.target[rows], self.offset[rows], self.real[rows])


def edge_vectors(batch: AtomsBatch, edges: Edges) -> Float[Tensor, "e 3"]:
    """Return r_st = r_t − (r_s + o·cell) in Å: from the source's periodic image to the target.

    Computed in the dtype of the positions, float64 by default: the difference of two large float32 coordinates would
    lose digits that the angles near a straight line need.
    """
    cell = batch.cell[batch.batch[edges.target]]
    image = torch.einsum("ei,eij->ej", edges.offset.to(cell), cell)
    vectors = batch.positions[edges.target] - (batch.positions[edges.source] + image)
    return torch.where(edges.real[:, None], vectors, FAR) if isinstance(edges, PaddedEdges) else vectors


def lengths_and_directions(vectors: Float[Tensor, "e 3"]) -> tuple[Float[Tensor, " e"], Float[Tensor, "e 3"]]:
    """Return d = |r| (Å) and the unit vectors r/d."""
    distance = torch.linalg.vector_norm(vectors, dim=-1)
    return distance, vectors / distance[:, None]
