"""The `atomslim` command: finds the subcommand, and turns what goes wrong into one line and an exit status.

| status | meaning |
|---|---|
| 0 | done |
| 1 | bad input, or a file that cannot be read or written: one line on stderr |
| 2 | a command line that makes no sense |
| 130 | interrupted; a training has saved the step that ran |

`ATOMSLIM_DEBUG=1` shows the traceback behind the line.
"""

import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cyclopts import App, CycloptsError

from atomslim import __version__
from atomslim.cli.benchmark import benchmark
from atomslim.cli.compare import compare
from atomslim.cli.data import data
from atomslim.cli.demo import demo
from atomslim.cli.distill import distill
from atomslim.cli.evaluate import evaluate
from atomslim.cli.finetune import finetune
from atomslim.cli.info import info
from atomslim.cli.package import package
from atomslim.cli.predict import predict
from atomslim.cli.pretrain import pretrain
from atomslim.cli.prune import prune
from atomslim.cli.relevance import relevance
from atomslim.cli.study import study
from atomslim.errors import AtomslimError, AtomslimWarning

app = App(
    name="atomslim",
    help=(
        "Make atomistic foundation models smaller and faster, and show what that costs.\n\n"
        "Example: atomslim info jmp-l.pt"
    ),
    help_format="plaintext",
    version=__version__,
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_none",
)
app.command(info)
app.command(relevance)
app.command(prune)
app.command(distill)
app.command(finetune)
app.command(evaluate)
app.command(compare)
app.command(benchmark)
app.command(predict)
app.command(package)
app.command(pretrain)
app.command(study)
app.command(demo)
app.command(data)

_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check the permissions",
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EFBIG: "write elsewhere, or raise the limit on file sizes",
}


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit status."""
    try:
        with _warnings_in_one_line():
            app(sys.argv[1:] if tokens is None else tokens)
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
    return 0


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show our own warnings without the line of code that they come from."""
    usual = warnings.formatwarning

    def formatted(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        ours = issubclass(category, AtomslimWarning)
        return f"atomslim: warning: {message}\n" if ours else usual(message, category, *place, **line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _fail(message: str, status: int) -> int:
    print(f"atomslim: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _usage_line(error: CycloptsError) -> str:
    command = " ".join(["atomslim", *(error.command_chain or ())])
    return f"{error} See {command} --help."


def _system_line(error: OSError) -> str:
    """Say what the operating system refused: the file, the reason, and a remedy where there is an obvious one."""
    place = f"{error.filename}: " if error.filename else ""
    remedy = f"; {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
    return f"{place}{error.strerror or error}{remedy}"


def _close_quietly() -> int:
    """End without a word when the reader of our output has left (`atomslim info … | head`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
    return 1
