"""The `atomslim` command: finds the subcommand, and turns errors into one line and an exit status.

| status | meaning |
|---|---|
| 0 | done |
| 1 | bad input, or a file that cannot be read or written: one line on stderr |
| 2 | a wrong command line |
| 130 | interrupted; training has saved the step that was running |

`ATOMSLIM_DEBUG=1` shows the traceback as well. A bug in the program itself is also reported in one line.
"""

import errno
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from atomslim import __version__
from atomslim.cli.help_all import FLAG, show_all, unbreak
from atomslim.errors import AtomslimError, AtomslimWarning, one_line, printable
from atomslim.progress import shown
from atomslim.terminal import complete_streams, say

COMMANDS = (
    "info",
    "relevance",
    "prune",
    "pool",
    "label",
    "students",
    "slim",
    "distill",
    "finetune",
    "evaluate",
    "compare",
    "validate",
    "benchmark",
    "predict",
    "package",
    "serve",
    "pretrain",
    "study",
    "demo",
    "data",
    "models",
    "recipes",
)
"""Each is a function or an app in the module of the same name, imported on use."""


def shown_default(value: Any) -> Any:
    """Write a default as it is typed; nothing for None, whose meaning the text gives."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) or None if isinstance(value, tuple) else value


app = App(
    name="atomslim",
    help=(
        "Make atomistic foundation models smaller and faster, and show what you lose.\n\n"
        "Example: atomslim info jmp-l.pt"
    ),
    help_format="plaintext",
    help_epilogue="Every option, with what goes with --set and --option: --help-all.",
    default_parameter=Parameter(show_default=shown_default),
    version=__version__,
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_none",
)
for _name in COMMANDS:
    app.command(f"atomslim.cli.{_name}:{_name}", name=_name)
app.register_install_completion_command()

STORY = """\
atomslim models                                                          # what it works with, and where weights are
atomslim relevance mini molecules=mini:molecules -o relevance/           # which blocks matter
atomslim prune mini -o small.safetensors --drop-lowest 2 --relevance relevance/
atomslim distill small.safetensors mini molecules=mini:molecules -o runs/small --budget 5min
atomslim compare mini small.safetensors runs/small --data molecules=mini:molecules -o compare/"""
"""What `atomslim` alone prints; each of these commands names the next one."""

_HELP = {"--help", "-h", FLAG}

_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check the permissions",
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EFBIG: "write elsewhere, or raise the limit on file sizes",
    errno.ENOMEM: "free some memory, or raise the limit on it (ulimit -v)",
}

_OUT_OF_MEMORY = re.compile(r"allocate memory|failed to map segment|bad_alloc|bad allocation", re.IGNORECASE)
"""What native libraries say when memory runs out."""

_LONGEST = 2000
"""Most characters of an error; longer ones are cut off."""


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit status."""
    complete_streams()
    try:
        _require_working_folder()
        with _warnings_in_one_line(), shown():
            _run(sys.argv[1:] if tokens is None else tokens)
        sys.stdout.flush()  # here, where a full disk or a closed pipe can still be reported
    except CycloptsError as error:
        return _fail(_usage_line(error), status=2)
    except BrokenPipeError:
        return _close_quietly()
    except (AtomslimError, OSError) as error:
        if os.environ.get("ATOMSLIM_DEBUG") == "1":
            raise
        return _fail(_system_line(error) if isinstance(error, OSError) else str(error), status=1)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted", status=130)
    except Exception as error:  # anything else: users get one line, developers the traceback
        if os.environ.get("ATOMSLIM_DEBUG") == "1":
            raise
        return _fail(_unexpected_line(error), status=1)
    return 0


def _run(tokens: Sequence[str]) -> None:
    """Run a command; without one, show the first commands to try."""
    if not tokens:
        say(f"{STORY}\nAll commands: atomslim --help")
        return
    if tokens[0] not in COMMANDS or not _HELP.isdisjoint(tokens):
        unbreak(app)  # imports every command: their first lines are in the help
    if FLAG in tokens:
        show_all(app, [word for word in tokens if word != FLAG])
    else:
        app(tokens)


def _require_working_folder() -> None:
    """Raise an error with a remedy where the working folder is gone: a library might end the process."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise AtomslimError("the working folder no longer exists: change to another one") from error


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show our own warnings without the line of code that they come from."""
    usual = warnings.formatwarning

    def formatted(message: Warning | str, category: type[Warning], *location: Any, **line: Any) -> str:
        ours = issubclass(category, AtomslimWarning)
        return (
            f"atomslim: warning: {printable(str(message))}\n" if ours else usual(message, category, *location, **line)
        )

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _fail(message: str, status: int) -> int:
    line = printable(" ".join(message.split()))
    print(f"atomslim: error: {line if len(line) <= _LONGEST else line[:_LONGEST] + ' …'}", file=sys.stderr)
    return status


def _unexpected_line(error: Exception) -> str:
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return "out of memory: use a smaller --batch-size or --limit, free some memory, or raise the limit on it"
    if isinstance(error, RecursionError):
        return f"something is nested too deeply ({one_line(error)}): check the options and the file"
    return f"unexpected {one_line(error)}: this is a bug in atomslim; ATOMSLIM_DEBUG=1 shows where, please report it"


def _usage_line(error: CycloptsError) -> str:
    command = " ".join(["atomslim", *(error.command_chain or ())])
    text = str(error)
    return f"{text}{'' if text.endswith(('.', '?', '!')) else '.'} See {command} --help."


def _system_line(error: OSError) -> str:
    """Say what the operating system refused: the file, the reason, and an obvious remedy if there is one."""
    prefix = f"{error.filename}: " if error.filename else ""
    remedy = f"; {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
    return f"{prefix}{error.strerror or error}{remedy}"


def _close_quietly() -> int:
    """Exit silently when the reader of our output has gone (`atomslim info … | head`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
    return 1
