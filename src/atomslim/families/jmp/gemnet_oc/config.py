"""Sizes and switches of a GemNet-OC backbone."""

from pydantic import BaseModel, ConfigDict, Field

WIDEST, DEEPEST = 2**16, 100
"""Features of an atom or edge, and layers in a row: beyond any model, and yet nothing to wait for."""


class GemNetOCConfig(BaseModel):
    """Sizes of the backbone, under the names that GemNet-OC's authors use (arXiv 2204.02782)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_blocks: int = Field(ge=0, le=1000, description="interaction blocks")
    num_spherical: int = Field(default=7, ge=1, le=32, description="angular functions, degrees 0 to num_spherical - 1")
    num_radial: int = Field(default=128, ge=2, le=WIDEST, description="Gaussians of the radial basis")
    num_elements: int = Field(default=120, ge=1, le=1000, description="rows of the element table, row Z - 1")
    emb_size_atom: int = Field(ge=1, le=WIDEST, description="width of atom features")
    emb_size_edge: int = Field(ge=1, le=WIDEST, description="width of edge features")
    emb_size_trip_in: int = Field(ge=1, le=WIDEST, description="width of messages summed over triplets")
    emb_size_trip_out: int = Field(ge=1, le=WIDEST, description="width after the triplet sum")
    emb_size_quad_in: int = Field(ge=1, le=WIDEST, description="width of messages summed over quadruplets")
    emb_size_quad_out: int = Field(ge=1, le=WIDEST, description="width after the quadruplet sum")
    emb_size_aint_in: int = Field(ge=1, le=WIDEST, description="width of atom-to-atom messages")
    emb_size_aint_out: int = Field(ge=1, le=WIDEST, description="width after the atom-to-atom sum")
    emb_size_rbf: int = Field(ge=1, le=WIDEST, description="width of the projected radial basis")
    emb_size_cbf: int = Field(ge=1, le=WIDEST, description="width of the projected circular basis")
    emb_size_sbf: int = Field(ge=1, le=WIDEST, description="width of the projected spherical basis")
    num_before_skip: int = Field(
        default=2, ge=0, le=DEEPEST, description="residual layers of edges before the skip connection"
    )
    num_after_skip: int = Field(
        default=2, ge=0, le=DEEPEST, description="residual layers of edges after the skip connection"
    )
    num_concat: int = Field(ge=0, le=DEEPEST, description="residual layers after an edge reads its atoms")
    num_atom: int = Field(default=3, ge=0, le=DEEPEST, description="residual layers of the sum of edges into atoms")
    num_output_afteratom: int = Field(
        default=3, ge=0, le=DEEPEST, description="residual layers of output atom features"
    )
    num_atom_emb_layers: int = Field(
        default=2, ge=0, le=DEEPEST, description="residual layers of atoms after the interaction"
    )
    num_global_out_layers: int = Field(default=2, ge=0, le=DEEPEST, description="residual layers of the readout")
    direct_forces: bool = Field(default=True, description="carry the edge branch that direct forces are read from")
    basis_cutoff: float = Field(default=12.0, gt=0, description="distance at which every radial basis ends (Å)")
    repulsion: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="nuclei repel each other by the ZBL energy below this share of the sum of their covalent radii",
    )
    always_narrows: bool = Field(
        default=False, description="a layer from edge to atom width also where the two are equal"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the branch of every residual layer")
    edge_dropout: float = Field(default=0.0, ge=0, lt=1, description="edges left out of each sum of edges into atoms")

    @property
    def narrows(self) -> bool:
        """Whether a layer leads from sums of edge features to atom features: JMP leaves it out where widths agree."""
        return self.always_narrows or self.emb_size_edge != self.emb_size_atom

    @property
    def least_tensors(self) -> int:
        """A number of tensors that the model has at least: one for each residual layer of its blocks."""
        layers = self.num_before_skip + self.num_after_skip + self.num_concat + self.num_atom + self.num_atom_emb_layers
        return self.num_blocks * (1 + layers) + self.num_global_out_layers + self.num_output_afteratom


def jmp_s(**changes: object) -> GemNetOCConfig:
    """Sizes of JMP-S (arXiv 2310.16802); ``changes`` replaces single fields, ``num_blocks=2`` say."""
    return GemNetOCConfig.model_validate(_JMP_S | changes)


def jmp_l(**changes: object) -> GemNetOCConfig:
    """Sizes of JMP-L (arXiv 2310.16802); ``changes`` replaces single fields, ``num_blocks=4`` say."""
    return GemNetOCConfig.model_validate(_JMP_S | _JMP_L | changes)


_JMP_S: dict[str, object] = {
    "num_blocks": 4,
    "emb_size_atom": 256,
    "emb_size_edge": 512,
    "emb_size_trip_in": 64,
    "emb_size_trip_out": 64,
    "emb_size_quad_in": 32,
    "emb_size_quad_out": 32,
    "emb_size_aint_in": 64,
    "emb_size_aint_out": 64,
    "emb_size_rbf": 16,
    "emb_size_cbf": 16,
    "emb_size_sbf": 32,
    "num_concat": 1,
}
_JMP_L: dict[str, object] = {
    "num_blocks": 6,
    "emb_size_edge": 1024,
    "emb_size_trip_out": 128,
    "emb_size_quad_in": 64,
    "emb_size_rbf": 32,
    "emb_size_sbf": 64,
    "num_concat": 4,
}
