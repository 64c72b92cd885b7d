"""Whether files are still what they were: their contents as one checksum, and containers against their source.

A checksum is of all bytes up to 1 GiB together. Of more, it is of the size of every file and of 64 KiB blocks evenly
over it, 256 MiB in all and at least its two ends: an edit of a few bytes in the middle of such a file may be missed.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from atomslim.data.container import SUFFIX, Container
from atomslim.errors import DataError

WHOLE = 2**30
"""Bytes up to which files are read as a whole."""

SAMPLED = 2**28
"""Bytes that are read of more."""

BLOCK = 2**16


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def source_files(path: Path) -> list[Path]:
    """Files of a dataset, in order; containers and their growing parts beside them are none of it."""
    if path.is_file():
        return [path]
    found = (file for file in path.rglob("*") if file.is_file() and SUFFIX not in file.relative_to(path).as_posix())
    return sorted(found)


def contents(files: Sequence[Path]) -> str:
    """SHA-256 of the contents of some files, in their order, whatever their names; see above for large ones."""
    sizes = [file.stat().st_size for file in files]
    total = sum(sizes)
    found = hashlib.sha256()
    for path, size in zip(files, sizes, strict=True):
        found.update(b"%d " % size)
        with path.open("rb") as file:
            if total <= WHOLE:
                found.update(hashlib.file_digest(file, "sha256").digest())
            else:
                _sample(file, size, max(2, SAMPLED * size // total // BLOCK), found)
    return found.hexdigest()


def require_current(container: Container, source: Path | None = None) -> None:
    """Raise DataError if the files that a container was made from are there and have changed since.

    `source` is their place; without it they are looked for where the container says that they were, beside it. They are
    read again only if the system says that one of them changed after the container was written.
    """
    noted, place = container.metadata.get("contents"), container.metadata.get("place")
    path = container.path.parent / str(place) if source is None and place else source
    if noted is None or path is None or not path.exists() or path == container.path:
        return
    files = source_files(path)
    if _is_newer(files, container.path) and contents(files) != noted:
        raise DataError(
            f"{container.path}: was made from {path}, which has changed since: make it again with `atomslim data "
            "prepare`, or move the changed file elsewhere"
        )


def _is_newer(files: Sequence[Path], than: Path) -> bool:
    """Say whether a file was written, renamed or put back after another; its time alone may be kept by a copy."""
    made = than.stat().st_mtime_ns
    stats = (file.stat() for file in files)
    return any(max(status.st_mtime_ns, status.st_ctime_ns) > made for status in stats)


def _sample(file: BinaryIO, size: int, blocks: int, found: _Hash) -> None:
    for number in range(blocks):
        file.seek(max(size - BLOCK, 0) * number // (blocks - 1))
        found.update(file.read(BLOCK))
