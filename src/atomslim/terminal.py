"""What is written to the terminal: file names and what files hold are shown as they are, and never obeyed."""

import os
import shlex
import sys
from pathlib import Path

from atomslim.errors import printable


def say(text: str) -> None:
    """Print a text, with what a terminal would obey shown as its code."""
    print(printable(text))  # noqa: T201 -- this is what prints


def command_line() -> str | None:
    """Return the command that this process is, as it is typed; None where it is another program."""
    program, *words = sys.argv or [""]
    ours = Path(program).name == "atomslim" or program.endswith("atomslim/__main__.py")
    return shlex.join(["atomslim", *words]) if ours else None


def complete_streams() -> None:
    """Let a process without stdin, stdout or stderr have them, to no effect; letters they cannot hold become codes.

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
    """Make a closed descriptor one of the null device."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
