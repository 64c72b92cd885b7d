"""Predictions for very many structures: one file for each run of records, shared among processes, resumable.

| file | what |
|---|---|
| _predict.json | model, inputs, task, size and format of the shards: what a resumed run must agree with |
| part-00000.extxyz, … | structures and results of records 0 … size − 1, and so on; or part-00000.parquet |
| _parts-0.jsonl, … | size and checksum of every shard that process 0, … wrote |

A shard is complete or missing, and record i is always in shard i // size: a restarted run writes only
what is missing or changed. Process r of p writes the shards r, r + p, …, independently of the
others.
"""

import json
import os
import re
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.files import atomic_write, leftovers, new_folder, remove_leftover
from atomslim.inference.inputs import Frame, Input, open_inputs, read_inputs
from atomslim.inference.predict import Device, PredictionSummary, Predictor, listed, require_runnable, shown_progress
from atomslim.inference.process import own_device, process_of
from atomslim.inference.results import Prediction, parquet_package, result_names, write_extxyz, write_parquet
from atomslim.models.metadata import checksum, versions
from atomslim.models.model_file import load
from atomslim.models.precision import DEFAULT, Policy
from atomslim.models.registry import located
from atomslim.parsing import parse_json

Format = Literal["extxyz", "parquet"]

NOTE = "_predict.json"
"""File that says which run a folder holds."""


def predict_shards(  # noqa: PLR0913 - the options of a command
    model_path: str | os.PathLike[str],
    structures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    task: str | None = None,
    *,
    form: Format = "extxyz",
    shard_size: int = 10_000,
    process: tuple[int, int] | None = None,
    resume: bool = False,
    batch_size: int = 512,
    device: Device = "cpu",
    weights: str | None = None,
    precision: Policy | None = None,
    strict: bool = False,
    progress: bool = True,
    options: Mapping[str, str] | None = None,
) -> PredictionSummary:
    """Predict every structure of some files into a folder of shards.

    Args:
        model_path: model file, as `load` takes it.
        structures: files, folders, containers or names of datasets, as `atomslim.inference.inputs` says; their records
            count on from one to the next.
        folder: where the shards go; made if necessary.
        task: name of the task head; needed where the model has several.
        form: of the shards; the columns of parquet are those of `atomslim.inference.results`.
        shard_size: records in each.
        process: this process's number and how many there are; None: from torchrun or SLURM, else (0, 1).
        resume: continue with what is in the folder.
        batch_size: at most this many atoms at once; a larger structure goes alone. Lowered when memory runs out.
        device: where the model runs.
        weights: which of the weights of a checkpoint, as for `load`.
        precision: what is computed in, as for `load`.
        strict: refuse structures, as for `predict_file`.
        progress: show it on stderr, where that is a terminal.
        options: of the readers, such as ``{"length_unit": "bohr"}``.

    Raises:
        ConfigError: a folder that holds another run, or one that is not to be resumed; invalid options.
        StructureError: a structure that cannot be read or predicted; names the file and the record.
        DataError: a dataset that is missing or broken.
        CheckpointError: a model file that cannot be read.
        AtomslimError: a structure that does not fit into memory, or a result that is not finite.
        OSError: a file that is missing or cannot be written.

    """
    start = time.perf_counter()
    share = process_of(os.environ) if process is None else process
    require_runnable(batch_size, device)
    _require_usable(form, shard_size, share)
    sources = listed(structures)
    shards = Shards(Path(folder), form, shard_size, share)
    _require_apart(shards.folder, sources)
    own = own_device(device, os.environ)
    model = load(model_path, weights=weights, device=own, precision=precision)
    chosen = model.task(task)
    inputs = open_inputs(sources, options)
    identity = _identity(model_path, weights or "", inputs, chosen.name, shards)
    identity |= {"precision": precision or DEFAULT}
    with shards.claimed(identity, resume=resume), shown_progress(shown=progress) as advance:
        predictor = Predictor(model, task, own, batch_size, strict, PredictionSummary(own), advance)
        for shard, frames in in_shards(read_inputs(inputs, shards.wanted), shard_size):
            shards.write(shard, list(predictor(frames)), result_names(model, chosen))
    predictor.summary.notes = shards.notes()
    predictor.summary.seconds = time.perf_counter() - start
    return predictor.summary


