"""Sizes and kinds of an Orb model, and its graphs, as plain data. Does not import the package."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from atomslim.models.graph_settings import MOST, GraphSettings

Activation = Literal["ssp", "silu", "gelu"]

ENVELOPE = 6.0
"""Å: at this distance the package lets every message go to zero, whatever the radius of its graphs."""

ALL_NEIGHBOURS = 120
"""The cap of models that are said to have none: it was never reached in their training sets."""


class OrbGraphSettings(GraphSettings):
    """The radius, and how many of the nearest neighbours within it each atom uses."""

    cutoff: float = Field(ENVELOPE, gt=0, le=ENVELOPE, description="Atoms within this distance in Å are neighbours.")
    max_neighbours: int = Field(ALL_NEIGHBOURS, ge=1, le=MOST, description="The nearest neighbours that are kept.")

    @property
    def neighbours(self) -> int:
        """The cap."""
        return self.max_neighbours

    def fewer(self, neighbours: float) -> Self:
        """Return settings that keep at most so many neighbours, or a fraction below 1 of what they keep."""
        most = max(1, int(neighbours * self.max_neighbours)) if neighbours < 1 else int(neighbours)
        return self.model_copy(update={"max_neighbours": min(most, self.max_neighbours)})


class OrbConfig(BaseModel):
    """Sizes and kinds of an Orb model, without weights and tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    width: int = Field(ge=1, description="features of an atom and of an edge")
    num_blocks: int = Field(ge=0, description="steps of message passing")
    mlp_layers: int = Field(ge=0, description="hidden layers of encoder and blocks")
    mlp_hidden: int = Field(ge=1, description="their width")
    head_layers: int = Field(ge=0, description="hidden layers of heads")
    head_hidden: int = Field(ge=1, description="their width")
    activation: Activation = Field(description="between layers")
    norm: Literal["layer_norm", "rms_norm"] = Field(description="after encoder and blocks")
    num_radial: int = Field(ge=1, description="functions of the distance")
    radial_cutoff: float = Field(gt=0, description="Å: of the Bessel functions, or the last Gaussian's centre")
    lmax: int | None = Field(
        ge=0,
        le=11,
        description="edges: Bessel functions times harmonics up to this degree; none: Gaussians, unit vector",
    )
    repulsion: Literal["none", "mean", "sum"] = Field(
        description="ZBL energy of pairs that is added: none, its mean over atoms (conservative models of the package) "
        "or its sum (direct ones)"
    )
    confidence: int = Field(
        default=0, ge=0, description="bins of the error of forces that a head estimates; 0: no head"
    )
    stress_heads: tuple[str, ...] = Field(default=(), description="tasks whose stress has a separate head")
