"""What a model is compared with: another calculator, or labelled structures."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from ase.calculators.calculator import Calculator as AseCalculator

from atomslim.atoms import Sample
from atomslim.data.container import is_container
from atomslim.data.dataset import Dataset
from atomslim.data.in_memory import opened
from atomslim.data.known import names
from atomslim.data.readers import ase_files
from atomslim.data.registry import FILE_PREFIXES
from atomslim.data.splits import evenly
from atomslim.data.survey import survey
from atomslim.inference.named_calculators import Named, calculator_of
from atomslim.models.block_model import BlockModel
from atomslim.models.elsewhere import CALCULATOR
from atomslim.models.model_file import CHECKPOINT_ENDINGS
from atomslim.models.registry import BEST, families, located

MOST_LABELLED = 256
"""Most labelled structures that are read, evenly spaced over the data."""

LABELS = ("energy", "forces", "stress")
"""What is compared."""

Against: TypeAlias = Named | Dataset | Sequence[Sample]
"""A model, its file, a calculator, or labelled structures and their file, folder, container or dataset."""


@dataclass(frozen=True)
class Labels:
    """Labelled structures that a model is compared with."""

    name: str
    samples: tuple[Sample, ...]
    total: int
    """Number of structures in the data, of which ``samples`` may be a part."""

    def fingerprint(self) -> str:
        """Return a hash of structures and labels."""
        digest = hashlib.sha256()
        for sample in self.samples:
            for values in (sample.numbers, sample.positions, sample.cell, sample.pbc):
                digest.update(np.ascontiguousarray(values).tobytes())
            for name, label in sorted(sample.targets.items()):
                digest.update(name.encode() + np.ascontiguousarray(label).tobytes())
        return digest.hexdigest()

    def spread(self, count: int) -> list[Sample]:
        """Return at most so many, evenly spaced."""
        return _spread(self.samples, count)


def reference_of(
    source: Against,
    *,
    task: str | None = None,
    device: str | None = None,
    options: Mapping[str, str] | None = None,
) -> AseCalculator | Labels:
    """Return the calculator of a model or name, or the labelled structures of data; ``options`` are of its reader.

    Raises ConfigError, CheckpointError for an invalid model, DataError for data without energies, forces and
    stress.
    """
    if isinstance(source, BlockModel | AseCalculator):
        return calculator_of(source, task=task, device=device)
    if isinstance(source, str | os.PathLike):
        if is_model(os.fspath(source)):
            return calculator_of(source, task=task, device=device)
        source = os.fspath(source)
    dataset = opened(source, dict(options or {}))
    samples = _spread(dataset, MOST_LABELLED)
    if not any(sample.label(name) is not None for sample in samples for name in LABELS):
        survey(dataset).require(LABELS)  # lists what there is instead
    return Labels(dataset.name, tuple(samples), len(dataset))


def is_model(name: str) -> bool:
    """Say whether a name means a model or a calculator, not data; a file's content decides if its name does not."""
    prefix, _, rest = name.partition(":")
    if name.startswith(CALCULATOR):
        return not Path(rest).expanduser().exists()
    path = Path(name).expanduser()
    if path.is_dir():
        return (path / BEST).is_file()
    if path.exists() and (is_container(path) or ase_files.is_database(path)):
        return False
    if path.suffix.lower() in {".safetensors", *CHECKPOINT_ENDINGS}:
        return True
    if path.is_file():
        return any(one.recognises(path) for one in families())
    return located(name)[1] is not None or (prefix not in {*names(), *FILE_PREFIXES} and not path.suffix)


def _spread(samples: Dataset | Sequence[Sample], count: int) -> list[Sample]:
    return [samples[index] for index in evenly(len(samples), count)]
