"""GemNet-OC: embeds atoms and edges, runs the interaction blocks, and keeps the features after each of them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch
from atomslim.models.gemnet_oc.bases import BasisLayer
from atomslim.models.gemnet_oc.block import InteractionBlock
from atomslim.models.gemnet_oc.config import GemNetOCConfig
from atomslim.models.gemnet_oc.graphs import Topology
from atomslim.models.gemnet_oc.indices import InteractionIndex
from atomslim.models.gemnet_oc.layers import scaled_silu
from atomslim.models.gemnet_oc.output import OutputBlock


@dataclass(frozen=True)
class BackboneOutput:
    """Features after the embedding (place 0) and after every interaction block."""

    node: tuple[Float[Tensor, "n emb_atom"], ...]
    edge: tuple[Float[Tensor, "E emb_edge"], ...]
    """Empty without the direct-force branch."""
    direction: Float[Tensor, "E 3"]
    """Unit vectors of the main edges, from source to target."""


class GemNetOC(nn.Module):
    """The backbone (arXiv 2204.02782), its triplet and quadruplet sums factorised: the cost is linear in the edges."""

    def __init__(self, config: GemNetOCConfig) -> None:
        super().__init__()
        self.bases = BasisLayer(config)
        self.blocks = nn.ModuleList(InteractionBlock(config) for _ in range(config.num_blocks))
        self.outputs = nn.ModuleList(OutputBlock(config) for _ in range(config.num_blocks + 1))

    def forward(self, h: Float[Tensor, "n emb_atom"], batch: AtomsBatch, topology: Topology) -> BackboneOutput:
        """Return the features of every block for atoms embedded as ``h``."""
        index = InteractionIndex.of(topology, num_atoms=len(h))
        bases = self.bases(batch, topology, index)
        m = scaled_silu(self.bases.edge_embedding(h, bases.rbf, topology.main.source, topology.main.target))
        features = [self.outputs[0](h, m, bases, index)]
        for block, output in zip(self.blocks, self.outputs[1:], strict=True):
            h, m = block(h, m, bases, topology, index)
            features.append(output(h, m, bases, index))
        return BackboneOutput(
            node=tuple(node for node, _ in features),
            edge=tuple(edge for _, edge in features if edge is not None),
            direction=bases.direction,
        )
