"""What a reader says about a broken file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from atomslim.errors import AtomslimError, DataError


def complaint(samples: Iterable[Any], *parts: str | Path, kind: type[AtomslimError] = DataError) -> str:
    """Read on until the reader complains, in one line that has these parts."""
    with pytest.raises(kind) as caught:
        list(samples)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message
    return message
