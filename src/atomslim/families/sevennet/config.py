"""Sizes and kinds of a SevenNet model as plain data. Does not import the family's package."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Activation = Literal["relu", "silu", "tanh", "abs", "ssp", "sigmoid", "elu"]


class Modality(BaseModel):
    """Levels of theory of one model, and which of its linear maps see them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(default=(), description="by index; empty: the model knows one only")
    embedding: bool = Field(default=False, description="seen by the embedding")
    intro: bool = Field(default=False, description="seen by the linear map before the convolution")
    outro: bool = Field(default=False, description="seen by the linear map after the convolution")
    readout: bool = Field(default=False, description="seen by the readout")


class SevenNetConfig(BaseModel):
    """Sizes and kinds of a SevenNet model, without weights and tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    species: tuple[int, ...] = Field(min_length=1, description="atomic numbers, in the order of the weights")
    cutoff: float = Field(gt=0, allow_inf_nan=False, description="Å")
    num_radial: int = Field(ge=1, description="Bessel functions of the distance")
    envelope: Literal["poly_cut", "XPLOR"] = Field(description="how the radial basis goes to zero at the cutoff")
    envelope_power: int = Field(default=6, ge=1, description="p of poly_cut")
    envelope_onset: float = Field(default=0.0, ge=0, description="Å: where XPLOR begins to fall")
    lmax_edge: int = Field(ge=0, le=11, description="highest degree of the edges' spherical harmonics")
    parity: bool = Field(description="whether odd vectors change sign under inversion (O3), or nothing does (SO3)")
    unit_vectors: bool = Field(default=True, description="whether harmonics are of directions, or of whole vectors")
    irreps: tuple[str, ...] = Field(min_length=1, description="of the embedding and of every block")
    self_connection: tuple[Literal["linear", "nequip"], ...] = Field(description="by block; nequip: one per element")
    radial_hidden: tuple[int, ...] = Field(description="widths of the hidden layers that make weights of distances")
    act_radial: Activation = "silu"
    act_scalar: dict[Literal["e", "o"], Activation] = Field(default={"e": "silu", "o": "tanh"})
    act_gate: dict[Literal["e", "o"], Activation] = Field(default={"e": "silu", "o": "tanh"})
    biases: bool = Field(default=False, description="whether linear maps have biases of their even scalars")
    readout_hidden: tuple[int, ...] = Field(description="widths between scalars and the atom's energy")
    act_readout: Activation | None = Field(default=None, description="between the readout's layers; none: it is linear")
    readout_biases: bool = Field(default=False, description="whether the readout's layers have biases")
    element_scales: bool = Field(default=False, description="whether atoms' energies have a scale for each element")
    modality: Modality = Modality()
    task_modalities: dict[str, str] = Field(default_factory=dict, description="level of theory of each task")

    @field_validator("irreps")
    @classmethod
    def _plain(cls, irreps: tuple[str, ...]) -> tuple[str, ...]:
        from atomslim.families.sevennet.irreps import checked_irreps  # noqa: PLC0415 - e3nn may not be there

        return tuple(str(checked_irreps(entry)) for entry in irreps)

    @field_validator("readout_hidden")
    @classmethod
    def _with_width(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if not widths:
            raise ValueError("a readout without a hidden layer is not supported")
        if min(widths) < 1:
            raise ValueError(
                "a readout with a layer of no width, as the package makes it of one channel: it reads nothing"
            )
        return widths

    @model_validator(mode="after")
    def _consistent(self) -> "SevenNetConfig":
        if len(self.self_connection) != self.num_blocks:
            raise ValueError(f"{len(self.self_connection)} self connections for {self.num_blocks} blocks")
        if self.envelope == "XPLOR" and self.envelope_onset >= self.cutoff:
            raise ValueError(f"the envelope begins at {self.envelope_onset} Å, beyond the cutoff of {self.cutoff} Å")
        unknown = set(self.task_modalities.values()) - set(self.modality.names)
        if unknown:
            raise ValueError(f"a task of the level of theory {unknown.pop()!r}, which the model does not have")
        return self

    @property
    def num_blocks(self) -> int:
        """Number of interaction blocks b."""
        return len(self.irreps) - 1
