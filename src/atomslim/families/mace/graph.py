"""Graphs of MACE models: all pairs within the cutoff."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomslim.atoms import AtomsBatch, Pairs
from atomslim.models.graph import element_indices


@dataclass(frozen=True)
class Graph:
    """Edges source → target with the source's cell offset, and the atoms' elements as the weights count them."""

    source: Int[Tensor, " E"]
    target: Int[Tensor, " E"]
    offset: Int[Tensor, "E 3"]
    kind: Int[Tensor, " n"]
    num_structures: int

    def edges(self) -> "Graph":
        """Return the edges."""
        return self

    def left_out(self) -> Float[Tensor, " b"]:
        """Return zeros: no neighbour within the cutoff is left out."""
        return torch.zeros(self.num_structures, dtype=torch.float64, device=self.source.device)

    def to(self, device: torch.device | str) -> "Graph":
        """Move to a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def build_graph(batch: AtomsBatch, pairs: Pairs, species: tuple[int, ...]) -> Graph:
    """Return the graph of a batch; raises StructureError for an element that the model does not know."""
    kind = element_indices(batch, species)
    return Graph(pairs.source, pairs.target, pairs.offset, kind, batch.num_structures).to(batch.device)
