"""Errors that a user's input can cause; the command line prints each as one line and exits with status 1."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""What moves the cursor, colours, hides or reverses text on a terminal, or is not text at all."""


class AtomslimError(Exception):
    """Base of every error caused by input: its message is one line that says what is wrong, where, and the remedy."""


class StructureError(AtomslimError):
    """A structure that no model can take: NaN positions, overlapping atoms, an unknown element, a flat cell."""


class CheckpointError(AtomslimError):
    """A model file that cannot be read, or whose tensors do not fit the architecture it claims."""


class ConfigError(AtomslimError):
    """Options that contradict each other, or name something that does not exist (an unknown task, say)."""


class DataError(AtomslimError):
    """A dataset's file that is broken, incomplete, or not what its reader expects; names the file and the record."""


class AtomslimWarning(UserWarning):
    """Results that are correct but may mislead: direct forces in molecular dynamics, capped neighbours."""


def printable(text: str) -> str:
    """Write control characters as their codes: an escape sequence in a file is shown, and does nothing."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def one_line(error: BaseException) -> str:
    """Give an error's type and message on one line of at most 200 characters."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 -- what a file has nested deeply has no text
        message = ""
    return printable(" ".join(f"{type(error).__name__}: {message}".split()))[:200]


def meant(name: str, known: Iterable[str]) -> str:
    """Suggest names similar to an unknown one, or else list those that exist."""
    there = list(known)
    near = get_close_matches(name.lower(), [one.lower() for one in there], n=2, cutoff=0.6)
    found = [one for one in there if one.lower() in near]
    return f"did you mean {' or '.join(found)}?" if found else f"there are {', '.join(there) or 'none'}"
