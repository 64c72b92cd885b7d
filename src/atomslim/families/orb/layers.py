"""Embedding, repulsion, readout and heads of Orb: the package's own layers in our order."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from atomslim.atoms import AtomsBatch
from atomslim.families.orb.config import OrbConfig
from atomslim.families.orb.graph import Graph
from atomslim.families.orb.package import ZBLBasis, building, get_cutoff, mlp, network, without_net
from atomslim.models.outputs import reduce_over_atoms
from atomslim.models.tasks import Target

VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)
"""Which of xx, yy, zz, yz, xz, xy stands at each position of the matrix."""


@dataclass(frozen=True)
class Edges:
    """Inputs of blocks besides the features of atoms and edges."""

    senders: Tensor
    receivers: Tensor
    cutoff: Float[Tensor, "E 1"]


class Embedding(nn.Module):
    """Features of atoms and edges before the first block."""

    def __init__(self, config: OrbConfig) -> None:
        super().__init__()
        with building():
            made = network(config, 0)
        del made._decoder  # noqa: SLF001 - nothing reads what it gives
        self.network = made

    def forward(self, vectors: Float[Tensor, "E 3"], batch: AtomsBatch, graph: Graph) -> tuple[Tensor, Tensor, Edges]:
        """Return features of atoms and edges, and further inputs of blocks."""
        seen = SimpleNamespace(
            node_features={"atomic_numbers": batch.numbers, "atomic_numbers_embedding": None},
            edge_features={"vectors": vectors},
        )
        found = self.network.featurize_nodes(seen), self.network.featurize_edges(seen)
        nodes, edges = self.network._encoder(*found)  # noqa: SLF001 - the package has no other name for it
        cutoff = get_cutoff(torch.linalg.vector_norm(vectors, dim=-1))
        return nodes, edges, Edges(graph.target, graph.source, cutoff)


class Block(nn.Module):
    """A step of message passing."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, nodes: Tensor, edges: Tensor, known: Edges) -> tuple[Tensor, Tensor]:
        """Return new features of atoms and edges."""
        new: tuple[Tensor, Tensor] = self.layers(nodes, edges, known.senders, known.receivers, known.cutoff)
        return new


class Repulsion(nn.Module):
    """The ZBL energy of close pairs, with its own forces and stress if the model's are not derivatives."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        with building():
            self.basis = ZBLBasis(p=6, node_aggregation=kind, compute_gradients=True)

    def forward(self, vectors: Tensor, batch: AtomsBatch, graph: Graph, *, direct: bool) -> dict[str, Tensor]:
        """Return ``energy`` (b,) and, if ``direct``, ``forces`` (n, 3) and ``stress`` (b, 6)."""
        self.basis.compute_gradients = direct
        edges = batch.batch[graph.target]
        found: dict[str, Tensor] = self.basis(
            SimpleNamespace(
                senders=graph.target,
                receivers=graph.source,
                node_features={"atomic_numbers_embedding": functional.one_hot(batch.numbers, 119).to(vectors)},
                edge_features={"vectors": vectors},
                system_features={"cell": batch.cell.to(vectors)},
                n_node=batch.natoms,
                n_edge=torch.bincount(edges, minlength=batch.num_structures),
            )
        )
        return found


class Head(nn.Module):
    """A network of each atom's features, or of their mean over a structure."""

    mean: Tensor

    def __init__(self, config: OrbConfig, out: int = 1) -> None:
        super().__init__()
        with building():
            self.mlp = mlp(config, out)
        self.register_buffer("mean", torch.zeros(1))

    def energy(self, x: Float[Tensor, "n width"], target: Target, batch: AtomsBatch) -> Float[Tensor, " b"]:
        """Return the raw numbers of structures in float64: a network of the mean atom, times atoms for a sum."""
        if target.kind == "r2":
            return reduce_over_atoms(self.mlp(x).squeeze(-1).double(), target, batch)
        mean = self.mlp(mean_over_atoms(x, batch)).squeeze(-1).double()
        return mean if target.reduction == "mean" else mean * batch.natoms.to(mean)

    def forces(self, x: Float[Tensor, "n width"], target: Target, batch: AtomsBatch) -> Float[Tensor, "n 3"]:
        """Return raw forces without a net force and, of structures without a cell, without a torque.

        The package still adds the mean of its training set, in eV/Å.
        """
        return without_net(self.mlp(x), batch) + self.mean / target.std


class StressHead(nn.Module):
    """A network of the mean atom, with a scale for each component."""

    mean: Tensor
    variance: Tensor

    def __init__(self, config: OrbConfig) -> None:
        super().__init__()
        with building():
            self.mlp = mlp(config, 6)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))

    def forward(self, x: Float[Tensor, "n width"], batch: AtomsBatch) -> Float[Tensor, "b 6"]:
        """Return the stress of structures in eV/Å³: xx, yy, zz, yz, xz, xy."""
        found: Tensor = self.mlp(mean_over_atoms(x, batch)) * self.variance.sqrt() + self.mean
        return found


class Confidence(nn.Module):
    """The force error that the model expects, from the probabilities of the package's bins."""

    bin_edges: Tensor

    def __init__(self, config: OrbConfig) -> None:
        super().__init__()
        with building():
            self.mlp = mlp(config, config.confidence)
        self.register_buffer("bin_edges", torch.linspace(0.0, 0.3, config.confidence + 1))

    def forward(self, x: Float[Tensor, "n width"]) -> Float[Tensor, " n"]:
        """Return eV/Å, a mean over directions, for each atom."""
        centres = (self.bin_edges[1:] + self.bin_edges[:-1]) / 2
        found: Tensor = torch.softmax(self.mlp(x), dim=-1) @ centres
        return found


def mean_over_atoms(x: Float[Tensor, "n width"], batch: AtomsBatch) -> Float[Tensor, "b width"]:
    """Return the mean of each structure's atoms."""
    total = x.new_zeros(batch.num_structures, x.shape[1]).index_add(0, batch.batch, x)
    return total / batch.natoms.to(x)[:, None]


def full_stress(stress: Float[Tensor, "b 6"], batch: AtomsBatch) -> Float[Tensor, "b 3 3"]:
    """Return matrices, of NaN for structures without a volume."""
    there = batch.pbc.any(-1) & (torch.linalg.det(batch.cell.detach()) != 0)
    return torch.where(there[:, None, None], stress[:, VOIGT].reshape(-1, 3, 3), torch.nan)
