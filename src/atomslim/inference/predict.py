"""Predictions for every structure of some files, in a stream: memory does not grow with their length."""

import os
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from atomslim.arguments import checked
from atomslim.atoms import concatenate
from atomslim.errors import AtomslimError, AtomslimWarning, ConfigError, StructureError
from atomslim.files import atomic_write
from atomslim.inference.inputs import Found, Frame, naming_structure, open_inputs, read_inputs
from atomslim.inference.results import Prediction, Results, write_frame
from atomslim.memory import is_out_of_memory
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load
from atomslim.models.precision import Policy
from atomslim.models.scope import Watch
from atomslim.models.tasks import Task
from atomslim.progress import counted
from atomslim.words import number_of

Device = Literal["cpu", "cuda"]


@dataclass
class PredictionSummary:
    """What a run did; `capped` structures have more neighbours within the cutoff than the model takes."""

    device: str
    structures: int = 0
    atoms: int = 0
    capped: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    """Further messages."""

    def add(self, frame: Frame, capped_fraction: float) -> None:
        """Count one structure, with the fraction of pairs within the cutoff that was left out."""
        self.structures += 1
        self.atoms += len(frame.atoms)
        self.capped += capped_fraction > 0

    def __str__(self) -> str:
        """Summarise in one line."""
        size = f"{number_of(self.structures, 'structure')}, {number_of(self.atoms, 'atom')}"
        text = f"{size} in {self.seconds:.1f} s on {self.device}"
        if self.capped:
            text += (
                f"; the cap on neighbours left out atoms within the cutoff in {self.capped} (--strict refuses these)"
            )
        return "; ".join([text, *self.notes])


