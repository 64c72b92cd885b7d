"""The process that compiles for a calculator in use, see `atomslim.inference.compiled`."""

import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path

from atomslim.errors import AtomslimError, one_line
from atomslim.inference.compiled import damaged
from atomslim.inference.package import package

POLITE = 10
"""Niceness: the run that it compiles for goes first."""


def main() -> None:
    """Compile ``MODEL OUTPUT TASK DEVICE`` at low priority; ends with one line on stderr on failure."""
    os.nice(POLITE)
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    compile_once(*sys.argv[1:])


def compile_once(model: str, output: str, task: str, device: str) -> None:
    """Compile a model's task, unless another process has done so meanwhile; raises SystemExit with one line."""
    try:
        with Path(output).with_suffix(".lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not Path(output).is_file() or damaged(Path(output)):
                package(model, output, task=task, device=device)
    except (AtomslimError, OSError) as error:
        sys.exit(str(error))
    except Exception as error:  # noqa: BLE001 - compilers raise anything; the last line is what the run says
        sys.exit(one_line(error))


def _end(*_: object) -> None:
    """End the compiler and its children; partial files are removed when this process exits."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    sys.exit("the run has ended")


def _end_with(parent: int) -> None:
    """End this process if the run has disappeared."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
