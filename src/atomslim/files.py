"""Files that appear whole or not at all."""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; move it into place when the block ends without an error.

    On any error the temporary file is removed and whatever was at `path` before stays as it was. A symbolic link is
    followed, so that the file it points to is replaced. An `OSError` raised on the temporary file (disk full, say)
    carries the name of `path`.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        FileExistsError: `path` is there and is no regular file (a folder, a device).

    """
    target = Path(path).resolve()
    _require_replaceable(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give the name of the file to errors of the system that have none (a full disk)."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def leftovers(folder: Path) -> dict[Path, str]:
    """Find what killed processes left of `atomic_write` in a folder: temporary files and the names they were for."""
    found = {path: re.fullmatch(r"\.(.+)\.[0-9a-f]{8}\.tmp", path.name) for path in folder.glob(".*.tmp")}
    return {path: match[1] for path, match in found.items() if match}


def _require_replaceable(target: Path) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder to write to", str(target.parent))
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "exists and is not a regular file", str(target))
