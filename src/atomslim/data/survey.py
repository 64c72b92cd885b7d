"""Which labels the structures of a dataset have, counted over all of them.

print(survey(open_dataset("train.xyz")).line())
# energy 20/20 (REF_energy), forces 17/20 (REF_forces), stress 0/20; not used: F (n,3), free_energy
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.container import Container
from atomslim.data.dataset import Dataset, PreparedDataset, RawDataset, TooLargeError
from atomslim.data.remarks import SHOWN, Remarks
from atomslim.data.splits import evenly
from atomslim.errors import DataError

USUAL = ("energy", "forces", "stress")
"""Labels that are named for a file even where no structure has them."""

MOST = 200_000
"""Most records of a container that are checked, evenly spaced."""

HOW = (
    "name labels with the reader's options, as in --option energy_key=NAME --option forces_key=NAME (in YAML "
    "options: {energy_key: NAME})"
)
"""How to read a label with another name."""


@dataclass
class Survey:
    """How many structures have each label."""

    name: str
    structures: int = 0
    """Number of structures checked."""
    total: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    remarks: Remarks = field(default_factory=Remarks)
    usual: tuple[str, ...] = USUAL

    def add(self, sample: Sample) -> None:
        """Count one structure's labels."""
        self.structures += 1
        self.counts.update(name for name in sample.targets if sample.label(name) is not None)

    def line(self) -> str:
        """Summarise it in one line."""
        names = dict.fromkeys([*self.usual, *self.counts])
        parts = [f"{name} {self.counts[name]}/{self.structures}{self._source(name)}" for name in names]
        text = ", ".join(parts) or f"none in {self.structures} structures"
        if self.total > self.structures:
            text += f" (of {self.total}, checked {self.structures}, evenly spaced)"
        left_out = ", ".join(f"{what} in {count}" for what, count in sorted(self.remarks.left_out.items()))
        return text + (f"; left out: {left_out}" if left_out else "") + self.unused()

    def sentence(self) -> str:
        """Summarise it in one line that names the dataset."""
        return f"labels of {self.name}: {self.line()}"

    def unused(self) -> str:
        """Name the fields that look like labels and are not used, after a semicolon; empty if there are none."""
        unused = sorted(self.remarks.unused.items())
        fields = [f"{name if name.isprintable() else ascii(name)} {shape}".strip() for name, shape in unused]
        more = f" and {len(fields) - SHOWN} more" if len(fields) > SHOWN else ""
        return f"; not used: {', '.join(fields[:SHOWN])}{more}" if fields else ""

    def require(self, wanted: Sequence[str]) -> None:
        """Raise DataError unless at least one structure has one of the wanted labels."""
        if any(self.counts[name] for name in wanted):
            return
        what = ", ".join(wanted[:-1]) + (" or " if len(wanted) > 1 else "") + wanted[-1] if wanted else "a label"
        there = ", ".join(name for name, count in self.counts.items() if count)
        has = f" (they have {there})" if there else ""
        raise DataError(f"{self.name}: none of {self.structures} structures has {what}{has}{self.unused()}: {HOW}")

    def _source(self, name: str) -> str:
        """Say under which names a label was found, if not its own."""
        names = sorted(self.remarks.sources.get(name, set()) - {name})
        return f" ({', '.join(names)})" if names else ""


def survey(dataset: Dataset, numbers: Sequence[int] | NDArray[np.int64] | None = None) -> Survey:
    """Count the labels of all structures of a dataset, or of some of them.

    Cheap: only the records' layouts are read from a container; a file's structures are in memory after it, as for
    training. Raises DataError as the dataset does.
    """
    usual = USUAL if dataset.info.name == "file" else ()
    count = len(dataset) if numbers is None else len(numbers)
    found = described(Survey(dataset.name, total=count, usual=usual), dataset)
    chosen = range(count) if numbers is None else numbers
    if isinstance(dataset, PreparedDataset):
        _count_layouts(found, dataset.container, chosen)
        return found
    try:
        for number in chosen:
            found.add(dataset[int(number)])
    except TooLargeError:  # it can be read only from end to end
        found = Survey(dataset.name, usual=usual)
        for sample in dataset:
            found.add(sample)
    return described(found, dataset)


def described(found: Survey, dataset: object) -> Survey:
    """Add the remarks from reading the structures, or from preparing the container."""
    if isinstance(dataset, RawDataset):
        found.remarks = dataset.remarks
    if isinstance(dataset, PreparedDataset):
        found.remarks = Remarks.of(dataset.container.metadata.get("remarks", {}))
    return found


def _count_layouts(found: Survey, container: Container, numbers: Sequence[int] | NDArray[np.int64]) -> None:
    for index in evenly(len(numbers), MOST):
        found.structures += 1
        found.counts.update(container.labels_of(int(numbers[index])))
