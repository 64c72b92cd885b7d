"""Datasets and mixtures in memory."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms import Sample
from atomslim.data.info import DatasetInfo
from atomslim.data.mixing import Mixture, TaskData
from data.made_samples import molecule


def info(*, neighbours: int = 30, periodic: bool = False) -> DatasetInfo:
    return DatasetInfo(
        name="made",
        title="",
        homepage="",
        licence="",
        citation="",
        level_of_theory="",
        units_in_file="eV, Å",
        variants=(),
        neighbours=neighbours,
        periodic=periodic,
    )


class MadeDataset:
    """Samples in a list, as atomslim.data.dataset.Dataset has it."""

    def __init__(self, samples: Sequence[Sample], name: str = "made", **about: Any) -> None:
        self.samples, self.name, self.info = list(samples), name, info(**about)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Sample:
        return self.samples[number]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    @property
    def natoms(self) -> NDArray[np.int64]:
        return np.array([len(sample) for sample in self.samples])

    @property
    def groups(self) -> list[str]:
        return [sample.group for sample in self.samples]


class Sizes(MadeDataset):
    """A dataset of which nothing but numbers of atoms may be asked."""

    def __init__(self, natoms: Sequence[int], **about: Any) -> None:
        super().__init__([], **about)
        self._natoms = np.array(natoms)

    def __len__(self) -> int:
        return len(self._natoms)

    def __getitem__(self, number: int) -> Sample:
        raise AssertionError(f"structure {number} was read")

    @property
    def natoms(self) -> NDArray[np.int64]:
        return self._natoms


def of_sizes(*sizes: int, temperature: float = 2.0, largest: int = 40) -> Mixture:
    """Tasks of so many structures of 1 to `largest` atoms."""
    generator = np.random.default_rng(0)
    tasks = [
        TaskData(f"task{index}", Sizes(generator.integers(1, largest + 1, size).tolist()), ("energy",))
        for index, size in enumerate(sizes)
    ]
    return Mixture(tasks, temperature)


def two_tasks(counts: tuple[int, int] = (23, 8)) -> Mixture:
    """Molecules with energy and forces, and others with an energy only; names tell them apart."""
    first = [molecule(seed, 2 + seed % 7, name=f"first {seed}") for seed in range(counts[0])]
    second = [
        molecule(seed, 3 + seed % 4, name=f"second {seed}", targets={"energy": 100.0 + seed})
        for seed in range(counts[1])
    ]
    return Mixture(
        [
            TaskData("first", MadeDataset(first), ("energy", "forces")),
            TaskData("second", MadeDataset(second), ("energy",)),
        ]
    )
