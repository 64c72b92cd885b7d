"""Numbers on the command line: whole ones are not rounded, and none is NaN or infinite."""

import math
import re
from collections.abc import Sequence
from typing import Any

from cyclopts import Parameter, Token
from cyclopts.validators import Number


def whole(_type: Any, tokens: Sequence[Token]) -> int:
    """Understand a whole number, and nothing else: 3.7 blocks are a mistake."""
    text = tokens[0].value
    if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        raise ValueError(f"{text[:60]}: write a whole number, as in 4")
    return int(text)


def _finite(_type: Any, tokens: Sequence[Token]) -> float:
    """Understand a number that is neither NaN nor infinite."""
    text = tokens[0].value
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text[:60]}: write a number, as in 0.5")
    return value


WHOLE = Parameter(converter=whole)
COUNT = Parameter(converter=whole, validator=Number(gte=1))
SEED = Parameter(converter=whole, validator=Number(gte=0, lt=2**32))
FINITE = Parameter(converter=_finite)
WEIGHT = Parameter(converter=_finite, validator=Number(gte=0))
