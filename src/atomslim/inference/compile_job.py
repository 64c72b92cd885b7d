"""The process that compiles for a calculator in use, see `atomslim.inference.compiled`."""

import fcntl
import os
import signal
import sys
from pathlib import Path

from atomslim.errors import AtomslimError, one_line
from atomslim.inference.package import package

POLITE = 10
"""Niceness: the run that it compiles for goes first."""


def main() -> None:
    """Compile ``MODEL OUTPUT TASK DEVICE``, politely; ends with one line on stderr where that fails."""
    os.nice(POLITE)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the run has ended"))  # and what is half-written goes
    compile_once(*sys.argv[1:])


def compile_once(model: str, output: str, task: str, device: str) -> None:
    """Compile a model's task, unless another process has done so meanwhile; raises SystemExit with one line."""
    with Path(output).with_suffix(".lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if Path(output).is_file():
            return
        try:
            package(model, output, task=task, device=device)
        except (AtomslimError, OSError) as error:
            sys.exit(str(error))
        except Exception as error:  # noqa: BLE001 - compilers raise anything; the last line is what the run says
            sys.exit(one_line(error))
