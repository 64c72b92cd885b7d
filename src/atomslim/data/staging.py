"""Writing a container so that a killed writer loses half a second: parts grow in a folder, then become one file.

In the folder `<container>.partial` lie, for every part, the records written so far and their index; a record counts
once its row of the index is there. Nothing appears under the container's own name before it is complete. Parts may be
written by several processes, one each. A second writer of the same container is refused (the lock dies with its
process).
"""

import fcntl
import json
import mmap
import os
import re
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.container import Container, Index, write_front
from atomslim.data.record import encode, group_of, layout_of, target_names
from atomslim.errors import ConfigError, DataError
from atomslim.files import naming

Extra = Callable[[Sample], float]
"""A number for every structure in the index, such as its edges."""

_PERIOD = 0.5
"""Seconds between commits: what a killed writer loses."""

_BLOCK = 2**23
"""Most bytes that wait for a commit."""

_COPY = 2**22

_OURS = re.compile(r"lock|plan\.json|merged|\d{6}\.(records|index|done|json|remarks)|\..+\.tmp")
"""Names of files in the folder in which a container grows."""


class Part:
    """One growing piece of a container; opened again, it continues after the last committed record."""

    def __init__(self, folder: Path, number: int, extra: Mapping[str, Extra] | None = None) -> None:
        self._extra = dict(extra or {})
        self._row = row_type(self._extra)
        self._paths = part_paths(folder, number)
        self._done = _done_path(folder, number)
        self._waiting: list[bytes] = []
        self._rows: list[tuple[float, ...]] = []
        self._bytes, self._time = 0, time.monotonic()

    def __enter__(self) -> Self:
        """Open the part's files, cut off what was not committed."""
        self._records, self._index = (path.open("a+b") for path in self._paths)
        fcntl.flock(self._records, fcntl.LOCK_EX)  # a worker whose parent was killed may take a moment to end
        self._count = _recover(self._records, self._index, self._row)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, whatever happened, except when the disk has just refused to take more."""
        with naming(self._paths[0]), closing(self._index), closing(self._records):
            if not isinstance(error, OSError):
                self.commit()

    def __len__(self) -> int:
        """Number of records, waiting ones included."""
        return self._count

    @property
    def finished(self) -> bool:
        """Whether all records of this part are there."""
        return self._done.exists()

    def append(self, sample: Sample) -> None:
        """Add a sample; it is safe after the next commit, half a second later at most."""
        record = encode(sample)
        extra = [column(sample) for column in self._extra.values()]
        self._waiting.append(record)
        self._rows.append((len(record), zlib.crc32(record), len(sample), *extra))
        self._bytes += len(record)
        self._count += 1
        if self._bytes > _BLOCK or time.monotonic() - self._time > _PERIOD:
            self.commit()

    def commit(self) -> None:
        """Write what waits: first the records, then their rows of the index."""
        with naming(self._paths[0]):
            _write(self._records, b"".join(self._waiting))
            _write(self._index, np.array(self._rows, dtype=self._row).tobytes())
        self._waiting.clear()
        self._rows.clear()
        self._bytes, self._time = 0, time.monotonic()

    def finish(self) -> None:
        """Mark the part as complete."""
        self.commit()
        self._done.touch()


class Staging:
    """The folder in which the parts of a container grow.

    Raises:
        ConfigError: another process is writing this container, or there are other files in the folder.
        OSError: the folder cannot be made.

    """

    def __init__(
        self, path: Path, plan: Mapping[str, Any], *, resume: bool = True, spoilt_by: type[Exception] | None = None
    ) -> None:
        """Grow the container of `path`; after an error of the kind `spoilt_by`, nothing is kept to resume."""
        self.path, self._spoilt_by = path, spoilt_by
        self.folder = staging_folder(path)
        self._plan = json.dumps(plan, sort_keys=True, indent=1, default=str)
        self._resume = resume

    def __enter__(self) -> Self:
        """Take the lock; keep existing parts if they were made by the same plan, else remove them."""
        self.folder.mkdir(exist_ok=True)
        _require_ours(self.folder)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._follow_plan()
        except BlockingIOError as error:
            self._lock.close()
            raise ConfigError(f"{self.path}: another process is writing it: wait for it, or end it") from error
        except OSError:
            self._lock.close()
            raise
        return self

    def _follow_plan(self) -> None:
        plan = self.folder / "plan.json"
        if not (self._resume and plan.exists() and plan.read_text(encoding="utf-8") == self._plan):
            self._clear()
            with naming(plan):
                plan.write_text(self._plan, encoding="utf-8")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; what is written is kept for the next time, unless the container is complete or spoilt."""
        if kind is None or (self._spoilt_by is not None and issubclass(kind, self._spoilt_by)):
            self._clear()
            (self.folder / "lock").unlink()
            self.folder.rmdir()
        self._lock.close()

    def merge(self, parts: int, metadata: Mapping[str, Any], extra: Collection[str] = ()) -> None:
        """Make one file of all parts, in order, and move it into place.

        Raises:
            DataError: there are no records, or one does not match its checksum.

        """
        merged = self.folder / "merged"
        with naming(self.path):
            try:
                self._write_merged(merged, parts, metadata, extra)
                merged.replace(self.path)
            finally:
                merged.unlink(missing_ok=True)

    def _write_merged(self, merged: Path, parts: int, metadata: Mapping[str, Any], extra: Collection[str]) -> None:
        with merged.open("wb") as file:
            index, found = self._joined_index(parts, extra)
            if not len(index.end):
                raise DataError(f"{self.path}: there are no structures to write: check the source")
            write_front(file, index, {**metadata, **found})
            for number in range(parts):
                _copy(part_paths(self.folder, number)[0], file)
            file.flush()
            os.fsync(file.fileno())

    def _joined_index(self, parts: int, extra: Collection[str]) -> tuple[Index, dict[str, Any]]:
        groups: dict[str, int] = {}
        layouts: dict[str, None] = {}
        numbers: list[int] = []
        rows = np.concatenate([_read_rows(self.folder, number, extra) for number in range(parts)])
        for number in range(parts):
            for record in _records(self.folder, number, extra):
                numbers.append(groups.setdefault(group_of(record), len(groups)))
                layouts[layout_of(record)] = None
        index = Index(
            end=np.cumsum(rows["length"], dtype=np.int64),
            crc=rows["crc"],
            natoms=rows["natoms"],
            group=np.array(numbers, dtype=np.int32),
            extra={name: rows[name] for name in extra},
        )
        targets = dict.fromkeys(name for layout in layouts for name in target_names(layout))
        return index, {"targets": list(targets), "groups": list(groups)}

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()


