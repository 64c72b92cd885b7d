"""How the graphs of a task are made: what all families have in common. Each adds its own in a subclass."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomslim.arguments import ExplainedModel
from atomslim.errors import ConfigError

LONGEST_CUTOFF = 1000.0
"""Å: a longer cutoff is a mistake."""

MOST = 10**6
"""A cap this large or larger means none."""


class GraphSettings(BaseModel, metaclass=ExplainedModel):
    """The neighbour cutoff and, for families that have one, the neighbour cap."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cutoff: float = Field(gt=0, le=LONGEST_CUTOFF, description="Atoms within this distance in Å are neighbours.")

    @property
    def neighbours(self) -> int | None:
        """The most neighbours that an atom keeps; None: all within the cutoff."""
        return None

    @classmethod
    def of(cls, settings: "GraphSettings") -> Self:
        """Return settings as this class, with defaults for missing values.

        Raises ConfigError for settings of another family that have no meaning here.
        """
        if isinstance(settings, cls):
            return settings
        said: dict[str, Any] = settings.model_dump()
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            unknown = ", ".join(sorted(said.keys() - cls.model_fields.keys()))
            raise ConfigError(f"graphs {settings!r}: {unknown} has no meaning for this model: leave it out") from error

    @property
    def typical_neighbours(self) -> float | None:
        """Typical number of neighbours of an atom in bulk; None: without a cap."""
        return self.neighbours

    def fewer(self, neighbours: float) -> Self:
        """Return settings that keep at most so many neighbours, or a fraction below 1 of what they keep.

        Raises ConfigError where there is no cap on them.
        """
        raise ConfigError(f"{neighbours:g} neighbours: this model takes all within {self.cutoff:g} Å and has no cap")
