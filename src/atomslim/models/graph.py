"""The common interface of all families' graphs."""

from typing import Protocol

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.errors import StructureError


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
        """Return the fraction of pairs within the cutoff that the neighbour cap left out; zeros without a cap."""
        ...

    def to(self, device: torch.device | str) -> "Graph":
        """Move to a device."""
        ...


def count_edges(graph: Graph, batch: AtomsBatch) -> Int[Tensor, " b"]:
    """Return the number of directed edges of each structure."""
    return torch.bincount(batch.batch[graph.edges().target], minlength=batch.num_structures)


def element_indices(batch: AtomsBatch, species: tuple[int, ...]) -> Int[Tensor, " n"]:
    """Return each atom's index in a list of atomic numbers, on the CPU; raises StructureError for one not in it."""
    table = torch.full((len(chemical_symbols),), -1)
    table[torch.tensor(species)] = torch.arange(len(species))
    indices = table[batch.numbers.cpu()]
    if bool((indices < 0).any()):
        atom = int(torch.nonzero(indices < 0)[0])
        symbol = chemical_symbols[int(batch.numbers[atom])]
        raise StructureError(
            f"structure {int(batch.batch[atom])}: the model does not know {symbol}; it knows {len(species)} elements: "
            "remove the structure or use another model"
        )
    return indices


def neighbour_vectors(batch: AtomsBatch, edges: EdgeList) -> Float[Tensor, "e 3"]:
    """Return r_source + o · cell − r_target in Å, from an atom to its neighbour, in the dtype of the positions."""
    vectors = batch.positions.index_select(0, edges.source) - batch.positions.index_select(0, edges.target)
    if not bool(batch.pbc.any()):
        return vectors
    offset = edges.offset.to(batch.cell)
    if batch.num_structures == 1:
        return vectors + offset @ batch.cell[0]
    return vectors + torch.einsum("ei,eij->ej", offset, batch.cell[batch.batch[edges.target]])
