"""What everybody may ask of a family's graphs, whatever else they hold."""

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomslim.atoms import AtomsBatch


class EdgeList(Protocol):
    """Directed edges source → target; the integer cell offset belongs to the source."""

    @property
    def source(self) -> Int[Tensor, " e"]:
        """Atoms of the batch."""
        ...

    @property
    def target(self) -> Int[Tensor, " e"]:
        """Atoms of the batch."""
        ...

    @property
    def offset(self) -> Int[Tensor, "e 3"]:
        """Cells by which the source is shifted."""
        ...


class Graph(Protocol):
    """The graphs of a batch, as `BlockModel.topology` gives them."""

    def edges(self) -> EdgeList:
        """Return the edges, in the order of the edge features where a model has these."""
        ...

    def left_out(self) -> Float[Tensor, " b"]:
        """Return the share of the pairs within the cutoff that a cap on neighbours left out; zeros without a cap."""
        ...

    def to(self, device: torch.device | str) -> "Graph":
        """Move to a device."""
        ...


def count_edges(graph: Graph, batch: AtomsBatch) -> Int[Tensor, " b"]:
    """Return the number of directed edges of each structure."""
    return torch.bincount(batch.batch[graph.edges().target], minlength=batch.num_structures)
