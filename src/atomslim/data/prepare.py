"""Making one container of a dataset's files, by several processes if there are several files; resumable, atomic.

Every part (an LMDB shard, say; most datasets have one) is read by one process. A killed run continues where it
stopped, and ends with the same bytes; one whose source has changed starts again.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from atomslim.atoms.neighbours import find_pairs
from atomslim.atoms.sample import Sample, to_batch
from atomslim.data import workers
from atomslim.data.container import SUFFIX, Container, contents, is_container, source_files
from atomslim.data.registry import Source, require_files, written_options
from atomslim.data.remarks import Remarks
from atomslim.data.staging import Extra, Part, Staging, append_rest, remove_staging, rows_written
from atomslim.data.workers import run_jobs
from atomslim.errors import AtomslimError, ConfigError, DataError
from atomslim.files import new_folder

Advance = Callable[[int, int | None], None]
"""Called with the number of written structures, and of all if known."""

_LOOK = 0.2
"""Seconds between updates of the progress."""


@dataclass(frozen=True)
class Prepared:
    """What a run did."""

    container: Container
    seconds: float
    fresh: int
    """Structures written by this run; the others are from an earlier one."""


def prepare(
    source: Source,
    output: Path | None = None,
    *,
    processes: int = 1,
    edges: bool = False,
    force: bool = False,
    advance: Advance | None = None,
) -> Prepared:
    """Make the container of a dataset, unless it exists and was made from the same files.

    Args:
        source: the dataset, as `resolve` finds it.
        output: where the container goes; default: where `open_dataset` looks for it.
        processes: number of parts read at once.
        edges: count the edges of every structure's graph with the dataset's cutoff and neighbours, as the column
            "edges" of the index, for batches of equal cost; takes a millisecond or more for each structure.
        force: overwrite an existing container or other file.
        advance: called with the progress.

    Raises:
        DataError: the files are missing, broken, or hold another number of structures than they say.
        ConfigError: no output is named, it is a file of the source or one that was not made from it, or
            another process is making this container.
        OSError: the disk is full.

    """
    start = time.perf_counter()
    require_files(source)
    target = _target(source, output)
    _require_not_of(source, target)
    metadata = _metadata(source, target, edges=edges)
    if not force and (present := _present(target, metadata)) is not None:
        remove_staging(target)
        return Prepared(present, 0.0, 0)
    if not force:
        _require_own(target, metadata)
    parts = source.parts()
    jobs = [_Job(source, part, number, edges=edges) for number, part in enumerate(parts)]
    plan = {"parts": [str(part) for part in parts], "times": _times(source.path), **metadata}
    # Once broken data is fixed, the plan changes.
    with new_folder(target.parent), Staging(target, plan, spoilt_by=DataError) as staging:
        before = _written(staging.folder, jobs)
        with _watched(jobs, staging.folder, source.count(), advance):
            for _ in run_jobs([partial(job.run, staging.folder) for job in jobs], min(processes, len(jobs)), target):
                pass
        _require_count(source, _written(staging.folder, jobs))
        staging.merge(len(parts), {**metadata, "remarks": _noticed(jobs, staging.folder)}, jobs[0].extra)
    container = Container(target)
    return Prepared(container, time.perf_counter() - start, len(container) - before)


def count_edges(sample: Sample, cutoff: float, neighbours: int) -> float:
    """Number of edges of the main graph: for each atom its neighbours within the cutoff (Å), at most `neighbours`."""
    pairs = find_pairs(to_batch([sample]), cutoff)
    per_atom = np.bincount(pairs.target.numpy(), minlength=len(sample))
    return float(np.minimum(per_atom, neighbours).sum())


@dataclass(frozen=True)
class _Job:
    """One part to read and write."""

    source: Source
    path: Path
    number: int
    edges: bool

    @property
    def extra(self) -> dict[str, Extra]:
        """Extra columns of the index."""
        info = self.source.info
        return {"edges": partial(count_edges, cutoff=info.cutoff, neighbours=info.neighbours)} if self.edges else {}

    def run(self, folder: Path) -> None:
        """Write what is not yet written, until another process fails."""
        with Part(folder, self.number, self.extra) as part:
            if not part.finished:
                remarks = Remarks()
                append_rest(
                    part, _until_stopped(self.source.read(self.path, remarks)), partial(self._note, folder, remarks)
                )

    def noticed(self, folder: Path) -> Remarks:
        """The reader's remarks, from the note of the finished part."""
        note = self._note_path(folder)
        return Remarks.of(json.loads(note.read_text(encoding="utf-8"))) if note.is_file() else Remarks()

    def _note(self, folder: Path, remarks: Remarks) -> None:
        self._note_path(folder).write_text(json.dumps(remarks.plain()), encoding="utf-8")

    def _note_path(self, folder: Path) -> Path:
        return folder / f"{self.number:06d}.remarks"

    def written(self, folder: Path) -> int:
        """Number of structures that are written."""
        return rows_written(folder, self.number, self.extra)


