"""GemNet-OC: embeds atoms and edges, runs the interaction blocks, and keeps the features after each of them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from atomslim.atoms import AtomsBatch
from atomslim.families.jmp.gemnet_oc.bases import BasisLayer
from atomslim.families.jmp.gemnet_oc.block import InteractionBlock
from atomslim.families.jmp.gemnet_oc.coefficients import Bases
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.families.jmp.gemnet_oc.graphs import Topology
from atomslim.families.jmp.gemnet_oc.indices import InteractionIndex
from atomslim.families.jmp.gemnet_oc.layers import scaled_silu
from atomslim.families.jmp.gemnet_oc.output import OutputBlock


@dataclass(frozen=True)
class BackboneOutput:
    """Features after the embedding (index 0) and after every interaction block."""

    node: tuple[Float[Tensor, "n emb_atom"], ...]
    edge: tuple[Float[Tensor, "E emb_edge"], ...]
    """Empty where they are not wanted."""
    direction: Float[Tensor, "E 3"]
    """Unit vectors of the main edges, from source to target."""


@dataclass(frozen=True)
class _Step:
    """A block and its output block, as a function of what goes from block to block."""

    block: nn.Module
    output: nn.Module
    bases: Bases
    topology: Topology
    index: InteractionIndex
    edges: bool

    def __call__(self, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        h, m = self.block(h, m, self.bases, self.topology, self.index)
        node, edge = self.output(h, m, self.bases, self.index, edges=self.edges)
        return h, m, node, edge


class GemNetOC(nn.Module):
    """The backbone (arXiv 2204.02782), its triplet and quadruplet sums factorised: the cost is linear in the edges."""

    def __init__(self, config: GemNetOCConfig) -> None:
        super().__init__()
        self.bases = BasisLayer(config)
        self.blocks = nn.ModuleList(InteractionBlock(config) for _ in range(config.num_blocks))
        self.outputs = nn.ModuleList(OutputBlock(config) for _ in range(config.num_blocks + 1))

    def forward(
        self,
        h: Float[Tensor, "n emb_atom"],
        batch: AtomsBatch,
        topology: Topology,
        *,
        edges: bool,
        checkpoint: bool = False,
    ) -> BackboneOutput:
        """Return the features of every block for atoms embedded as ``h``.

        Those of edges only with ``edges``. With ``checkpoint``, what is inside a block is not kept for the backward
        pass but computed again there: less memory, more time, the same gradients (arXiv 1604.06174).
        """
        index = InteractionIndex.of(topology, num_atoms=h.shape[0])
        bases = self.bases(batch, topology, index)
        m = scaled_silu(self.bases.edge_embedding(h, bases.rbf, topology.main.source, topology.main.target))
        features = [self.outputs[0](h, m, bases, index, edges=edges)]
        for block, output in zip(self.blocks, self.outputs[1:], strict=True):
            step = _Step(block, output, bases, topology, index, edges)
            h, m, node, edge = recomputed(step, h, m, use_reentrant=False) if checkpoint else step(h, m)
            features.append((node, edge))
        return BackboneOutput(
            node=tuple(node for node, _ in features),
            edge=tuple(edge for _, edge in features if edge is not None),
            direction=bases.direction,
        )
