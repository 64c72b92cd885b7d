"""The prepared form of a dataset: one file, memory-mapped, readable by several processes at once.

    data = Container("aspirin.samples")      # written by atomslim.data.staging.write_container, or by prepare
    data[17], data.natoms, data.groups, data.metadata

| part | what |
|---|---|
| head, 64 bytes | magic, version, count, length of the JSON, length of the file, CRC-32 of JSON and index |
| JSON | dataset, target names, group names, names of the extra columns, whatever the writer adds |
| index | by structure: end of its record int64, CRC-32 uint32, natoms int32, group int32, each extra column float64 |
| records | see `atomslim.data.record` |

The index comes first, so that a truncated file can still say which records it lost. Every record is checked against
its CRC whenever it is read: that costs a microsecond and means that a broken one is never trained on.

Also: whether files have changed, by one checksum of their contents, and containers against their source.

A checksum is of all bytes up to 1 GiB together. Of more, it is of the size of every file and of 64 KiB blocks evenly
over it, 256 MiB in all and at least its two ends: an edit of a few bytes in the middle of such a file may be missed.
"""

import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.record import decode, labels_of
from atomslim.errors import ConfigError, DataError, one_line
from atomslim.parsing import parse_json

SUFFIX = ".samples"
"""Ending of a container's name."""

FOLDERS = ("labelled.samples", "pool.samples")
"""Containers that stand for their folder; other files there hold the same in other forms."""

CANDIDATES = "candidates.samples"
"""A file in a pool's folder before the pool is finished."""

VERSION = 1
"""Version of the format; a reader refuses newer ones."""

_MAGIC = b"ATOMSLIM-SAMPLES"
_HEAD = struct.Struct("<16sIIQQQI12x")
_REMEDY = "make it again with `atomslim data prepare`"
_COLUMNS = {"end": "<i8", "crc": "<u4", "natoms": "<i4", "group": "<i4"}


@dataclass(frozen=True)
class Index:
    """Facts about every structure without reading it; arrays of length count."""

    end: NDArray[np.int64]
    """End of the record, in bytes from the first record."""
    crc: NDArray[np.uint32]
    natoms: NDArray[np.int32]
    group: NDArray[np.int32]
    """Number of the group in the list of group names."""
    extra: dict[str, NDArray[np.float64]]
    """Columns that the writer added, such as the number of edges, for batches of equal cost."""

    def to_bytes(self) -> bytes:
        """All columns one after the other, each padded to a multiple of 8."""
        columns = [getattr(self, name).astype(kind) for name, kind in _COLUMNS.items()]
        columns += [column.astype("<f8") for column in self.extra.values()]
        return b"".join(_padded(column.tobytes()) for column in columns)


class Container:
    """The samples of one container file, by number; may be pickled and used after a fork.

    Raises:
        DataError: a file that is not a container, is truncated, or has a broken head or index; when a record is read:
            that record is broken. Names the file and the record.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        with self.path.open("rb") as file:
            count, text, index, start = _read_front(self.path, file)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = memoryview(self._map)
        self.metadata: dict[str, Any] = parse_json(text)
        self.checksum: str = hashlib.sha256(text + index).hexdigest()
        try:
            self.index = _parse_index(index, count, self.metadata["columns"])
            self._require_sense(start)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"{self.path}: the index is inconsistent ({one_line(error)}): {_REMEDY}") from error
        bounds = np.concatenate([[0], self.index.end]).astype(np.int64) + start
        self._bounds, self._crc = bounds.data, np.asarray(self.index.crc, dtype=np.uint32).data  # quicker to look up

    def _require_sense(self, start: int) -> None:
        """Raise ValueError for an intact index that does not belong to these records."""
        end, group, names = self.index.end, self.index.group, self.metadata["groups"]
        if not all(isinstance(name, str) for name in [*names, *self.metadata["targets"], *self.index.extra]):
            raise ValueError("names are not texts")
        if len(end) and (np.diff(end, prepend=0).min() < 0 or start + int(end[-1]) > len(self._map)):
            raise ValueError("records lie outside the file")
        if len(group) and not 0 <= group.min() <= group.max() < len(names):
            raise ValueError("a group without a name")

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.index.end)

    def __getitem__(self, number: int) -> Sample:
        """Read structure `number` (negative: from the end); raises IndexError when there is none."""
        number = range(len(self))[number]
        record = self._bytes[self._bounds[number] : self._bounds[number + 1]]
        if zlib.crc32(record) != self._crc[number]:
            raise DataError(f"{self.path}: record {number} (counting from 0) is broken (wrong checksum): {_REMEDY}")
        try:
            return decode(record)
        except (ValueError, struct.error, IndexError, OverflowError, MemoryError) as error:
            raise DataError(
                f"{self.path}: record {number} (counting from 0) is inconsistent ({one_line(error)}): {_REMEDY}"
            ) from error

    def __iter__(self) -> Iterator[Sample]:
        """Read all structures in order."""
        return (self[number] for number in range(len(self)))

    def labels_of(self, number: int) -> tuple[str, ...]:
        """Names of the labels of structure `number`, without reading them; undefined for a broken record."""
        return labels_of(self._bytes[self._bounds[number] : self._bounds[number + 1]])

    @property
    def natoms(self) -> NDArray[np.int64]:
        """Number of atoms of every structure, without reading them."""
        return self.index.natoms.astype(np.int64)

    @property
    def groups(self) -> list[str]:
        """Group (molecule, system, reaction) of every structure, without reading them."""
        names = self.metadata["groups"]
        return [names[group] for group in self.index.group.tolist()]

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets that occur."""
        return tuple(self.metadata["targets"])

    def verify(self) -> None:
        """Read every record; raises DataError naming the first broken one."""
        for number in range(len(self)):
            self[number]

    def __getstate__(self) -> Path:
        """Pickle the path only: another process maps the file itself."""
        return self.path

    def __setstate__(self, path: Path) -> None:
        """Open the file again."""
        self.path = path
        self._open()