@dataclass
class Shards:
    """The files of a folder, and which of them are this process's to write."""

    folder: Path
    form: Format
    size: int
    share: tuple[int, int]
    """This process's number, and how many there are."""
    records: int = 0
    """Structures seen so far, wanted or not."""
    present: int = 0
    """Shards of this process that existed before."""
    spoilt: int = 0
    """Shards of this process that existed but had changed."""
    _noted: dict[str, dict[str, int]] = field(default_factory=dict)
    _asked: int = -1
    _answer: bool = False

    def path(self, shard: int) -> Path:
        """Return the path of a shard."""
        return self.folder / f"part-{shard:05d}.{self.form}"

    def wanted(self, record: int) -> bool:
        """Say whether a record's shard is this process's and missing; records are asked about in order."""
        self.records = record + 1
        shard = record // self.size
        if shard != self._asked:  # checks the file system once for each shard
            self._asked, self._answer = shard, self._missing(shard)
        return self._answer

    def _missing(self, shard: int) -> bool:
        if not self._own(shard):
            return False
        path = self.path(shard)
        there = path.is_file()
        whole = there and self._is_whole(path)
        self.present += whole
        self.spoilt += there and not whole
        return not whole

    def _is_whole(self, path: Path) -> bool:
        """Compare a shard with what was noted; it is read only if its size is right and its time has changed."""
        noted, status = self._noted.get(path.name, {}), path.stat()
        if noted.get("bytes") != status.st_size:
            return False
        return noted["changed"] == status.st_mtime_ns or noted["crc32"] == zlib.crc32(path.read_bytes())

    def _own(self, shard: int) -> bool:
        return shard % self.share[1] == self.share[0]

    def write(self, shard: int, rows: Sequence[tuple[Frame, Prediction]], names: Mapping[str, bool]) -> None:
        """Write a shard, whole or not at all; ``names`` as `result_names` gives them."""
        path = self.path(shard)
        table = partial(write_parquet, names=names)
        write = table if self.form == "parquet" else write_extxyz
        with atomic_write(path) as temporary:
            write(temporary, rows)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # else the name could outlive the contents when the machine stops
                crc = zlib.crc32(file.read())
            status = temporary.stat()
        note = {"part": path.name, "bytes": status.st_size, "changed": status.st_mtime_ns, "crc32": crc}
        with (self.folder / f"_parts-{self.share[0]}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")  # one that is killed before this line writes the shard again

    def notes(self) -> list[str]:
        """Messages at the end, when all records have been seen."""
        total = -(-self.records // self.size)
        missing = total - len(self._written())
        said = {
            f"process {self.share[0]} of {self.share[1]}": self.share[1] > 1,
            f"{self.present} shards existed already": self.present > 0,
            f"{self.spoilt} shards had changed, and were made again": self.spoilt > 0,
            f"{missing} of {total} shards are still with other processes": missing > 0,
        }
        return [text for text, applies in said.items() if applies]

    @contextmanager
    def claimed(self, identity: dict[str, Any], *, resume: bool) -> Iterator[None]:
        """Note which run the folder holds, or check that it is this one; a run that fails immediately leaves no note.

        Raises:
            ConfigError: the folder holds another run, or this one and it is not to be resumed.

        """
        with new_folder(self.folder), self._claimed(identity, resume=resume):
            yield

    @contextmanager
    def _claimed(self, identity: dict[str, Any], *, resume: bool) -> Iterator[None]:
        fresh = not (self.folder / NOTE).is_file()
        if fresh:
            self._require_empty()
            _write_note(self.folder / NOTE, identity)
        elif not resume and not self._starting_together():
            raise ConfigError(
                f"{self.folder}: holds predictions already: resume them (--resume), or name another folder"
            )
        _require_same(self.folder, identity)
        self._tidy()
        self._noted = _noted_parts(self.folder)
        try:
            yield
        except Exception:
            if fresh and self.share[1] == 1 and not self._written():
                (self.folder / NOTE).unlink(missing_ok=True)
            raise

    def _starting_together(self) -> bool:
        """If several processes start at once, the first writes the note."""
        return self.share[1] > 1 and not any(self._own(shard) for shard in self._written())

    def _written(self) -> list[int]:
        return [int(path.stem[5:]) for path in self.folder.glob("part-*") if path.stem[5:].isdigit()]

    def _tidy(self) -> None:
        """Remove partial files of killed processes, unless they may belong to a running one."""
        for path, name in leftovers(self.folder).items():
            number = re.fullmatch(r"part-(\d+)\.\w+", name)
            if self._own(int(number[1])) if number else name == NOTE and self.share[1] == 1:
                remove_leftover(path)

    def _require_empty(self) -> None:
        if self._written():
            raise ConfigError(f"{self.folder}: has shards but no {NOTE} that identifies their run: name another folder")


def _require_usable(form: str, shard_size: int, process: tuple[int, int]) -> None:
    if form not in {"extxyz", "parquet"}:
        raise ConfigError(f"format {form!r}: give extxyz or parquet")
    if form == "parquet":
        parquet_package()
    if shard_size < 1:
        raise ConfigError(f"shard size {shard_size}: give 1 or more structures")
    if not 0 <= process[0] < process[1]:
        raise ConfigError(f"process {process[0]} of {process[1]}: count processes from 0")


def _require_apart(folder: Path, sources: Sequence[str]) -> None:
    for source in map(Path, sources):
        if folder.exists() and source.exists() and folder.samefile(source):
            raise ConfigError(f"{folder}: the shards would be among the structures: name another folder")


def _identity(
    model_path: str | os.PathLike[str], weights: str, inputs: Sequence[Input], task: str, shards: Shards
) -> dict[str, Any]:
    return {
        "versions": versions(),
        "model": {"sha256": checksum(located(model_path)[0]), "weights": weights},
        "task": task,
        "format": shards.form,
        "shard size": shards.size,
        "inputs": [one.identity() for one in inputs],
    }


def _noted_parts(folder: Path) -> dict[str, dict[str, int]]:
    """Read what all processes noted of the shards they wrote; an incomplete last line is ignored."""
    found = {}
    for path in folder.glob("_parts-*.jsonl"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                note = json.loads(line)
                found[note["part"]] = {name: int(note[name]) for name in ("bytes", "changed", "crc32")}
            except (ValueError, TypeError, KeyError):
                continue
    return found


def _write_note(path: Path, identity: dict[str, Any]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")


def _require_same(folder: Path, identity: dict[str, Any]) -> None:
    """Compare with the note; raises ConfigError that names the first difference."""
    try:
        before = dict(parse_json((folder / NOTE).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{folder / NOTE}: cannot be read: name another folder") from error
    for key, value in identity.items():
        if key != "versions" and before.get(key) != value:
            raise ConfigError(
                f"{folder}: holds another run: {_difference(key, before.get(key), value)}: give the same, or name "
                "another folder"
            )
    if before.get("versions") != identity["versions"]:
        text = _difference("versions", before.get("versions"), identity["versions"])
        warnings.warn(f"{folder}: {text}: last digits may differ between shards", AtomslimWarning, stacklevel=2)


def _difference(key: str, before: Any, now: Any) -> str:
    """Name what differs; of inputs, the first."""
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"it has {len(before)} {key}, not {len(now)}"
        return next(f"{key} had {b}, which is now {n}" for b, n in zip(before, now, strict=True) if b != n)
    return f"{key} was {before} and is now {now}"


def in_shards(frames: Iterator[Frame], size: int) -> Iterator[tuple[int, list[Frame]]]:
    """Collect the records of each shard, and give it as soon as it is full, since the next record may be unreadable."""
    waiting: list[Frame] = []
    for frame in frames:
        if waiting and frame.number // size != waiting[0].number // size:
            yield waiting[0].number // size, waiting
            waiting = []
        waiting.append(frame)
        if (frame.number + 1) % size == 0:
            yield frame.number // size, waiting
            waiting = []
    if waiting:
        yield waiting[0].number // size, waiting
