"""Predictions for very many structures: one file for each run of records, shared among processes, resumable.

| file | what |
|---|---|
| predict.json | model, inputs, task, size and format of the shards: what a resumed run must agree with |
| part-00000.extxyz, … | structures and results of records 0 … size − 1, and so on; or part-00000.parquet |

A shard is there whole or not at all, and record i is always in shard i // size: started again, a run writes what is
missing and nothing twice. Process r of p writes the shards r, r + p, …, and needs to know nothing of the others.

Parquet: one row per structure with record (its number), source (file and record), numbers, positions (Å, flat), cell
(Å, flat), pbc, and every result: energy (eV), forces (eV/Å, flat), stress (eV/Å³, flat, 3 × 3), others by their names.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from atomslim.errors import ConfigError
from atomslim.files import atomic_write
from atomslim.models.checkpoint import Weights, load
from atomslim.use.frames import read_numbered
from atomslim.use.predict import (
    Frame,
    Prediction,
    PredictionSummary,
    checked_frame,
    in_batches,
    predict_frames,
    require_sound,
    shown_progress,
    write_frame,
)

Format = Literal["extxyz", "parquet"]


def predict_shards(  # noqa: PLR0913 - the options of a command
    model_path: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    task: str | None = None,
    *,
    form: Format = "extxyz",
    shard_size: int = 10_000,
    process: tuple[int, int] | None = None,
    resume: bool = False,
    batch_size: int = 512,
    device: Literal["cpu", "cuda"] = "cpu",
    weights: Weights = "ema",
    strict: bool = False,
    progress: bool = True,
) -> PredictionSummary:
    """Predict every structure of some files into a folder of shards.

    Args:
        model_path: model file, as `load` takes it.
        sources: files that ASE reads; their records count on from one file to the next.
        folder: where the shards go; made if need be.
        task: name of the task head; needed where the model has several.
        form: of the shards.
        shard_size: records in each.
        process: this process's number and how many there are; None: as torchrun or SLURM says, else (0, 1).
        resume: go on with what is in the folder.
        batch_size: at most this many atoms at once.
        device: where the model runs.
        weights: of a JMP checkpoint, the averaged ones or the last raw ones.
        strict: refuse structures in which the cap on neighbours leaves out atoms within the cutoff.
        progress: show it on stderr, where that is a terminal.

    Raises:
        ConfigError: a folder that holds another run, or one that is not to be resumed; options that make no sense.
        StructureError: a structure that cannot be read or predicted; names the file and the record.
        CheckpointError: a model file that cannot be read.

    """
    start = time.perf_counter()
    place = Path(folder)
    number, count = process or process_of(os.environ)
    _require_usable(form, shard_size, batch_size, (number, count), device)
    writer = _write_parquet if form == "parquet" else _write_extxyz
    _require_same(place, _identity(model_path, sources, task, form, shard_size), resume=resume or number > 0)
    model = load(model_path, weights=weights).to(device).eval()
    summary = PredictionSummary(device)

    def wanted(record: int) -> bool:
        shard = record // shard_size
        return shard % count == number and not _path(place, shard, form).is_file()

    with shown_progress(shown=progress) as advance:
        for shard, records in _in_shards(_frames(sources, wanted), shard_size):
            done: list[tuple[int, Frame, Prediction]] = []
            for chunk in in_batches(records, batch_size, size=lambda numbered: len(numbered[1].atoms)):
                found = predict_frames(model, [frame for _, frame in chunk], task, device)
                for (record, frame), prediction in zip(chunk, found, strict=True):
                    require_sound(frame, prediction, strict=strict)
                    done.append((record, frame, prediction))
                    summary.add(frame, prediction.trimmed)
                advance(len(chunk))
            with atomic_write(_path(place, shard, form)) as temporary:
                writer(temporary, done)
    summary.seconds = time.perf_counter() - start
    return summary


def process_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return this process's number and how many there are, as torchrun or SLURM says; (0, 1) where neither does."""
    for number, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if number in environment and count in environment:
            return int(environment[number]), int(environment[count])
    return 0, 1


