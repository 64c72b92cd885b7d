"""A dataset to train on: structures by number, from a prepared container or from the files as they ship.

from atomslim.data import open_dataset
data = open_dataset("rmd17:aspirin")
len(data), data[17].targets["forces"], data.natoms
"""

import os
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from atomslim.arguments import checked
from atomslim.atoms.sample import Sample
from atomslim.data.container import Container, require_current
from atomslim.data.info import DatasetInfo
from atomslim.data.known import names
from atomslim.data.registry import Source, file_info, info, require_files, resolve, written_options
from atomslim.data.remarks import Remarks
from atomslim.errors import ConfigError, DataError
from atomslim.words import number_of

MEMORY_LIMIT = 4e9
"""Bytes that a dataset read from raw files may take in memory; larger ones must be prepared."""


class Dataset(Protocol):
    """Structures by number."""

    name: str
    """As the user wrote it."""
    info: DatasetInfo

    def __len__(self) -> int:
        """Number of structures."""
        ...

    def __getitem__(self, number: int) -> Sample:
        """Structure `number`; raises IndexError when there is none."""
        ...

    def __iter__(self) -> Iterator[Sample]:
        """All structures in order."""
        ...

    @property
    def natoms(self) -> NDArray[np.int64]:
        """Number of atoms of every structure."""
        ...

    @property
    def groups(self) -> list[str]:
        """Group (molecule, system, reaction) of every structure."""
        ...


class PreparedDataset:
    """A dataset in a container: nothing is in memory, several processes may share it."""

    def __init__(self, name: str, info: DatasetInfo, container: Container) -> None:
        self.name, self.info, self.container = name, info, container

    def __repr__(self) -> str:
        return f"Dataset {self.name}: {number_of(len(self), 'structure')}, prepared in {self.container.path}"

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.container)

    def __getitem__(self, number: int) -> Sample:
        """Read structure `number`; raises DataError when its record is broken."""
        return self.container[number]

    def __iter__(self) -> Iterator[Sample]:
        """Read all structures in order."""
        return iter(self.container)

    @property
    def natoms(self) -> NDArray[np.int64]:
        """Number of atoms of every structure."""
        return self.container.natoms

    @property
    def groups(self) -> list[str]:
        """Group of every structure."""
        return self.container.groups


class TooLargeError(DataError):
    """A dataset without a container that exceeds the memory limit."""


class RawDataset:
    """A dataset read from its files: iteration streams, access by number reads everything into memory once."""

    def __init__(self, source: Source, memory_limit: float = MEMORY_LIMIT) -> None:
        require_files(source)
        self.name, self.info, self.source = source.name, source.info, source
        self._limit = memory_limit
        self._samples: list[Sample] | None = None
        self._count: int | None = None
        self.remarks = Remarks()
        """Remarks of the last reading."""

    def __repr__(self) -> str:
        count = "structures" if self._count is None else number_of(self._count, "structure")  # counting may read all
        return f"Dataset {self.name}: {count} as they are in {self.source.path}"

    def __len__(self) -> int:
        """Number of structures."""
        if self._count is None:
            counted = self.source.count()  # else one pass that keeps nothing: list(dataset) asks for the length, too
            self._count = sum(1 for _ in self) if counted is None else counted
        return self._count

    def __getitem__(self, number: int) -> Sample:
        """Structure `number`; the first call reads all, and raises DataError when they are too many for memory."""
        return self._loaded()[number]

    def __iter__(self) -> Iterator[Sample]:
        """Read all structures in order, holding one at a time."""
        return self._read() if self._samples is None else iter(self._samples)

    @property
    def natoms(self) -> NDArray[np.int64]:
        """Number of atoms of every structure."""
        return np.array([len(sample) for sample in self._loaded()], dtype=np.int64)

    @property
    def groups(self) -> list[str]:
        """Group of every structure."""
        return [sample.group for sample in self._loaded()]

    def _loaded(self) -> list[Sample]:
        if self._samples is None:
            self._samples = self._load()
        return self._samples

    def _read(self) -> Iterator[Sample]:
        self.remarks = Remarks(said=self.remarks.said)
        return self.source.read(remarks=self.remarks)

    def _load(self) -> list[Sample]:
        samples: list[Sample] = []
        size = 0
        for sample in self._read():
            samples.append(sample)
            size += (
                1000 + 20 * len(sample) + sum(array.nbytes for array in (sample.positions, *sample.targets.values()))
            )
            if size > self._limit:
                raise TooLargeError(
                    f"{self.source.path}: more than {self._limit / 1e9:.1f} GB in memory after {len(samples)} "
                    f"structures: make a container with `atomslim data prepare {self.name}`"
                )
        self._count = len(samples)
        return samples


@checked
def open_dataset(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    memory_limit: float = MEMORY_LIMIT,
    options: dict[str, Any] | None = None,
) -> Dataset:
    """Open a dataset by name (see `atomslim.data.registry`): its container if it is prepared, else its files.

    Args:
        name: such as `rmd17:aspirin`, `xyz:train.extxyz`, or the path of a container.
        root: folder of all datasets; default $ATOMSLIM_DATA, else the user's cache folder.
        memory_limit: memory limit in bytes for a dataset without a container.
        options: further arguments of its reader; a container made with others is not used.

    Raises:
        ConfigError: an unknown dataset or variant.
        DataError: its files are missing or broken, or have changed since its container was made.

    """
    source = resolve(name, root, options)
    path = source.container
    container = None if path is None else Container(path)
    if container is not None and path == source.path and source.options:
        _require_options(container, source)
    if container is None or (source.options and container.metadata.get("options") != written_options(source)):
        return RawDataset(source, memory_limit)
    require_current(container, source.path if source.prepared else None)
    return PreparedDataset(name, _info_of(container, source), container)


def _require_options(container: Container, source: Source) -> None:
    """Raise ConfigError for options with which a container without source files was not made."""
    made_with = container.metadata.get("options") or {}
    if made_with != written_options(source):
        said = ", ".join(f"{name}={value}" for name, value in made_with.items()) or "none"
        raise ConfigError(
            f"{source.path}: is a container, made with the options: {said}; others are for `atomslim data prepare`"
        )


def _info_of(container: Container, source: Source) -> DatasetInfo:
    """Find the dataset of a container that was named by its path."""
    made_from = str(container.metadata.get("dataset", "")).partition("@")[0].partition(":")[0]
    if made_from in names():
        return info(made_from)
    return file_info(container.metadata.get("options") or {}) if source.info.name == "file" else source.info
