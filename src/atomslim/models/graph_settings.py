"""How the graphs of a task are made: what all families have in common. Each adds its own in a subclass."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomslim.arguments import ExplainedModel
from atomslim.errors import ConfigError

LONGEST_CUTOFF = 1000.0
"""Å: a longer cutoff is a mistake."""

MOST = 10**6
"""More neighbours of an atom mean no cap."""


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
        """Return settings as this class has them, what they do not say as it is by default.

        Raises ConfigError for settings of another family, which say what means nothing here.
        """
        if isinstance(settings, cls):
            return settings
        said: dict[str, Any] = settings.model_dump()
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            unknown = ", ".join(sorted(said.keys() - cls.model_fields.keys()))
            raise ConfigError(f"graphs {settings!r}: {unknown} means nothing for this model: leave it out") from error

    @property
    def typical_neighbours(self) -> float | None:
        """About how many neighbours an atom has that has enough of them around; None: as many as there are."""
        return self.neighbours

    def fewer(self, neighbours: float) -> Self:
        """Return settings that keep at most so many neighbours, or a share below 1 of what they keep.

        Raises ConfigError where there is no cap on them.
        """
        raise ConfigError(f"{neighbours:g} neighbours: this model takes all within {self.cutoff:g} Å and has no cap")
