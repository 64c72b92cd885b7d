"""How the graphs of a task are made: the cutoff, and how many neighbours are kept."""

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Symmetrise: TypeAlias = Literal["original", "invariant"]


class GraphSettings(BaseModel):
    """Cutoff and neighbours kept per target atom in each of the four graphs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cutoff: float = Field(12.0, gt=0, allow_inf_nan=False, description="Cutoff of all four graphs in Å.")
    main: int = Field(30, ge=1, description="Nearest neighbours of the main graph, whose edges carry embeddings.")
    atom: int = Field(1000, ge=1, description="Nearest neighbours of the atom-to-atom graph.")
    atom_edge: int = Field(20, ge=0, description="Nearest neighbours of the atom-to-edge and edge-to-atom graph.")
    quad: int = Field(8, ge=0, description="Nearest neighbours of the graph of the quadruplets' middle edges.")
    symmetrise: Symmetrise = Field(
        "original",
        description=(
            "How the main graph gets its reverse edges: 'original' as JMP checkpoints were trained, which depends on "
            "the atoms' numbering where neighbours are trimmed; 'invariant' keeps an edge if either direction is kept."
        ),
    )

    @classmethod
    def from_neighbours(cls, cutoff: float = 12.0, k: int = 30, symmetrise: Symmetrise = "original") -> "GraphSettings":
        """Derive all four caps from the base number k as JMP does: main k, and k · (1000, 20, 8) / 30 rounded down."""
        return cls(
            cutoff=cutoff,
            main=k,
            atom=k * 1000 // 30,
            atom_edge=k * 20 // 30,
            quad=k * 8 // 30,
            symmetrise=symmetrise,
        )
