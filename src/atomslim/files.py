"""Files that are written completely or not at all, and folders that one process works in at a time."""

import errno
import fcntl
import os
import re
import secrets
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

LOCK = "lock"
"""File that a process holds while it works in a folder."""

DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError)
"""What `zipfile` raises for an archive that is damaged, encrypted, or compressed in an unsupported way."""


def most_expanded(size: int) -> int:
    """Return the most bytes that a compressed file of a size may decompress to: more would be a decompression bomb."""
    return 2**24 + 100 * size


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; move it into place when the block ends without an error.

    On any error the temporary file is removed and whatever was at `path` before stays as it was. A symbolic link is
    followed, so that the file it points to is replaced. An `OSError` raised on the temporary file (disk full, say)
    carries the name of `path`. Leftovers of killed writers of the same file are removed first.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        FileExistsError: `path` is there and is not a regular file (a folder, a device).

    """
    target = Path(path).resolve()
    require_replaceable(target)
    tidy(target.parent, target.name)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _living(temporary):
            yield temporary
            temporary.replace(target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_files(folder: str | os.PathLike[str], names: Iterable[str]) -> Iterator[dict[str, Path]]:
    """Give a temporary path for each of some files of a folder; all of them are moved there, or none.

    The folder is made if necessary, and removed again if the block fails. Raises as `atomic_write` does.
    """
    target = Path(folder)
    with new_folder(target), ExitStack() as stack:
        yield {name: stack.enter_context(atomic_write(target / name)) for name in names}


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Make a folder and those above it; if the block fails, remove those that were made and are empty."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock while the block runs, if nobody else holds it; the system releases that of a dead process.

    Raises OSError where the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = _lock_of(folder / LOCK)
    if file is None:
        yield False
        return
    try:
        yield True
    finally:
        _held.discard(file)
        (folder / LOCK).unlink(missing_ok=True)
        file.close()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process holds a folder, then hold it; no lock file is left behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the name of the file to OSErrors that have none (a full disk)."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def leftovers(folder: Path) -> dict[Path, str]:
    """Find temporary files of `atomic_write` in a folder, and their final names; some may have running writers."""
    found = {path: re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.tmp", path.name) for path in folder.glob(".*.tmp")}
    return {path: match[1] for path, match in found.items() if match}


def tidy(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of killed processes from a folder, for one file or for all."""
    for path, target in leftovers(folder).items():
        if name in {None, target}:
            remove_leftover(path)


def remove_leftover(path: Path) -> None:
    """Remove a temporary file unless its writer is running, and so holds a lock on it."""
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)


def require_replaceable(target: Path) -> None:
    """Raise FileNotFoundError or FileExistsError unless a file may be written, or replace another."""
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to write to", str(target.parent))
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "exists and is not a regular file", str(target))


@contextmanager
def _living(temporary: Path) -> Iterator[None]:
    """Make a temporary file, and hold a lock on it that says that its writer is running."""
    while True:
        with temporary.open("xb") as file:
            with suppress(OSError):  # a file system without locks: there, leftovers are not removed
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, temporary):  # otherwise somebody took it for a leftover before it was locked
                yield
                return


_held: set[IO[str]] = set()
"""Locks of this process; its forks release them, so that data loaders do not keep those of a killed parent."""


def _let_go() -> None:
    for file in _held:
        file.close()


os.register_at_fork(after_in_child=_let_go)


def _lock_of(path: Path) -> IO[str] | None:
    """Take a lock, or return None if another process or object has it."""
    while True:
        file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        if _is_at(file, path):  # otherwise its holder has removed it
            _held.add(file)
            return file
        file.close()


def _is_at(file: IO[str] | IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
