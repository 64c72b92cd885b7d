"""Sizes and kinds of a MACE model as plain data. Does not import the family's package."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Gate = Literal["silu", "tanh", "abs"]
Interaction = Literal[
    "RealAgnosticInteractionBlock",
    "RealAgnosticResidualInteractionBlock",
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
    "RealAgnosticAttResidualInteractionBlock",
    "RealAgnosticResidualNonLinearInteractionBlock",
]


class BlockConfig(BaseModel):
    """What one block is: an interaction, and a product of what its atoms received."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interaction: Interaction = Field(description="class of the package")
    source: str = Field(description="irreps of its input")
    edge: str = Field(description="irreps that are sent along edges")
    target: str = Field(description="irreps that atoms receive")
    out: str = Field(description="irreps of its output")
    radial_hidden: tuple[int, ...] = Field(description="widths of the hidden layers that make weights of distances")
    average_neighbours: float = Field(allow_inf_nan=False, description="divisor of sums over neighbours")
    correlation: int = Field(ge=1, le=6, description="highest power in the product")
    self_connection: bool = Field(description="whether its input is added to the product")
    agnostic: bool = Field(default=False, description="whether the product has the same weights for all elements")
    paths: tuple[tuple[int, ...], ...] = Field(description="of the product: by irrep it gives, then by power")


class MACEConfig(BaseModel):
    """Sizes and kinds of a MACE model, without weights and tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    species: tuple[int, ...] = Field(min_length=1, description="atomic numbers, in the order of the weights")
    cutoff: float = Field(gt=0, allow_inf_nan=False, description="Å")
    cutoff_power: int = Field(ge=1, description="p of the polynomial that goes to zero at the cutoff")
    lmax_edge: int = Field(ge=0, le=11, description="highest degree of the edges' spherical harmonics")
    parity: bool = Field(default=True, description="whether odd harmonics change sign under inversion")
    radial: Literal["bessel", "gaussian", "chebyshev"] = "bessel"
    num_radial: int = Field(ge=1, description="functions of the distance")
    transform: Literal["None", "Agnesi", "Soft"] = Field(default="None", description="of distances")
    cutoff_on_basis: bool = Field(default=True, description="whether the basis goes to zero, or weights made from it")
    pair_repulsion: bool = Field(default=False, description="whether the ZBL energy of pairs is added")
    width: int = Field(ge=1, description="scalars of every element")
    blocks: tuple[BlockConfig, ...] = ()
    linear: int = Field(ge=1, description="readout features that go linearly to the atom's energy")
    hidden: int = Field(ge=1, description="readout features that go through an activation")
    gate: Gate | None = Field(default="silu", description="that activation")
    second_layer: bool = Field(default=False, description="whether the activation is followed by a layer and another")

    @model_validator(mode="after")
    def _chained(self) -> "MACEConfig":
        given = f"{self.width}x0e"
        for number, block in enumerate(self.blocks, start=1):
            if block.source != given:
                raise ValueError(f"block {number} takes {block.source} where {given} is given")
            given = block.out
        return self