def write_container(
    path: str | os.PathLike[str],
    samples: Iterable[Sample],
    metadata: Mapping[str, Any] | None = None,
    *,
    extra: Mapping[str, Extra] | None = None,
    resume: bool = False,
) -> Container:
    """Write samples, in order, to a container, and open it; the file appears when it is complete, or not at all.

    With `resume`, a killed call is continued where it stopped: the samples must be the same, the first ones are
    skipped. `extra` are columns of the index. For several processes see `atomslim.data.prepare`.

    Raises:
        DataError: there are no samples, or one cannot be written.
        ConfigError: another process is writing this container.
        OSError: the disk is full, or the folder is not there.

    """
    extra, metadata = dict(extra or {}), dict(metadata or {})
    with Staging(Path(path), {"metadata": metadata, "extra": list(extra)}, resume=resume) as staging:
        with Part(staging.folder, 0, extra) as part:
            if not part.finished:
                append_rest(part, samples)
        staging.merge(1, metadata, list(extra))
    return Container(path)


def append_rest(part: Part, samples: Iterable[Sample], before_end: Callable[[], None] | None = None) -> None:
    """Append the samples that a part does not hold yet, do what comes `before_end`, and say that it is finished."""
    for sample in islice(samples, len(part), None):
        part.append(sample)
    if before_end is not None:
        before_end()
    part.finish()


def staging_folder(path: Path) -> Path:
    """Folder in which the container of a path grows."""
    return path.with_name(f"{path.name}.partial")


def remove_staging(path: Path) -> None:
    """Remove leftovers of a writer that was killed after its container was complete."""
    if staging_folder(path).is_dir():
        with Staging(path, {}, resume=False):
            pass


def _require_ours(folder: Path) -> None:
    for path in folder.iterdir():
        if not _OURS.fullmatch(path.name):
            raise ConfigError(f"{folder}: is where the container grows, and holds {path.name}: move it elsewhere")


def part_paths(folder: Path, number: int) -> tuple[Path, Path]:
    """Files of a part: records and index."""
    return folder / f"{number:06d}.records", folder / f"{number:06d}.index"


def rows_written(folder: Path, number: int, extra: Iterable[str] = ()) -> int:
    """Number of records of a part that are committed, without opening it."""
    path = part_paths(folder, number)[1]
    return path.stat().st_size // row_type(extra).itemsize if path.exists() else 0


def row_type(extra: Iterable[str]) -> np.dtype[np.void]:
    """Type of a row of a part's index."""
    fixed = [("length", "<u4"), ("crc", "<u4"), ("natoms", "<i4")]
    return np.dtype([*fixed, *((name, "<f8") for name in extra)])


def _done_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.done"


def _recover(records: BinaryIO, index: BinaryIO, row: np.dtype[np.void]) -> int:
    """Cut both files back to the last committed record that is whole; return the number of records."""
    index.seek(0)
    data = index.read()
    rows = np.frombuffer(data, row, len(data) // row.itemsize)
    ends = np.cumsum(rows["length"], dtype=np.int64)
    size = records.seek(0, os.SEEK_END)
    count = int(np.searchsorted(ends, size, side="right"))
    records.truncate(int(ends[count - 1]) if count else 0)
    index.truncate(count * row.itemsize)
    return count


def _write(file: BinaryIO, data: bytes) -> None:
    if data:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read_rows(folder: Path, number: int, extra: Iterable[str]) -> NDArray[np.void]:
    return np.fromfile(part_paths(folder, number)[1], row_type(extra))


def _records(folder: Path, number: int, extra: Iterable[str]) -> Iterator[memoryview]:
    """Give the records of a part, each checked."""
    path = part_paths(folder, number)[0]
    start = 0
    with _mapped(path) as data:
        for index, row in enumerate(_read_rows(folder, number, extra)):
            end = start + int(row["length"])
            with data[start:end] as record:
                if zlib.crc32(record) != row["crc"]:
                    raise DataError(
                        f"{path}: record {index} (counting from 0) is broken: remove {folder} and start again"
                    )
                yield record
            start = end


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    if path.stat().st_size == 0:  # cannot be mapped
        yield memoryview(b"")
        return
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        yield view


def _copy(source: Path, target: BinaryIO) -> None:
    with source.open("rb") as file:
        while data := file.read(_COPY):
            target.write(data)
