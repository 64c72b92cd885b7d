"""Numbers on the command line: whole numbers are not rounded, and NaN and infinity are refused."""

import math
import re
from collections.abc import Sequence
from typing import Any

from cyclopts import Parameter, Token
from cyclopts.validators import Number


def whole(_type: Any, tokens: Sequence[Token]) -> int:
    """Parse a whole number and nothing else: 3.7 blocks are a mistake."""
    text = tokens[0].value
    if not re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
        raise ValueError(f"{text[:60]}: write a whole number, as in 4")
    return int(text)


def _finite(_type: Any, tokens: Sequence[Token]) -> float:
    """Parse a number that is neither NaN nor infinite."""
    text = tokens[0].value
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text[:60]}: write a number, as in 0.5")
    return value


def _share(_type: Any, tokens: Sequence[Token]) -> float:
    """Parse a fraction, from 0 to below 1 or in per cent."""
    text = tokens[0].value
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(\s*%)?", text, re.ASCII)
    value = math.nan if match is None else float(match[1]) / (100 if match[2] else 1)
    if not 0 <= value < 1:
        raise ValueError(f"{text[:60]}: write a fraction below 1, as in 5% or 0.05")
    return value


def _seconds(_type: Any, tokens: Sequence[Token]) -> float:
    """Parse a duration: seconds, or a number with a unit."""
    from atomslim.train.options import parse_duration

    text = tokens[0].value
    found = parse_duration(f"{text}s" if re.fullmatch(r"[\d.]+", text) else text)
    if found.unit != "seconds" or found.amount <= 0:
        raise ValueError(f"{text[:60]}: write a time, as in 60, 90s or 10min")
    return found.amount


SHARE = Parameter(converter=_share)
SECONDS = Parameter(converter=_seconds)
WHOLE = Parameter(converter=whole)
COUNT = Parameter(converter=whole, validator=Number(gte=1))
SEED = Parameter(converter=whole, validator=Number(gte=0, lt=2**32))
FINITE = Parameter(converter=_finite)
WEIGHT = Parameter(converter=_finite, validator=Number(gte=0))
