"""A teacher's answers: to the training structures, computed once and kept in one memory-mapped file, or as labels.

    answers = kept_answers(path, teacher, tasks, options, weights)    # finds them there, or computes them
    trace = answers.trace(batch)                                      # what `teach` gives, to rounding

| part of the file | what |
|---|---|
| records | by structure, float32 or float64, see `atomslim.compress.answers` |
| ends | int64 by structure: end of its record, in numbers from the start |
| edges | uint32 by structure: CRC-32 of its edges |
| description | JSON: what the answers are of (teacher, structures, precision, layout), how many, seconds it took |
| tail | number of structures, length of the description, magic |

Structures count through the training sets of all tasks, as in `Mixture`. Answers hold for structures as they are in the
data: there are none for a batch in which one has other edges than it had for the teacher.
"""

import hashlib
import json
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch

from atomslim.atoms import Sample
from atomslim.compress.answers import Layout, edges_of
from atomslim.compress.distill import Weights, teach
from atomslim.data import Dataset
from atomslim.data.in_memory import Samples
from atomslim.data.loader import Batch
from atomslim.data.mixing import Mixture, TaskData
from atomslim.evaluation.batches import batches
from atomslim.files import alone_in, atomic_write
from atomslim.models.block_model import BlockModel, Trace
from atomslim.parsing import parse_json
from atomslim.train.dataloaders import ordered_batches
from atomslim.train.options import RunOptions
from atomslim.train.run_state import model_digest
from atomslim.train.tasks import LearningTask

VERSION = 1
"""Version of the format; answers of another version are recomputed."""

_MAGIC = b"ATOMSLIM-ANSWERS"
_TAIL = struct.Struct("<QQ16s")


class Answers:
    """A file of answers; any number of processes may read it at once."""

    def __init__(self, path: Path) -> None:
        """Map a file that is known to be whole."""
        count, self.description = _front(path)
        self.layout = Layout(**self.description["identity"]["layout"])
        numbers = self.description["numbers"]
        self._numbers = np.memmap(path, self.layout.dtype, mode="r", shape=(numbers,))
        with path.open("rb") as file:
            file.seek(self._numbers.nbytes)
            self._bounds = np.concatenate([[0], np.frombuffer(file.read(8 * count), "<i8")])
            self._checksums = np.frombuffer(file.read(4 * count), "<u4")

    @classmethod
    def stored(cls, path: Path, identity: dict[str, Any]) -> Self | None:
        """Open the answers of a file, or return None if there are none of this identity."""
        found = _front(path) if path.is_file() else (0, {})
        return cls(path) if found[1].get("identity") == identity else None

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self._checksums)

    def trace(self, batch: Batch, *, same_edges: bool = True) -> Trace | None:
        """Return the teacher's answer to a planned batch; None if a structure has other edges than it had for it.

        Without ``same_edges`` the batch has other graphs than the teacher's, and nothing of edges is kept.
        """
        if batch.plan is None:
            return None
        numbers, edges = batch.plan.numbers, edges_of(batch)
        if same_edges and (edges.checksums != self._checksums[numbers]).any():
            return None
        bounds = zip(self._bounds[numbers], self._bounds[numbers + 1], strict=True)
        return self.layout.trace([self._numbers[start:end] for start, end in bounds], batch, edges)


def kept_answers(
    path: Path,
    teacher: BlockModel,
    tasks: Sequence[LearningTask],
    options: RunOptions,
    weights: Weights,
    *,
    precision: str = "32",
) -> Answers:
    """Return the teacher's answers to all training structures from a file, which is written first if necessary.

    If there are several processes, one writes while the others wait. Raises OSError if the file cannot be written.
    """
    layout = Layout.of(teacher, weights)
    identity = {
        "version": VERSION,
        "teacher": model_digest(teacher),
        "precision": precision,
        "structures": {task.name: _checksum_of_structures(task) for task in tasks},
        "layout": asdict(layout),
    }
    with alone_in(path.parent):
        found = Answers.stored(path, identity)
        if found is not None:
            return found
        gpu = options.accelerator != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda") if gpu else next(teacher.parameters()).device
        planned = (ordered_batches(task.part("train"), options, teacher.topology) for task in tasks)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            training = (batch.to(device) for batches_of_task in planned for batch in batches_of_task)
            _write(file, layout, teacher, training, weights, identity)
        return Answers(path)


