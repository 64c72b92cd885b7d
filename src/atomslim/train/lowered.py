"""Labels put on a model's reference energies, for tasks whose scales are the model's own."""

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms import Sample
from atomslim.data import Dataset
from atomslim.data.mixing import TaskData
from atomslim.errors import AtomslimWarning
from atomslim.evaluation.reference_gap import STRUCTURES, find_gap, lowered
from atomslim.models.block_model import BlockModel
from atomslim.train.tasks import LearningTask, Part


class Lowered:
    """A dataset whose energies lack per-element references."""

    def __init__(self, dataset: Dataset, references: dict[int, float]) -> None:
        self.dataset, self.references = dataset, references
        self.name, self.info = dataset.name, dataset.info

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.dataset)

    def __getitem__(self, number: int) -> Sample:
        """Structure `number`."""
        return lowered(self.dataset[number], self.references)

    def __iter__(self) -> Iterator[Sample]:
        """All structures in order."""
        return (lowered(sample, self.references) for sample in self.dataset)

    @property
    def natoms(self) -> NDArray[np.int64]:
        """Number of atoms of every structure."""
        return self.dataset.natoms

    @property
    def groups(self) -> list[str]:
        """Group of every structure."""
        return self.dataset.groups


def on_reference_of_model(data: LearningTask, model: BlockModel) -> LearningTask:
    """Return the task with energies on the model's reference; a warning says so where the labels are on another."""
    gap = find_gap(model, data.name, spread_over(data.part("train"), STRUCTURES))
    if gap is None:
        return data
    text = f"task {data.name}: {gap}; labels are lowered by it, and errors of energies are those after this fit"
    warnings.warn(text + "; fine-tune to move the model to the labels' reference", AtomslimWarning, stacklevel=2)
    gap = replace(
        gap, references={number: round(value, 4) for number, value in gap.references.items()}
    )  # resumed alike
    others: dict[Part, Dataset] = {part: Lowered(dataset, gap.references) for part, dataset in data.others.items()}
    return replace(data, dataset=Lowered(data.dataset, gap.references), others=others)


def spread_over(data: TaskData, count: int) -> list[Sample]:
    """Return at most so many structures, evenly over a set."""
    places = np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int)
    return [data[int(place)] for place in places]
