"""How long something lasts: "30min", "2000 steps", "5 epochs", or "10%" of the whole run."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

Unit = Literal["seconds", "steps", "epochs", "share"]

_UNITS: dict[str, tuple[Unit, float]] = {
    "s": ("seconds", 1.0),
    "sec": ("seconds", 1.0),
    "second": ("seconds", 1.0),
    "seconds": ("seconds", 1.0),
    "min": ("seconds", 60.0),
    "minute": ("seconds", 60.0),
    "minutes": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "hour": ("seconds", 3600.0),
    "hours": ("seconds", 3600.0),
    "day": ("seconds", 86400.0),
    "days": ("seconds", 86400.0),
    "step": ("steps", 1.0),
    "steps": ("steps", 1.0),
    "epoch": ("epochs", 1.0),
    "epochs": ("epochs", 1.0),
    "%": ("share", 0.01),
}
_TEXT = re.compile(r"\s*(?P<amount>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[a-z%]+)\s*")


class _Duration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    amount: float
    unit: Unit
    text: str

    def __str__(self) -> str:
        """As the user wrote it."""
        return self.text


def parse_duration(text: str) -> "_Duration":
    """Understand "30min", "1.5h", "2000 steps", "5 epochs" or "10%"; raises ValueError for anything else."""
    match = _TEXT.fullmatch(text.lower())
    if match is None or match["unit"] not in _UNITS:
        raise ValueError(f'{text[:60]!r} is no duration: write "30min", "2h", "2000 steps", "5 epochs" or "10%"')
    unit, factor = _UNITS[match["unit"]]
    amount = float(match["amount"]) * factor
    if not math.isfinite(amount):
        raise ValueError(f"{text[:30]!r} … is no duration: give fewer digits")
    return _Duration(amount=amount, unit=unit, text=text.strip())


def _parsed(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[_Duration, BeforeValidator(_parsed), PlainSerializer(str)]
"""A duration that options write as text."""
