"""The arrays of npz archives: numbers only, and none larger than its file explains."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomslim.data.readers._common import damaged, existing, require_size
from atomslim.files import DAMAGED_ZIP

_BROKEN = (*DAMAGED_ZIP, OSError, ValueError, KeyError, TypeError)


class Archive:
    """An open archive."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive
        self.names = [name.removesuffix(".npy") for name in archive.namelist()]
        """Of the arrays."""

    def array(self, name: str) -> NDArray[Any]:
        """Read an array.

        Raises:
            DataError: it is damaged, holds objects, or announces more bytes than the file can have.

        """
        location, what = f"{self._path}", f"the array {name}"
        with damaged(location, *_BROKEN):
            member = self._archive.getinfo(f"{name}.npy")
            require_size(member.file_size, self._path.stat().st_size, what, location)
            with self._archive.open(member) as content:
                shape, kind = _announced(content)
                require_size(int(np.prod(shape, dtype=object)) * kind.itemsize, member.file_size, what, location)
                content.seek(0)
                return np.asarray(np.lib.format.read_array(content, allow_pickle=False))


@contextmanager
def open_npz(path: Path) -> Iterator[Archive]:
    """Open an archive; raises DataError for a file that is none, cut off or damaged."""
    with damaged(f"{existing(path)}", *_BROKEN), zipfile.ZipFile(path) as archive:
        yield Archive(path, archive)


def _announced(content: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the shape and the type of an array; of objects, which are not read, the type is their own."""
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(content)
    return shape, kind
