"""A calculator in a separate process, of this Python or another: asked over a pipe, ended when it hangs."""

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from ase import Atoms

from atomslim.errors import ConfigError, printable
from atomslim.inference import calculator_process as plain
from atomslim.labelling.unlabelled import Hung, Unlabelled

BEGIN = 900.0
"""Time limit in seconds for making a calculator: packages are slow to import, and weights may be downloaded."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Outside:
    """One process; started when needed, and again after it was ended."""

    name: str
    recipe: Mapping[str, Any]
    """Description of the calculator to make."""
    python: str | None
    timeout: float | None
    """Seconds for a structure."""
    one_thread: bool = False
    """Whether it computes with one thread even if the environment says otherwise."""
    _process: "subprocess.Popen[bytes] | None" = None
    _said: IO[bytes] | None = None
    _what: dict[str, Any] = field(default_factory=dict)
    _closed: bool = False
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def started(self) -> dict[str, Any]:
        """Start it unless it runs, and return its description; raises ConfigError if it cannot be made."""
        if self._process is None:
            self._start()
            self._what = self._greeted()
        return self._what

    def ask(self, atoms: Atoms, **head: Any) -> dict[str, Any]:
        """Give the results of a structure, or whatever the head of the message asks for.

        Raises Unlabelled where there are none, ConfigError as `started`.
        """
        self.started()
        try:
            self._send(plain.of_atoms(atoms, **head))
            answer = plain.unpack(self._reader(self.timeout))
        except BrokenPipeError:
            answer = None
        except Hung:
            self._end()
            raise
        if answer is None:
            raise Unlabelled(self._death())
        head, arrays = answer
        if "error" in head:
            raise Unlabelled(printable(head["error"]))
        return arrays

    def stop(self) -> None:
        """Kill it for good, from another thread than the one that asks, which gets no answer."""
        with self._turn:
            self._closed = True
            if self._process is not None:
                _kill(self._process.pid)

    def close(self) -> None:
        """End it for good."""
        self._closed = True
        self._end()

    def _start(self) -> None:
        python = self.python or sys.executable
        environment = dict.fromkeys(_THREADS, "1") | dict(os.environ)
        environment |= dict.fromkeys(_THREADS, "1") if self.one_thread else {}
        if self.python is None:
            environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 -- as long as the process
        try:
            with self._turn:
                if self._closed:
                    raise Unlabelled("ended")
                self._process = subprocess.Popen(  # noqa: S603 -- an interpreter that the user names
                    [python, plain.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._said,
                    env=environment,
                    start_new_session=True,  # keyboard interrupts are for the parent
                )
        except OSError as error:
            self._end()
            raise ConfigError(f"{python}: no Python that can be started ({error.strerror}): check the path") from error

    def _greeted(self) -> dict[str, Any]:
        try:
            self._send(plain.pack(self.recipe, {}))
            answer = plain.unpack(self._reader(BEGIN))
        except BrokenPipeError:
            answer = None
        except Hung as error:
            self._end()
            raise ConfigError(f"{self.name}: was not made within {BEGIN:g} s") from error
        except (ValueError, KeyError, TypeError) as error:
            self._end()
            raise ConfigError(f"{self.python}: does not answer as a Python does: check the path") from error
        if answer is None:
            raise ConfigError(f"{self.name}: cannot be made: {self._death()}")
        if "failed" in answer[0]:
            self._end()
            raise ConfigError(_named(self.name, printable(answer[0]["failed"])))
        return answer[0]

    def _send(self, message: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            raise BrokenPipeError
        self._process.stdin.write(message)
        self._process.stdin.flush()

    def _reader(self, seconds: float | None) -> "_Reader":
        if self._process is None or self._process.stdout is None:
            raise BrokenPipeError
        return _Reader(self._process.stdout.fileno(), seconds)

    def _death(self) -> str:
        """Say how it ended, and its last line."""
        process, last = self._process, self._last_words()
        code = 0 if process is None else process.wait()
        self._end()
        how = f"its process was killed ({signal.Signals(-code).name})" if code < 0 else f"its process ended ({code})"
        hint = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        return f"{how}{hint}" + (f": {last}" if last else "")

    def _last_words(self) -> str:
        if self._said is None:
            return ""
        if self._process is not None:
            self._process.wait()
        self._said.seek(0)
        lines = self._said.read()[-2000:].decode(errors="replace").strip().splitlines()
        return printable(lines[-1].strip())[:200] if lines else ""

    def _end(self) -> None:
        with self._turn:
            process, self._process = self._process, None
        if process is not None:
            _kill(process.pid)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    if pipe is not None:
                        pipe.close()
        if self._said is not None:
            self._said.close()
            self._said = None


@dataclass
class _Reader:
    """Reads a pipe with a deadline; raises Hung after it."""

    pipe: int
    seconds: float | None

    def __post_init__(self) -> None:
        self._end = None if self.seconds is None else time.monotonic() + self.seconds

    def read(self, count: int) -> bytes:
        """Read so many bytes, or less at the end."""
        found = bytearray()
        while len(found) < count:
            left = None if self._end is None else max(self._end - time.monotonic(), 0)
            if not select.select([self.pipe], [], [], left)[0]:
                raise Hung(self.seconds or 0)
            data = os.read(self.pipe, min(count - len(found), 2**20))
            if not data:
                break
            found += data
        return bytes(found)


def _named(name: str, text: str) -> str:
    """Prefix a text with a name, unless it starts with it."""
    return text if text.startswith(name) else f"{name}: {text}"


def _kill(process: int) -> None:
    """Kill a process and its children."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)
