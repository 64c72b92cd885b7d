"""Reading LMDB files: one handle for each file and process, records by key."""

import os
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atomslim.data.optional import data_package
from atomslim.errors import DataError


@dataclass
class _Handle:
    process: int
    identity: tuple[int, int, int]
    environment: Any


_handles: dict[Path, _Handle] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class LmdbFile:
    """An LMDB file that is one file (no folder), opened for reading when first asked.

    lmdb refuses to open a file twice in one process, so all objects of one path share a handle; a forked process opens
    its own. An object holds nothing but its path: it can be pickled and sent to workers.
    """

    path: Path
    _resolved: Path = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_resolved", self.path.resolve())
        handle = _handles.get(self._resolved)
        if _identity(self.path) != (handle and handle.identity):
            self.close()

    def get(self, key: bytes) -> bytes | None:
        """Return the record of a key, None where there is none; raises DataError for a damaged file."""
        environment = self._environment()
        try:
            with environment.begin() as transaction:
                return transaction.get(key)
        except data_package("lmdb").Error as error:
            raise DataError(f"{self.path}: {_reason(error)}: copy or download the file again") from error

    def numbers(self) -> list[int]:
        """Return the keys that are whole numbers from 1 on, ascending; raises DataError for a damaged file."""
        environment = self._environment()
        try:
            with environment.begin() as transaction:
                keys = list(transaction.cursor().iternext(keys=True, values=False))
        except data_package("lmdb").Error as error:
            raise DataError(f"{self.path}: {_reason(error)}: copy or download the file again") from error
        return sorted(int(key) for key in keys if re.fullmatch(rb"[1-9]\d{0,17}", key))

    @property
    def entries(self) -> int:
        """Number of keys."""
        return int(self._environment().stat()["entries"])

    def close(self) -> None:
        """Close the handle of this path in this process; it is opened again when needed."""
        with _lock:
            handle = _handles.pop(self._resolved, None)
        if handle is not None:
            handle.environment.close()

    def _environment(self) -> Any:
        handle = _handles.get(self._resolved)
        if handle is not None and handle.process == os.getpid():
            return handle.environment
        with _lock:
            return _opened(self._resolved, self.path)


def _opened(resolved: Path, path: Path) -> Any:
    """Return the handle of this process; one that came with a fork is closed first, or lmdb would refuse a second."""
    handle = _handles.get(resolved)
    if handle is not None and handle.process == os.getpid():
        return handle.environment
    if handle is not None:
        _handles.pop(resolved).environment.close()
    environment = _open(path)
    _handles[resolved] = _Handle(os.getpid(), _identity(path), environment)
    return environment


def _identity(path: Path) -> tuple[int, int, int]:
    """Tell a file from one that has replaced it."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}): check the path") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _open(path: Path) -> Any:
    lmdb = data_package("lmdb")
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DataError(
            f"{path}: is not an LMDB file, or cut off ({_reason(error)}): copy or download the file again"
        ) from error
    # Reading beyond the end of a mapped file would end the process, so whether it is complete is asked first.
    announced = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = path.stat().st_size
    if size < announced:
        environment.close()
        raise DataError(f"{path}: cut off at {size} of {announced} bytes: copy or download the file again")
    return environment


def _reason(error: Exception) -> str:
    return " ".join(str(error).rsplit(": ", 1)[-1].split())
