"""What a cluster says before it takes the machine away: SIGTERM, or the SIGUSR1 of `sbatch --signal=USR1@120`."""

import signal
import threading
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Remembers that a signal came, so that the step that runs is finished and saved first."""

    def __init__(self) -> None:
        self.number = 0
        """Of the signal; 0: none came."""

    def listen(self) -> None:
        """Take the signals from now on; Lightning puts the former handlers back when it is done."""
        if threading.current_thread() is threading.main_thread():  # no other can
            for number in _SIGNALS:
                signal.signal(number, self._note)

    @staticmethod
    def status(number: int) -> int:
        """Return the exit status by which a shell knows that a signal ended a program."""
        return 128 + number

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.number = number
