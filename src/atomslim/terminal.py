"""Output to the terminal: file names and contents of files are shown literally, control characters as codes."""

import os
import shlex
import sys
from pathlib import Path

from atomslim.errors import printable


def say(text: str) -> None:
    """Print a text, with control characters shown as their codes."""
    print(printable(text))  # noqa: T201 -- this is what prints


def command_line() -> str | None:
    """Return the command line of this process, as it is typed; None in another program."""
    program, *words = sys.argv or [""]
    ours = Path(program).name == "atomslim" or program.endswith("atomslim/__main__.py")
    return shlex.join(["atomslim", *words]) if ours else None


def complete_streams() -> None:
    """Open stdin, stdout and stderr on the null device if they are closed; unencodable characters become codes.

    Otherwise the next file that is opened would get a closed stream's descriptor, and what is meant for the terminal.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            _occupy(number)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _occupy(number: int) -> None:
    """Open the null device in place of a closed descriptor."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