@dataclass
class Predictor:
    """Predicts structures in a stream, in batches; in smaller ones once memory has run out.

    Raises, while it predicts:
        StructureError: a structure that cannot be predicted or, if `strict`, one with neighbours left out, elements
            or a composition that the task was not trained on, a charge or a spin; names it.
        AtomslimError: a structure that does not fit into memory, or a result that is not finite.

    """

    model: BlockModel
    task: str | None
    device: str
    batch_size: int
    """At most this many atoms at once; a larger structure goes alone."""
    strict: bool
    summary: PredictionSummary
    advance: Callable[[int], None]
    """Called with the number of finished structures."""
    _warned: bool = False

    def __post_init__(self) -> None:
        self._watch = Watch.over(self.model, self.task, strict=self.strict)

    def __call__(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Prediction]]:
        """Predict structures, in their order."""
        for batch in self._batches(frames):
            for frame, prediction in zip(batch, self._fitting(batch), strict=True):
                require_sound(frame, prediction, strict=self.strict)
                self.summary.add(frame, prediction.capped_fraction)
                yield frame, prediction
            self.advance(len(batch))

    def _batches(self, frames: Iterable[Frame]) -> Iterator[list[Frame]]:
        """Collect consecutive structures as long as together they have at most `batch_size` atoms."""
        waiting: list[Frame] = []
        atoms = 0
        for frame in frames:
            self._watch.look(frame.name, frame.atoms.numbers, frame.ignored)
            if waiting and atoms + len(frame.atoms) > self.batch_size:
                yield waiting
                waiting, atoms = [], 0
            waiting.append(frame)
            atoms += len(frame.atoms)
        if waiting:
            yield waiting

    def _fitting(self, frames: list[Frame]) -> list[Prediction]:
        """Predict a batch, in halves if memory runs out."""
        try:
            return predict_frames(self.model, frames, self.task, self.device)
        except _OutOfMemory:
            if len(frames) == 1:
                raise
        self._lower(sum(len(frame.atoms) for frame in frames))  # here, where the failed batch is given up
        middle = len(frames) // 2
        return self._fitting(frames[:middle]) + self._fitting(frames[middle:])

    def _lower(self, atoms: int) -> None:
        self.batch_size = min(self.batch_size, max(atoms // 2, 1))
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"out of memory with {atoms} atoms at once: continuing with at most {self.batch_size}, or fewer if "
                "necessary; a lower batch size from the start saves the attempts",
                AtomslimWarning,
                stacklevel=2,
            )


@checked
def predict(
    model: BlockModel | str | os.PathLike[str],
    structures: Atoms | str | os.PathLike[str] | Sequence[Atoms | str | os.PathLike[str]],
    *,
    task: str | None = None,
    batch_size: int = 512,
    precision: Policy | None = None,
    strict: bool = False,
    options: Mapping[str, str] | None = None,
) -> list[Results]:
    """Predict structures; return the results of each by name, in the same order.

        energies = [found["energy"] for found in atomslim.predict("mini", atoms, task="molecules")]

    Args:
        model: the model, or its file or name.
        structures: ASE's atoms, files, folders, containers or datasets, one or several.
        task: the model's task; default: its only one.
        batch_size: at most this many atoms at once; a larger structure goes alone.
        precision: see `atomslim.models.precision`; for a model that is given as a file or name.
        strict: refuse structures with neighbours left out, or outside of what the task was trained on.
        options: options of the readers of files.

    Returns:
        For each structure energy () in eV, forces (n, 3) in eV/Å, stress (3, 3) in eV/Å³ and whatever else the task
        has, in its own unit.

    Raises:
        StructureError: a structure that cannot be read or predicted.
        ConfigError: an unknown task, or an invalid batch size.

    """
    loaded = model if isinstance(model, BlockModel) else load(model, precision=precision)
    device = str(next(loaded.parameters()).device)
    require_runnable(batch_size, device.partition(":")[0])
    several = [structures] if isinstance(structures, Atoms | str | os.PathLike) else list(structures)
    predictor = Predictor(loaded, task, device, batch_size, strict, PredictionSummary(device), lambda _: None)
    return [found.results for _, found in predictor(_frames(several, options))]


def _frames(structures: Sequence[Atoms | str | os.PathLike[str]], options: Mapping[str, str] | None) -> Iterator[Frame]:
    """Give structures in memory and those of files, in their order."""
    for number, one in enumerate(structures):
        if isinstance(one, Atoms):
            yield Found(f"structure {number}", one).checked(number)
        else:
            yield from read_inputs(open_inputs([one], options))


def predict_file(  # noqa: PLR0913 - the options of a command
    model_path: str | os.PathLike[str],
    structures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    task: str | None = None,
    *,
    batch_size: int = 512,
    device: Device = "cpu",
    weights: str | None = None,
    precision: Policy | None = None,
    strict: bool = False,
    progress: bool = True,
    options: Mapping[str, str] | None = None,
) -> PredictionSummary:
    """Predict every structure of one or more files and write them, with the results, as extended XYZ.

    Energy (eV), forces (eV/Å) and, for structures with a periodic cell, stress (eV/Å³, ASE's sign and order) are
    written where ASE reads them back as calculator results, and replace results that came with the structures; scalar
    targets go to `atoms.info` by name, probabilities of labels as NAME_probability. The output appears when everything
    is done, or not at all.

    Args:
        model_path: model file, as `load` takes it.
        structures: any file that ASE reads, compressed or not; a folder, a container or the name of a dataset, as
            `atomslim.inference.inputs` says; or several of these.
        output: the .extxyz or .xyz file to write.
        task: the task to use; needed if the model has several.
        batch_size: at most this many atoms at once; a larger structure goes alone. Lowered when memory runs out.
        device: where the model runs.
        weights: which of the weights of a checkpoint, as for `load`.
        precision: number format, as for `load`.
        strict: refuse structures in which the cap on neighbours leaves out atoms within the cutoff, and those outside
            of what the task was trained on or with a charge or spin (`atomslim.models.scope`).
        progress: show it on stderr, where that is a terminal.
        options: of the readers, such as ``{"length_unit": "bohr"}``.

    Raises:
        StructureError: a structure that cannot be read or predicted; names the file and the record.
        DataError: a dataset that is missing or broken.
        CheckpointError: a model file that cannot be read.
        ConfigError: an unknown task or dataset, an unusable output name, no such device, or a precision it lacks.
        AtomslimError: a structure that does not fit into memory, or a result that is not finite.
        OSError: a file that is missing or cannot be written.

    """
    start = time.perf_counter()
    sources = listed(structures)
    _require_output(Path(output), sources)
    require_runnable(batch_size, device)
    model = load(model_path, weights=weights, device=device, precision=precision)
    inputs = open_inputs(sources, options)
    with shown_progress(shown=progress) as advance:
        predictor = Predictor(model, task, device, batch_size, strict, PredictionSummary(device), advance)
        with atomic_write(output) as temporary, temporary.open("w", encoding="utf-8") as file:
            for frame, prediction in predictor(read_inputs(inputs)):
                write_frame(file, frame.atoms, prediction.results)
    predictor.summary.seconds = time.perf_counter() - start
    return predictor.summary


def listed(structures: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Make a list of one name or several."""
    several = [structures] if isinstance(structures, str | os.PathLike) else structures
    return [os.fspath(one) for one in several]


def require_runnable(batch_size: int, device: str) -> None:
    """Raise ConfigError for an invalid batch size or device."""
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: give the number of atoms to take at once, 1 or more")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: no CUDA device is available to torch here: use cpu")


def _require_output(target: Path, sources: Sequence[str]) -> None:
    if target.suffix not in {".extxyz", ".xyz"}:
        raise ConfigError(f"{target}: predictions are written as extended XYZ: name the output .extxyz or .xyz")
    for source in map(Path, sources):
        if target.exists() and source.exists() and target.samefile(source):
            raise ConfigError(f"{target}: the output would replace the structures it is made from: name another file")
        if source.is_dir() and source.samefile(target.parent):
            raise ConfigError(
                f"{target}: the output would be among the structures it is made from: name another file or folder"
            )


def predict_frames(model: BlockModel, frames: Sequence[Frame], task: str | None, device: str) -> list[Prediction]:
    """Predict a batch; where a structure turns out to be impossible, find out which."""
    batch = concatenate([frame.batch for frame in frames]).to(device)
    try:
        with _memory_hint(frames), naming_structure(frames[0].name):
            topology = model.topology(batch, task)
            outputs = _named(model.predict(batch, task, topology), model.task(task))
    except StructureError:
        if len(frames) == 1:
            raise
        return [predict_frames(model, [frame], task, device)[0] for frame in frames]
    results = _split(outputs, batch.natoms.tolist(), {"forces", *model.atom_outputs})
    return [
        Prediction(_meaningful(frame.atoms, result), capped_fraction)
        for frame, result, capped_fraction in zip(frames, results, topology.left_out().tolist(), strict=True)
    ]


class _OutOfMemory(AtomslimError):  # noqa: N818 - named as torch's
    pass


@contextmanager
def _memory_hint(frames: Sequence[Frame]) -> Iterator[None]:
    """Say what to do when a batch does not fit into memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        atoms = sum(len(frame.atoms) for frame in frames)
        raise _OutOfMemory(
            f"{frames[0].name}: out of memory with {atoms} atoms: use a device with more memory"
        ) from error


def _named(outputs: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """Name outputs as files have them: probabilities of binary labels by suffix."""
    shown = {target.name: target.output_name for target in task.targets}
    return {shown.get(name, name): values for name, values in outputs.items()}


def _split(outputs: dict[str, Tensor], natoms: Sequence[int], by_atom: Collection[str]) -> list[Results]:
    """Split the results of a batch into its structures: those named by atom, everything else by structure."""
    arrays = {name: values.detach().double().cpu().numpy() for name, values in outputs.items()}
    dealt = {
        name: np.split(values, np.cumsum(natoms)[:-1]) if name in by_atom else list(values)
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
    if strict and prediction.capped_fraction > 0:
        raise StructureError(
            f"{frame.name}: the cap on neighbours leaves out {prediction.capped_fraction:.1%} of the pairs within the "
            "cutoff: use a model with more neighbours, or leave out --strict"
        )


@contextmanager
def shown_progress(*, shown: bool) -> Iterator[Callable[[int], None]]:
    """Give a function that counts predicted structures, and shows how many there are."""
    if not shown:
        yield lambda _: None
        return
    done = 0
    with counted("predict") as advance:

        def add(structures: int) -> None:
            nonlocal done
            done += structures
            advance(done)

        yield add
