"""What a run learns from, by content: its models and its data, so that a resumed run is the same run.

A model is known by the SHA-256 of all that its predictions depend on, whatever its file is called. Data is known by the
number of its structures and a SHA-256 over a CRC-32 of each of them, labels included: a container's index has these,
and structures in memory are encoded as a container's would be. Of a dataset of another class, which may be costly to
read, up to 1000 structures are taken, evenly over it.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomslim.data import Dataset
from atomslim.data.dataset import PreparedDataset, RawDataset
from atomslim.data.in_memory import Samples
from atomslim.data.record import encode
from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.train.lowered import Lowered
from atomslim.train.tasks import LearningTask

READ = 1000
"""Structures that are read of a dataset of an unknown class."""


def origin(
    models: Mapping[str, BlockModel], tasks: Sequence[LearningTask], known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what a run notes of its models, by their parts in it, and of its data, by task and set.

    Models that are computed anew when a run goes on, perhaps with other last digits, are ``known`` by what they are
    computed from.
    """
    data = {task.name: data_identity(task.dataset) for task in tasks}
    for task in tasks:  # whose other sets may have a teacher's answers for labels, which differ in their last digits
        own = {f"{task.name}, {part}": other for part, other in task.others.items()}
        data |= {name: data_identity(other, labelled=not task.unlabelled) for name, other in own.items()}
    found = {name: (known or {}).get(name) or model_digest(model) for name, model in models.items()}
    return {"models": found, "data": data}


def model_digest(model: BlockModel) -> str:
    """Return the SHA-256 of all that a model's answers depend on."""
    tasks = [task.model_dump(mode="json") for task in model.tasks.values()]
    said = [type(model).__name__, _configuration(model), tasks, list(model.block_ids)]
    found = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _configuration(model: BlockModel) -> Any:
    """Return a model's sizes and settings, as its family writes them into files; nothing for one of no family."""
    try:
        return family_of(model).configuration(model).model_dump(mode="json")
    except ConfigError:
        return None


def data_identity(dataset: Dataset, *, labelled: bool = True) -> dict[str, Any]:
    """Return number and checksum of a dataset's structures, with their labels if they count, without their names."""
    if isinstance(dataset, Lowered):  # its references follow from the same labels and the teacher
        dataset = dataset.dataset
    count = len(dataset.natoms)  # which reads a file once, where its length alone would be one pass more
    if isinstance(dataset, PreparedDataset):
        checksums = np.asarray(dataset.container.index.crc, "<u4")
    else:
        whole = isinstance(dataset, RawDataset | Samples)
        numbers = np.linspace(0, count - 1, count if whole else min(READ, count)).round()
        changes: dict[str, Any] = {"name": ""} if labelled else {"name": "", "targets": {}}
        bare = (replace(dataset[int(number)], **changes) for number in numbers)
        checksums = np.array([zlib.crc32(encode(sample)) for sample in bare], "<u4")
    return {"structures": count, "sha256": hashlib.sha256(checksums.tobytes()).hexdigest()}


def code_digest() -> str:
    """Return a checksum of this program's source, which may change while its version stays the same."""
    found = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:16]
