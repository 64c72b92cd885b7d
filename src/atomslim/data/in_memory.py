"""Labelled structures in memory as a dataset, and datasets however they are given."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms import Sample
from atomslim.data.dataset import Dataset, open_dataset
from atomslim.data.registry import info as dataset_info
from atomslim.errors import ConfigError
from atomslim.words import article, number_of

Data: TypeAlias = str | Dataset | Sequence[Sample]
"""Name of a dataset, an open one, or labelled structures."""


def opened(data: Data, options: dict[str, str] | None = None) -> Dataset:
    """Open a dataset by name, with options for its reader; take an open one, or labelled structures, as they are.

    Raises ConfigError for anything else.
    """
    if isinstance(data, str):
        return open_dataset(data, options=dict(options or {}))
    if isinstance(data, Sequence):
        return Samples(cast("Sequence[Sample]", data))
    if not hasattr(data, "info"):
        raise ConfigError(
            f"data: is {article(type(data).__name__)}: give a dataset's name, an open one, or labelled structures"
        )
    return data


class Samples:
    """Structures in memory as a dataset."""

    def __init__(self, samples: Sequence[Sample], name: str = "samples") -> None:
        self.samples, self.name = list(samples), name
        self.info = dataset_info("ase_files")

    def __repr__(self) -> str:
        return f"Dataset {self.name}: {number_of(len(self), 'structure')} in memory"

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.samples)

    def __getitem__(self, number: int) -> Sample:
        """Structure `number`."""
        return self.samples[number]

    def __iter__(self) -> Iterator[Sample]:
        """All structures in order."""
        return iter(self.samples)

    @property
    def natoms(self) -> NDArray[np.int64]:
        """Number of atoms of every structure."""
        return np.array([len(sample) for sample in self.samples], dtype=np.int64)

    @property
    def groups(self) -> list[str]:
        """Group of every structure."""
        return [sample.group for sample in self.samples]
