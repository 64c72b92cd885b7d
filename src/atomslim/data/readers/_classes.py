"""Labels of no and yes as files write them: 0 and 1, false and true, or nothing."""

import numpy as np

from atomslim.errors import DataError

_WORDS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "f": 0.0, "t": 1.0}

_MISSING = {"", "nan", "na", "n/a", "none", "null"}


def class_label(value: object, what: str, location: str) -> float | None:
    """Give 0 or 1, or None for a label that is missing; raises DataError, naming the record, for anything else."""
    array = np.asarray(value)
    if array.size == 1:
        text = str(array.reshape(())[()]).strip().lower()
        if text in _MISSING:
            return None
        if text in _WORDS:
            return _WORDS[text]
        if (number := _number(text)) in {0.0, 1.0}:
            return number
    shown = " ".join(str(value).split())[:40]
    raise DataError(
        f"{location}: {what} is {shown!r}, and a label is 0 or 1, false or true, or missing: mend the record, or "
        "choose other labels"
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
