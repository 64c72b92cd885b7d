"""Graphs of MACE models: all pairs within the cutoff."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from atomslim.atoms import AtomsBatch, Pairs
from atomslim.errors import StructureError


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
    kind = _kinds(batch, species)
    return Graph(pairs.source, pairs.target, pairs.offset, kind, batch.num_structures).to(batch.device)


def _kinds(batch: AtomsBatch, species: tuple[int, ...]) -> Int[Tensor, " n"]:
    table = torch.full((len(chemical_symbols),), -1)
    table[torch.tensor(species)] = torch.arange(len(species))
    kind = table[batch.numbers.cpu()]
    if bool((kind < 0).any()):
        atom = int(torch.nonzero(kind < 0)[0])
        symbol = chemical_symbols[int(batch.numbers[atom])]
        raise StructureError(
            f"structure {int(batch.batch[atom])}: the model does not know {symbol}; "
            f"it knows {len(species)} elements: remove the structure or use another model"
        )
    return kind


def edge_vectors(batch: AtomsBatch, graph: Graph) -> Float[Tensor, "E 3"]:
    """Return r_target − (r_source + o · cell) in Å, in the dtype of the positions."""
    vectors = batch.positions.index_select(0, graph.target) - batch.positions.index_select(0, graph.source)
    if not bool(batch.pbc.any()):
        return vectors
    offset = graph.offset.to(batch.cell)
    if batch.num_structures == 1:
        return vectors - offset @ batch.cell[0]
    return vectors - torch.einsum("ei,eij->ej", offset, batch.cell[batch.batch[graph.target]])
