"""One interaction block: messages between atoms and edges, then the updates of both."""

from jaxtyping import Float
from torch import Tensor, nn

from atomslim.families.jmp.gemnet_oc.coefficients import Bases
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.families.jmp.gemnet_oc.graphs import Topology
from atomslim.families.jmp.gemnet_oc.indices import InteractionIndex
from atomslim.families.jmp.gemnet_oc.interactions import (
    AtomToAtomInteraction,
    EdgeToAtomInteraction,
    QuadrupletInteraction,
    TripletInteraction,
)
from atomslim.families.jmp.gemnet_oc.layers import (
    INV_SQRT_3,
    Linear,
    PairLinear,
    ScaleFactor,
    average,
    residuals,
    scaled_silu,
)
from atomslim.families.jmp.gemnet_oc.segments import Segments, segment_outer


class AtomUpdate(nn.Module):
    """Σ_{edges into a} m ⊙ (W_rbf rad), narrowed to atom width, then residual layers.

    Summed as Σ_e rad ⊗ m per atom before W_rbf is applied, so that no gated copy of the edge features is formed. In
    training, edge dropout leaves a random fraction of the edges out of each sum and scales up the others.
    """

    def __init__(self, config: GemNetOCConfig) -> None:
        super().__init__()
        self.radial = Linear(config.emb_size_rbf, config.emb_size_edge)
        self.scale = ScaleFactor()
        self.dense = Linear(config.emb_size_edge, config.emb_size_atom) if config.narrows else None
        self.layers = residuals(config.num_atom, config.emb_size_atom, config.dropout)
        self.edge_dropout = config.edge_dropout

    def forward(
        self, m: Float[Tensor, "E emb_edge"], radial: Float[Tensor, "E emb_rbf"], main: Segments
    ) -> Float[Tensor, "n emb_atom"]:
        """Return one row for each atom."""
        if self.training and self.edge_dropout:
            radial = radial * nn.functional.dropout(radial.new_ones(len(radial), 1), self.edge_dropout)
        outer = segment_outer(radial[:, None], m[:, None], main)
        x = (outer * self.radial.weight.T).sum(dim=1) * self.scale()
        self.scale.observe(m, x)
        if self.dense is not None:
            x = scaled_silu(self.dense(x))
        return self.layers(x)


class InteractionBlock(nn.Module):
    """Updates atom features h and edge features m; all message passes read the block's input."""

    def __init__(self, config: GemNetOCConfig) -> None:
        super().__init__()
        atom, edge, dropout = config.emb_size_atom, config.emb_size_edge, config.dropout
        self.skip = Linear(edge, edge)
        self.edge_to_edge = TripletInteraction(config, edge)
        self.quadruplet = QuadrupletInteraction(config)
        self.atom_to_edge = TripletInteraction(config, atom)
        self.edge_to_atom = EdgeToAtomInteraction(config)
        self.atom_to_atom = AtomToAtomInteraction(config)
        self.before_skip = residuals(config.num_before_skip, edge, dropout)
        self.after_skip = residuals(config.num_after_skip, edge, dropout)
        self.atom_layers = residuals(config.num_atom_emb_layers, atom, dropout)
        self.atom_update = AtomUpdate(config)
        self.concat = PairLinear(atom, edge, edge)
        self.concat_layers = residuals(config.num_concat, edge, dropout)

    def forward(
        self,
        h: Float[Tensor, "n emb_atom"],
        m: Float[Tensor, "E emb_edge"],
        bases: Bases,
        topology: Topology,
        index: InteractionIndex,
    ) -> tuple[Float[Tensor, "n emb_atom"], Float[Tensor, "E emb_edge"]]:
        """Return the block's output (h, m)."""
        x = self._edge_messages(h, m, bases, topology, index)
        h = (h + self._atom_messages(h, m, bases, index)) * INV_SQRT_3
        m = self.after_skip(average(m, self.before_skip(x)))
        h = self.atom_layers(h)
        h = average(h, self.atom_update(m, bases.atom_update, index.main))
        ends = self.concat(h, m, topology.main.source, topology.main.target)
        m = average(m, self.concat_layers(scaled_silu(ends)))
        return h, m

    def _edge_messages(self, h: Tensor, m: Tensor, bases: Bases, topology: Topology, index: InteractionIndex) -> Tensor:
        reverse = topology.reverse
        x = scaled_silu(self.skip(m))
        x += self.edge_to_edge.edge_to_edge(m, bases.edge_to_edge, bases.harmonics, index.main, reverse)
        x += self.atom_to_edge.atom_to_edge(
            h,
            bases.atom_to_edge,
            bases.atom_edge_harmonics,
            topology.atom_edge.source,
            index.atom_edge,
            index.same_atom_edge,
            reverse,
        )
        if bases.quad is not None and index.quad is not None:
            x += self.quadruplet(m, bases.quad, index.quad, reverse)
        return x.div_(2)

    def _atom_messages(self, h: Tensor, m: Tensor, bases: Bases, index: InteractionIndex) -> Tensor:
        from_edges = self.edge_to_atom(m, bases.edge_to_atom, index.main)
        return from_edges + self.atom_to_atom(h, bases.atom_to_atom, index.pair_source, index.pairs)