def write_front(file: BinaryIO, index: Index, metadata: Mapping[str, Any]) -> None:
    """Write head, JSON and index of a container; the records follow."""
    columns = {"columns": list(index.extra)}
    text = _padded(json.dumps({**metadata, **columns}, sort_keys=True, ensure_ascii=False).encode(), b" ")
    table = index.to_bytes()
    records = int(index.end[-1]) if len(index.end) else 0
    total = _HEAD.size + len(text) + len(table) + records
    checksum = zlib.crc32(table, zlib.crc32(text))
    file.write(_HEAD.pack(_MAGIC, VERSION, 0, len(index.end), len(text), total, checksum))
    file.write(text)
    file.write(table)


def is_container(path: Path) -> bool:
    """Say whether a file begins as a container does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def whole_folder(path: Path) -> Path:
    """Return the container that stands for a folder, if it holds one; else the path itself.

    Raises DataError for one that is not finished.
    """
    if not path.is_dir():
        return path
    for name in FOLDERS:
        if (path / name).is_file():
            return path / name
    if any((path / f"{name}.partial").is_dir() for name in (*FOLDERS, CANDIDATES)) or (path / CANDIDATES).is_file():
        raise DataError(f"{path}: is not finished: start the command that makes it again")
    return path


def _read_front(path: Path, file: BinaryIO) -> tuple[int, bytes, bytes, int]:
    """Read and check everything before the records: count, JSON, index, offset of the first record."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size or not head.startswith(_MAGIC):
        raise DataError(f"{path}: is not a container of samples, or is cut off: {_REMEDY}")
    _, version, _, count, text_length, total, checksum = _HEAD.unpack(head)
    if version > VERSION:
        raise ConfigError(
            f"{path}: written in version {version} of the format, this atomslim reads {VERSION}: update it"
        )
    size = os.fstat(file.fileno()).st_size
    text = file.read(min(text_length, size))
    table = file.read(min(max(_table_length(text, count, path), 0), size))
    if zlib.crc32(table, zlib.crc32(text)) != checksum:
        raise DataError(f"{path}: the index is broken or cut off, no record can be read: {_REMEDY}")
    start = _HEAD.size + text_length + len(table)
    if size != total:
        raise DataError(f"{path}: {_what_is_lost(table, count, size - start)} ({size} of {total} bytes): {_REMEDY}")
    return count, text, table, start


def _table_length(text: bytes, count: int, path: Path) -> int:
    try:
        extra = len(parse_json(text)["columns"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: the description is broken or cut off, no record can be read: {_REMEDY}") from error
    if count > 2**40:
        raise DataError(f"{path}: announces {count} structures: {_REMEDY}")
    sizes = [np.dtype(kind).itemsize * count for kind in _COLUMNS.values()]
    return sum(size + -size % 8 for size in sizes) + 8 * count * extra


def _what_is_lost(table: bytes, count: int, present: int) -> str:
    end = np.frombuffer(table, _COLUMNS["end"], count)
    first = int(np.searchsorted(end, present, side="right"))
    if first == count:
        return "the file is longer than it should be"
    return f"the file is cut off: records {first} to {count - 1} (counting from 0) are missing"


def _parse_index(table: bytes, count: int, extra: Sequence[str]) -> Index:
    columns: dict[str, NDArray[Any]] = {}
    offset = 0
    for name, kind in [*_COLUMNS.items(), *((name, "<f8") for name in extra)]:
        columns[name] = np.frombuffer(table, kind, count, offset)
        offset += columns[name].nbytes + -columns[name].nbytes % 8
    known = {name: columns.pop(name) for name in _COLUMNS}
    return Index(**known, extra=columns)


def _padded(data: bytes, filler: bytes = b"\0") -> bytes:
    return data + filler * (-len(data) % 8)


WHOLE = 2**30
"""Bytes up to which files are read as a whole."""

SAMPLED = 2**28
"""Bytes that are read of larger ones."""

BLOCK = 2**16


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def source_files(path: Path) -> list[Path]:
    """Files of a dataset, in order; without containers and their unfinished parts beside them."""
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

    `source` is where they are; without it, they are looked for beside the container, where it says that
    they were. They are read again only if the system says that one of them changed after the container was written.
    """
    noted, recorded = container.metadata.get("contents"), container.metadata.get("place")
    path = container.path.parent / str(recorded) if source is None and recorded else source
    if noted is None or path is None or not path.exists() or path == container.path:
        return
    files = source_files(path)
    if _is_newer(files, container.path) and contents(files) != noted:
        raise DataError(
            f"{container.path}: was made from {path}, which has changed since: make it again with `atomslim data "
            "prepare`, or move the changed file elsewhere"
        )


def _is_newer(files: Sequence[Path], than: Path) -> bool:
    """Say whether a file was written, renamed or restored after another; copies may keep the modification time."""
    made = than.stat().st_mtime_ns
    stats = (file.stat() for file in files)
    return any(max(status.st_mtime_ns, status.st_ctime_ns) > made for status in stats)


def _sample(file: BinaryIO, size: int, blocks: int, found: _Hash) -> None:
    for number in range(blocks):
        file.seek(max(size - BLOCK, 0) * number // (blocks - 1))
        found.update(file.read(BLOCK))
