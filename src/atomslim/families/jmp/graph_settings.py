"""How JMP's graphs are made: the cutoff, and how many neighbours each of the four graphs keeps."""

from typing import Literal, Self, TypeAlias

from pydantic import Field

from atomslim.models.graph_settings import LONGEST_CUTOFF, MOST, GraphSettings

Symmetrise: TypeAlias = Literal["original", "invariant"]


class JMPGraphSettings(GraphSettings):
    """Cutoff and neighbours kept per target atom in each of the four graphs."""

    cutoff: float = Field(12.0, gt=0, le=LONGEST_CUTOFF, description="Cutoff of all four graphs in Å.")
    main: int = Field(
        30, ge=1, le=MOST, description="Nearest neighbours of the main graph, whose edges carry embeddings."
    )
    atom: int = Field(1000, ge=1, le=MOST, description="Nearest neighbours of the atom-to-atom graph.")
    atom_edge: int = Field(
        20, ge=0, le=MOST, description="Nearest neighbours of the atom-to-edge and edge-to-atom graph."
    )
    quad: int = Field(8, ge=0, le=MOST, description="Nearest neighbours of the graph of the quadruplets' middle edges.")
    symmetrise: Symmetrise = Field(
        "original",
        description=(
            "How the main graph gets its reverse edges: 'original' as JMP checkpoints were trained, which depends on "
            "the atoms' numbering where neighbours are capped; 'invariant' keeps an edge if either direction is kept, "
            "and all neighbours that are as far as the last one that a cap keeps."
        ),
    )

    smooth: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description=(
            "Instead of all caps on neighbours: about so many that count, within a reach that every atom has of its "
            "own and at which edges fade out, so that energies have no steps."
        ),
    )

    @classmethod
    def from_neighbours(cls, cutoff: float = 12.0, k: int = 30, symmetrise: Symmetrise = "original") -> Self:
        """Derive all four caps from the base number k as JMP does: main k, and k · (1000, 20, 8) / 30 rounded down."""
        return cls(
            cutoff=cutoff,
            main=k,
            atom=k * 1000 // 30,
            atom_edge=k * 20 // 30,
            quad=k * 8 // 30,
            symmetrise=symmetrise,
        )

    @property
    def neighbours(self) -> int | None:
        """The neighbours of the main graph, which is chosen from the atom-to-atom graph; None in a smooth graph."""
        return None if self.smooth is not None else min(self.main, self.atom)

    @property
    def typical_neighbours(self) -> float:
        """What a smooth graph counts, or the cap of the main graph."""
        return self.main if self.smooth is None else self.smooth

    def fewer(self, neighbours: float) -> Self:
        """Return settings whose main graph keeps at most so many neighbours, or a share below 1 of what it keeps.

        The other graphs shrink in proportion, rounded down as JMP does, but never to nothing. In a smooth graph, so
        many count.
        """
        if neighbours < 1:
            neighbours = max(1, int(neighbours * self.typical_neighbours))
        if neighbours >= self.typical_neighbours:
            return self
        if self.smooth is not None:
            return self.model_copy(update={"smooth": float(neighbours)})
        others = {name: getattr(self, name) for name in ("atom", "atom_edge", "quad")}
        fewer = {name: max(min(1, count), count * int(neighbours) // self.main) for name, count in others.items()}
        return self.model_copy(update={"main": int(neighbours), **fewer})
