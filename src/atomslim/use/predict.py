"""Predictions for every structure of a file, in a stream: memory does not grow with the length of the file."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, TypeAlias

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_xyz
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from torch import Tensor

from atomslim.atoms import AtomsBatch, concatenate, from_ase, validate
from atomslim.errors import AtomslimError, ConfigError, StructureError
from atomslim.files import atomic_write
from atomslim.models.block_model import BlockModel
from atomslim.models.checkpoint import Weights, load
from atomslim.use.frames import place, read_frames

ASE_RESULTS = ("energy", "forces", "stress")
"""Predictions that ASE has a place for; the others are written beside them under their own names."""


Results: TypeAlias = dict[str, NDArray[np.float64]]
"""Energy () in eV, forces (n, 3) in eV/Å, stress (3, 3) in eV/Å³, scalar targets () in their own unit, by name."""


@dataclass(frozen=True)
class Frame:
    """One checked structure of a file; `name` says which file and record it is."""

    name: str
    atoms: Atoms
    batch: AtomsBatch


@dataclass(frozen=True)
class Prediction:
    """Results for one structure, and the share of pairs within the cutoff that the cap on neighbours left out."""

    results: Results
    trimmed: float


@dataclass
class PredictionSummary:
    """What a run over a file did; `trimmed` structures have more neighbours within the cutoff than the model takes."""

    device: str
    structures: int = 0
    atoms: int = 0
    trimmed: int = 0
    seconds: float = 0.0

    def add(self, frame: Frame, trimmed: float) -> None:
        """Count one structure, of whose pairs within the cutoff a share `trimmed` was left out."""
        self.structures += 1
        self.atoms += len(frame.atoms)
        self.trimmed += trimmed > 0

    def __str__(self) -> str:
        """Say it in one line."""
        text = f"{self.structures} structures, {self.atoms} atoms in {self.seconds:.1f} s on {self.device}"
        if self.trimmed:
            text += (
                f"; the cap on neighbours left out atoms within the cutoff in {self.trimmed} (--strict refuses these)"
            )
        return text


def predict_file(  # noqa: PLR0913 - the options of a command
    model_path: str | os.PathLike[str],
    structures_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    task: str | None = None,
    *,
    batch_size: int = 512,
    device: Literal["cpu", "cuda"] = "cpu",
    weights: Weights = "ema",
    strict: bool = False,
    progress: bool = True,
) -> PredictionSummary:
    """Predict every structure of a file and write them, with the results, as extended XYZ.

    Energy (eV), forces (eV/Å) and, for structures with a periodic cell, stress (eV/Å³, ASE's sign and order) are
    written where ASE reads them back as calculator results, and replace results that came with the structures; scalar
    targets go to `atoms.info` by name. The output appears when all is done, or not at all.

    Args:
        model_path: model file, as `load` takes it.
        structures_path: any file that ASE reads, compressed or not.
        output: the .extxyz or .xyz file to write.
        task: name of the task head; needed where the model has several.
        batch_size: at most this many atoms at once; a larger structure goes alone.
        device: where the model runs.
        weights: of a JMP checkpoint, the averaged ones or the last raw ones.
        strict: refuse structures in which the cap on neighbours leaves out atoms within the cutoff.
        progress: show it on stderr, where that is a terminal.

    Raises:
        StructureError: a structure that cannot be read or predicted; names the file and the record.
        CheckpointError: a model file that cannot be read.
        ConfigError: an unknown task, an unusable output name, or no such device.
        AtomslimError: a batch that does not fit into memory, or a result that is not finite.
        OSError: a file that is not there or cannot be written.

    """
    start = time.perf_counter()
    source, target = Path(structures_path), Path(output)
    _require_usable(source, target, batch_size, device)
    model = load(model_path, weights=weights).to(device).eval()
    summary = PredictionSummary(device)
    with (
        atomic_write(target) as temporary,
        temporary.open("w", encoding="utf-8") as file,
        shown_progress(shown=progress) as advance,
    ):
        for frames in in_batches(_frames(source), batch_size, size=lambda frame: len(frame.atoms)):
            for frame, prediction in zip(frames, predict_frames(model, frames, task, device), strict=True):
                require_sound(frame, prediction, strict=strict)
                write_frame(file, frame.atoms, prediction.results)
                summary.add(frame, prediction.trimmed)
            advance(len(frames))
    summary.seconds = time.perf_counter() - start
    return summary


def _require_usable(source: Path, target: Path, batch_size: int, device: str) -> None:
    if target.suffix not in {".extxyz", ".xyz"}:
        message = f"{target}: predictions are written as extended XYZ: name the output .extxyz or .xyz"
    elif target.exists() and source.exists() and target.samefile(source):
        message = f"{target}: the output would replace the structures it is made from: name another file"
    elif batch_size < 1:
        message = f"batch size {batch_size}: give the number of atoms to take at once, 1 or more"
    elif device == "cuda" and not torch.cuda.is_available():
        message = "device cuda: no CUDA device is available to torch here: use cpu"
    else:
        return
    raise ConfigError(message)


def _frames(path: Path) -> Iterator[Frame]:
    for record, atoms in enumerate(read_frames(path)):
        yield checked_frame(path, record, atoms)


def checked_frame(path: Path, record: int, atoms: Atoms) -> Frame:
    """Check one structure of a file; raises StructureError that names file and record."""
    name = place(path, record)
    batch = from_ase(atoms)
    with _named(name):
        validate(batch)
    return Frame(name, atoms, batch)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the file and record in place of "structure 0" in an error about a batch of one structure."""
    try:
        yield
    except StructureError as error:
        detail = str(error).removeprefix("structure 0").lstrip(",: ")
        raise StructureError(f"{name}: {detail}") from error


def in_batches(frames: Iterable[Any], most_atoms: int, size: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Collect consecutive structures as long as together they have at most `most_atoms` atoms."""
    waiting: list[Any] = []
    atoms = 0
    for frame in frames:
        if waiting and atoms + size(frame) > most_atoms:
            yield waiting
            waiting, atoms = [], 0
        waiting.append(frame)
        atoms += size(frame)
    if waiting:
        yield waiting


def predict_frames(model: BlockModel, frames: Sequence[Frame], task: str | None, device: str) -> list[Prediction]:
    """Predict a batch; where a structure turns out to be impossible, find out which."""
    batch = concatenate([frame.batch for frame in frames]).to(device)
    try:
        with _memory_hint(frames), _named(frames[0].name):
            topology = model.topology(batch, task)
            outputs = model.predict(batch, task, topology)
    except StructureError:
        if len(frames) == 1:
            raise
        return [predict_frames(model, [frame], task, device)[0] for frame in frames]
    results = _split(outputs, batch.natoms.tolist())
    return [
        Prediction(_meaningful(frame.atoms, result), trimmed)
        for frame, result, trimmed in zip(frames, results, topology.trimmed.tolist(), strict=True)
    ]


@contextmanager
def _memory_hint(frames: Sequence[Frame]) -> Iterator[None]:
    """Say what to do when a batch does not fit into memory: the CPU allocator raises a plain RuntimeError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        atoms = sum(len(frame.atoms) for frame in frames)
        raise AtomslimError(
            f"{frames[0].name}: out of memory with {atoms} atoms at once: lower the batch size"
        ) from error


def _split(outputs: dict[str, Tensor], natoms: Sequence[int]) -> list[Results]:
    """Deal out the results of a batch to its structures: forces by atom, everything else by structure."""
    arrays = {name: values.detach().double().cpu().numpy() for name, values in outputs.items()}
    dealt = {
        name: np.split(values, np.cumsum(natoms)[:-1]) if name == "forces" else list(values)
        for name, values in arrays.items()
    }
    return [{name: values[index] for name, values in dealt.items()} for index in range(len(natoms))]


def _meaningful(atoms: Atoms, results: Results) -> Results:
    """Leave out the stress of a structure without a volume; the model's is not a number there."""
    has_volume = bool(atoms.pbc.any()) and atoms.cell.rank == 3
    return {name: values for name, values in results.items() if name != "stress" or has_volume}


def require_sound(frame: Frame, prediction: Prediction, *, strict: bool) -> None:
    """Raise AtomslimError for results that are not finite, StructureError for left-out neighbours if ``strict``."""
    for name, values in prediction.results.items():
        if not np.isfinite(values).all():
            raise AtomslimError(f"{frame.name}: the predicted {name} is not finite: check the structure and the model")
    if strict and prediction.trimmed > 0:
        raise StructureError(
            f"{frame.name}: the cap on neighbours leaves out {prediction.trimmed:.1%} of the pairs within the cutoff: "
            "use a model with more neighbours, or leave out --strict"
        )


def write_frame(file: TextIO, atoms: Atoms, results: Results) -> None:
    """Write one structure with its results as extended XYZ."""
    labelled = atoms.copy()
    labelled.info = {key: value for key, value in atoms.info.items() if key not in results and _has_text(value)}
    for name, array in atoms.arrays.items():
        if name in results or array.ndim > 2:  # extended XYZ has columns, but no matrix for an atom
            del labelled.arrays[name]
    labelled.info |= {name: values for name, values in results.items() if name not in ASE_RESULTS}
    labelled.calc = SinglePointCalculator(labelled, **_ase_results(results))
    write_xyz(file, labelled)


def _has_text(value: object) -> bool:
    """Say whether extended XYZ can hold what came with a structure (ASE's slabs carry dictionaries of arrays)."""
    try:
        return isinstance(value, np.ndarray | np.generic) or bool(json.dumps(value))
    except TypeError:
        return False


def _ase_results(results: Results) -> Results:
    """Keep what ASE's calculators give, stress as its six components."""
    known = {name: results[name] for name in ASE_RESULTS if name in results}
    if "stress" in known:
        known["stress"] = full_3x3_to_voigt_6_stress(known["stress"])
    return known


class _Advance(Protocol):
    def __call__(self, structures: int) -> None: ...


@contextmanager
def shown_progress(*, shown: bool) -> Iterator[_Advance]:
    """Give a function that counts predicted structures on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:.0f} structures"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        task: TaskID = bar.add_task("predict", total=None)
        yield lambda structures: bar.advance(task, structures)