def _noticed(jobs: list[_Job], folder: Path) -> dict[str, Any]:
    """Combine the remarks of all parts."""
    found = Remarks()
    for job in jobs:
        found.merge(job.noticed(folder))
    return found.plain()


def _target(source: Source, output: Path | None) -> Path:
    if output is not None and output.suffix not in {"", SUFFIX}:
        raise ConfigError(f"{output}: a container ends in {SUFFIX}: give it that ending")
    if output is not None:
        return output.with_suffix(SUFFIX)
    if source.prepared is None:
        raise ConfigError(f"{source.name}: name the container to write with --output, such as data{SUFFIX}")
    return source.prepared


def _require_not_of(source: Source, target: Path) -> None:
    """Raise ConfigError if the container would replace its source, by whatever name."""
    if target.exists() and any(target.samefile(file) for file in [source.path, *source_files(source.path)]):
        raise ConfigError(f"{target}: is the source of the container: name another file with --output")


def _require_own(target: Path, metadata: Mapping[str, Any]) -> None:
    """Raise ConfigError if the target exists and is not an earlier or broken container of the same files."""
    if not target.exists():
        return
    remedy = "name another file with --output, or give --force"
    if not is_container(target):
        raise ConfigError(f"{target}: already exists, and is no container: {remedy}")
    try:
        there = Container(target).metadata
    except (AtomslimError, FileNotFoundError):
        return
    names = [name for name, _ in there.get("source", [])]
    if there.get("dataset") != metadata["dataset"] or names != [name for name, _ in metadata["source"]]:
        raise ConfigError(f"{target}: already exists, made from other files ({', '.join(names[:3])}): {remedy}")


def _metadata(source: Source, target: Path, *, edges: bool) -> dict[str, Any]:
    """Metadata of a container; independent of machine and time."""
    info, files = source.info, source_files(source.path)
    relative = os.path.relpath(source.path.resolve(), target.parent.resolve())
    return {
        "dataset": f"{source.reader}:{source.variant.name}".rstrip(":"),
        "title": info.title,
        "licence": info.licence,
        "citation": info.citation,
        "units": info.units,
        "options": written_options(source),
        "source": [[path.name, path.stat().st_size] for path in files][:1000],
        "fingerprint": _fingerprint(source.path),
        "contents": contents(files),
        "place": None if relative.startswith("..") else relative,
        "edges": {"cutoff": info.cutoff, "neighbours": info.neighbours} if edges else None,
    }


def _present(target: Path, metadata: Mapping[str, Any]) -> Container | None:
    """Open the existing container, if it is intact and was made from the same files in the same way."""
    try:
        container = Container(target)
    except (AtomslimError, FileNotFoundError):
        return None
    same = all(container.metadata.get(key) == value for key, value in json.loads(json.dumps(metadata)).items())
    return container if same else None


def _fingerprint(path: Path) -> str:
    folder = path.parent if path.is_file() else path
    listing = [(file.relative_to(folder).as_posix(), file.stat().st_size) for file in source_files(path)]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _times(path: Path) -> str:
    times = [file.stat().st_mtime_ns for file in source_files(path)]
    return hashlib.sha256(json.dumps(times).encode()).hexdigest()


def _written(folder: Path, jobs: list[_Job]) -> int:
    return sum(job.written(folder) for job in jobs)


def _require_count(source: Source, written: int) -> None:
    expected = None if source.options else source.count()
    if expected not in {None, written}:
        raise DataError(f"{source.path}: says it holds {expected} structures, {written} could be read: get it again")


class _Stopped(Exception):  # noqa: N818 -- not an error: another process has one
    pass


def _until_stopped(samples: Iterator[Sample]) -> Iterator[Sample]:
    for sample in samples:
        if workers.stopped():
            raise _Stopped
        yield sample


@contextmanager
def _watched(jobs: list[_Job], folder: Path, total: int | None, advance: Advance | None) -> Iterator[None]:
    """Report how many structures are written, from the parts."""
    if advance is None:
        yield
        return
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK):
            advance(_written(folder, jobs), total)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        advance(_written(folder, jobs), total)