def parse_process(text: str) -> tuple[int, int]:
    """Understand "3/16": the fourth of 16 processes, counted from 0; raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"process {text!r}: write its number, from 0, and how many there are, as in 3/16")
    return int(match[1]), int(match[2])


def _require_usable(form: str, shard_size: int, batch_size: int, process: tuple[int, int], device: str) -> None:
    if form not in {"extxyz", "parquet"}:
        raise ConfigError(f"format {form!r}: give extxyz or parquet")
    if form == "parquet":
        _parquet()
    if shard_size < 1 or batch_size < 1:
        raise ConfigError(f"shard size {shard_size}, batch size {batch_size}: give 1 or more")
    if not 0 <= process[0] < process[1]:
        raise ConfigError(f"process {process[0]} of {process[1]}: count processes from 0")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: no CUDA device is available to torch here: use cpu")


def _identity(
    model_path: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]],
    task: str | None,
    form: str,
    size: int,
) -> dict[str, Any]:
    if not sources:
        raise ConfigError("no structures: name one or more files")
    with Path(model_path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    inputs = [{"name": Path(source).name, "bytes": Path(source).stat().st_size} for source in sources]
    return {"model sha256": digest, "inputs": inputs, "task": task, "format": form, "shard size": size}


def _require_same(place: Path, identity: dict[str, Any], *, resume: bool) -> None:
    """Note what the run is, or check that it is the one that was noted."""
    noted = place / "predict.json"
    if not noted.is_file():
        place.mkdir(parents=True, exist_ok=True)
        with atomic_write(noted) as temporary:
            temporary.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        return
    if not resume:
        raise ConfigError(f"{place}: holds predictions already: resume them, or name another folder")
    before = json.loads(noted.read_text(encoding="utf-8"))
    for key, value in identity.items():
        if before.get(key) != value:
            raise ConfigError(
                f"{place}: cannot resume: {key} was {before.get(key)} and is now {value}: give the same, or another "
                "folder"
            )


def _frames(sources: Sequence[str | os.PathLike[str]], wanted: Callable[[int], bool]) -> Iterator[tuple[int, Frame]]:
    """Give the wanted records of all files, numbered through."""
    before = 0
    for source in sources:
        last = -1
        for record, atoms in read_numbered(Path(source), lambda record, before=before: wanted(before + record)):
            last = record
            if atoms is not None:
                yield before + record, checked_frame(Path(source), record, atoms)
        before += last + 1


def _in_shards(frames: Iterator[tuple[int, Frame]], size: int) -> Iterator[tuple[int, list[tuple[int, Frame]]]]:
    """Collect the records of each shard, and give it as soon as it is full: what comes next may be unreadable."""
    waiting: list[tuple[int, Frame]] = []
    for record, frame in frames:
        if waiting and record // size != waiting[0][0] // size:
            yield waiting[0][0] // size, waiting
            waiting = []
        waiting.append((record, frame))
        if (record + 1) % size == 0:
            yield record // size, waiting
            waiting = []
    if waiting:
        yield waiting[0][0] // size, waiting


def _path(place: Path, shard: int, form: Format) -> Path:
    return place / f"part-{shard:05d}.{form}"


def _write_extxyz(path: Path, done: list[tuple[int, Frame, Prediction]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record, frame, prediction in done:
            frame.atoms.info["record"] = record
            write_frame(file, frame.atoms, prediction.results)


def _write_parquet(path: Path, done: list[tuple[int, Frame, Prediction]]) -> None:
    arrow, parquet = _parquet()
    rows = [
        {
            "record": record,
            "source": frame.name,
            "numbers": frame.atoms.numbers.tolist(),
            "positions": frame.atoms.positions.ravel().tolist(),
            "cell": frame.atoms.cell.array.ravel().tolist(),
            "pbc": frame.atoms.pbc.tolist(),
            **{
                name: values.ravel().tolist() if values.ndim else float(values)
                for name, values in prediction.results.items()
            },
        }
        for record, frame, prediction in done
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    parquet.write_table(arrow.table({name: [row.get(name) for row in rows] for name in names}), path)


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional extra
        from pyarrow import parquet  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError("format parquet needs the package pyarrow: pip install atomslim[parquet]") from error
    return pa, parquet
