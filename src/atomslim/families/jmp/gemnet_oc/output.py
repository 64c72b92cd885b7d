"""The output block that turns the state after a block into the features handed to the readout."""

from jaxtyping import Float
from torch import Tensor, nn

from atomslim.families.jmp.gemnet_oc.block import AtomUpdate
from atomslim.families.jmp.gemnet_oc.coefficients import Bases
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.families.jmp.gemnet_oc.indices import InteractionIndex
from atomslim.families.jmp.gemnet_oc.layers import Linear, ScaleFactor, average, residuals


class OutputBlock(nn.Module):
    """Atom features for energies and, with the direct-force branch, edge features for forces."""

    def __init__(self, config: GemNetOCConfig) -> None:
        super().__init__()
        self.atom_update = AtomUpdate(config)
        self.atom_layers = residuals(config.num_output_afteratom, config.emb_size_atom, config.dropout)
        if config.direct_forces:
            self.edge_layers = residuals(config.num_atom, config.emb_size_edge, config.dropout)
            self.edge_radial = Linear(config.emb_size_rbf, config.emb_size_edge)
            self.edge_scale = ScaleFactor()

    def forward(
        self,
        h: Float[Tensor, "n emb_atom"],
        m: Float[Tensor, "E emb_edge"],
        bases: Bases,
        index: InteractionIndex,
        *,
        edges: bool,
    ) -> tuple[Float[Tensor, "n emb_atom"], Float[Tensor, "E emb_edge"] | None]:
        """Return the node feature and, with ``edges``, the edge feature, for which there must be the branch."""
        node = average(h, self.atom_update(m, bases.output, index.main))
        return self.atom_layers(node), self._edge_feature(m, bases) if edges else None

    def _edge_feature(self, m: Tensor, bases: Bases) -> Tensor:
        before = self.edge_layers(m)
        feature = before * self.edge_radial(bases.output * self.edge_scale())
        self.edge_scale.observe(before, feature)
        return feature
