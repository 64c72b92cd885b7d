"""What ends a run before its time: Ctrl-C, and what a cluster says before it takes the machine away.

| signal | from | exit status |
|---|---|---|
| SIGINT | Ctrl-C; a second one, a second or more later, ends at once | 130 |
| SIGTERM | a preemption, torchrun | 143 |
| SIGUSR1 | `sbatch --signal=USR1@120` | 138 |
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from warnings import warn

from atomslim.errors import AtomslimWarning

_REMEDY = "go on with --resume (in Python, resume=True)"

_ECHO_SECONDS = 1.0
"""Within these a launcher may pass on the Ctrl-C that the terminal has sent already."""


class StopRequest:
    """Remembers that a signal came, so that the step that runs is finished and saved first."""

    def __init__(self) -> None:
        self.number = 0
        """Of the signal; 0: none came."""
        self._since = 0.0

    def listen(self, *numbers: signal.Signals) -> None:
        """Take signals from now on, but for ignored ones; Lightning puts the former handlers back when it is done."""
        if threading.current_thread() is threading.main_thread():  # no other can
            for number in numbers:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._note)

    def let_interrupts_through(self) -> None:
        """From now on, Ctrl-C ends the program at once."""
        if signal.getsignal(signal.SIGINT) == self._note:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        if number == self.number == signal.SIGINT and now - self._since > _ECHO_SECONDS:
            raise KeyboardInterrupt
        self.number, self._since = number, now


def ending(number: int, folder: Path, step: int, *, first: bool) -> BaseException:
    """Return what a process raises whose run is saved after a step; the first of several says how to go on."""
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    line = f"{folder}: {name}: stopped and saved after step {step}: {_REMEDY}"
    if first and number == signal.SIGINT:
        return KeyboardInterrupt(line)
    if first:
        warn(line, AtomslimWarning, stacklevel=2)
    return SystemExit(128 + number)


@contextmanager
def interrupts_of(folder: Path) -> Iterator[None]:
    """Let Ctrl-C come out as KeyboardInterrupt, of which Lightning makes exit status 1, and say how to go on."""
    try:
        yield
    except SystemExit as left:
        interrupt = left.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        saved = (folder / "state.pt").is_file()
        line = f"{folder}: interrupted; the last saved state is there: {_REMEDY}"
        raise KeyboardInterrupt(*(interrupt.args or ([line] if saved else []))) from None