def _front(path: Path) -> tuple[int, dict[str, Any]]:
    """Return number of structures and description of a file; nothing if it is not ours."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _TAIL.size, 0))
        tail = file.read()
        if not tail.endswith(_MAGIC) or len(tail) < _TAIL.size:
            return 0, {}
        count, length, _ = _TAIL.unpack(tail)
        file.seek(max(size - _TAIL.size - length, 0))
        try:
            return count, dict(parse_json(file.read(length)))
        except (ValueError, TypeError):
            return 0, {}


def labelled_by(teacher: BlockModel, part: TaskData, task: str, batch_size: int) -> Dataset:
    """Return a set with a teacher's predictions of a task as labels."""
    samples = [part[index] for index in range(len(part))]
    answered: list[Sample] = []
    for batch in batches(teacher, task, samples, batch_size):
        predicted = teacher.predict(batch.atoms, task, batch.topology)
        sizes = batch.atoms.natoms.tolist()
        for number, forces in enumerate(
            predicted["forces"].split(sizes) if "forces" in predicted else [None] * len(sizes)
        ):
            targets = {
                name: (forces if name == "forces" else values[number]).double().cpu().numpy()
                for name, values in predicted.items()
                if name != "stress"
            }
            answered.append(replace(samples[len(answered)], targets=targets))
    return Samples(answered, name=f"{part.dataset.name}, as the teacher answers")


def training_size(tasks: Sequence[LearningTask]) -> tuple[int, int]:
    """Return the numbers of atoms and, as estimated, of edges of all training structures."""
    parts = [task.part("train") for task in tasks]
    atoms = sum(int(np.asarray(part.dataset.natoms)[part.numbers].sum()) for part in parts)
    return atoms, sum(int(part.costs.sum()) for part in parts)


def passes(tasks: Sequence[LearningTask], options: RunOptions) -> float:
    """Estimate how often a run sees its structures; 0 if it is limited by time only."""
    mixture = Mixture([task.part("train") for task in tasks])
    each = options.batch_size if options.batch_cost is None else options.batch_cost / mixture.costs.mean()
    counted = [options.epochs, None if options.steps is None else options.steps * each / len(mixture)]
    return min((float(passes) for passes in counted if passes is not None), default=0.0)


def _write(
    file: BinaryIO,
    layout: Layout,
    teacher: BlockModel,
    training: Iterator[Batch],
    weights: Weights,
    identity: dict[str, Any],
) -> None:
    start = time.perf_counter()
    ends, checksums = [0], []
    for batch in training:
        edges = edges_of(batch)
        for record in layout.records(teach(teacher, batch, weights, identity["precision"]), batch, edges):
            file.write(record.tobytes())
            ends.append(ends[-1] + len(record))
        checksums.append(edges.checksums)
    file.write(np.array(ends[1:], "<i8").tobytes() + np.concatenate(checksums).astype("<u4").tobytes())
    described = {"identity": identity, "numbers": ends[-1], "seconds": round(time.perf_counter() - start, 2)}
    text = json.dumps(described).encode()
    file.write(text + _TAIL.pack(len(ends) - 1, len(text), _MAGIC))


def _checksum_of_structures(task: LearningTask) -> str:
    """Return the SHA-256 of a task's training structures, without their labels."""
    part = task.part("train")
    found = hashlib.sha256()
    for index in range(len(part)):
        sample = part[index]
        for array in (sample.numbers, sample.positions, sample.cell, sample.pbc, sample.tags):
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
