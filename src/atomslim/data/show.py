"""Contents of a dataset: a table of statistics, and a figure of distributions."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from atomslim.atoms.batch import LAST_ELEMENT
from atomslim.atoms.sample import Sample
from atomslim.data.bins import edges
from atomslim.data.dataset import Dataset, PreparedDataset
from atomslim.data.normalise import Moments
from atomslim.data.survey import Survey, described
from atomslim.errors import ConfigError, DataError
from atomslim.files import atomic_write
from atomslim.progress import tracked
from atomslim.words import number_of

FORCE_EDGES = np.logspace(-6, 4, 101)
"""eV/Å: bins of the lengths of forces; fixed, so that one pass is enough. The outermost include everything beyond."""

FIGURE_FORMATS = {".png", ".pdf", ".svg"}
_UNITS = {"energy": "eV", "forces": "eV/Å", "stress": "eV/Å³"}
_LEVELS = " ▁▂▃▄▅▆▇█"


@dataclass
class Statistics:
    """Numbers of a dataset, collected in one pass; of each structure only its size and scalar targets are kept."""

    name: str
    natoms: list[int] = field(default_factory=list)
    elements: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LAST_ELEMENT + 1, dtype=np.int64))
    containing: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LAST_ELEMENT + 1, dtype=np.int64))
    """Number of structures in which each element occurs."""
    groups: set[str] = field(default_factory=set)
    periodic: int = 0
    fixed: int = 0
    scalars: dict[str, list[float]] = field(default_factory=dict)
    arrays: dict[str, Moments] = field(default_factory=dict)
    """Forces and stress, by component."""
    force_lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(FORCE_EDGES) - 1, dtype=np.int64))
    largest_force: float = 0.0
    units: Mapping[str, str] = field(default_factory=dict)
    classes: Collection[str] = ()
    """Targets that are binary labels, or all."""
    labels: Survey = field(default_factory=lambda: Survey(""))

    def add(self, sample: Sample) -> None:
        """Add one structure; raises DataError for an element that does not exist."""
        counts = np.bincount(sample.numbers, minlength=LAST_ELEMENT + 1)
        if len(counts) > LAST_ELEMENT + 1:
            raise DataError(f"{sample.name}: atomic number {len(counts) - 1} is not an element: check the file")
        self.labels.add(sample)
        self.natoms.append(len(sample))
        self.elements += counts
        self.containing += counts > 0
        self.groups.add(sample.group)
        self.periodic += bool(sample.pbc.any())
        self.fixed += int(sample.fixed.sum())
        for name, values in sample.targets.items():
            if values.ndim:
                self.arrays.setdefault(name, Moments()).add(values)
            else:
                self.scalars.setdefault(name, []).append(float(values))
        if "forces" in sample.targets:
            self._add_forces(sample.targets["forces"])

    def unit(self, name: str) -> str:
        """Unit of a target."""
        if self.labels_are_classes(name):
            return "0: no, 1: yes"
        return self.units.get(name, _UNITS.get(name, "eV"))

    def table(self) -> str:
        """Everything as text, a line for each number."""
        return "\n".join(f"{label:24} {value}".rstrip() for label, value in self._lines())

    def as_dict(self) -> dict[str, Any]:
        """Return the main numbers as plain data; units are those of `unit`."""
        counts = {"structures": len(self.natoms), "atoms": sum(self.natoms), "fixed atoms": self.fixed}
        shares = {chemical_symbols[one]: int(self.elements[one]) for one in np.flatnonzero(self.elements)}
        return {
            "dataset": self.name,
            **counts,
            "periodic structures": self.periodic,
            "groups": len(self.groups - {""}),
            "elements": shares,
            "scalars": {name: self._described(name, np.array(values)) for name, values in self.scalars.items()},
            "arrays": {name: {"std": one.std, "unit": self.unit(name)} for name, one in self.arrays.items()},
            "largest force": self.largest_force,
        }

    def _described(self, name: str, numbers: NDArray[np.float64]) -> dict[str, Any]:
        low, high = float(numbers.min()), float(numbers.max())
        spread = {"mean": float(numbers.mean()), "std": float(numbers.std()), "min": low, "max": high}
        return {**spread, "unit": self.unit(name)}

    def _add_forces(self, forces: NDArray[np.float64]) -> None:
        length = np.linalg.norm(forces, axis=1)
        self.force_lengths += np.histogram(np.clip(length, FORCE_EDGES[0], FORCE_EDGES[-1]), FORCE_EDGES)[0]
        self.largest_force = max(self.largest_force, float(length.max(initial=0.0)))

    def _lines(self) -> Iterator[tuple[str, str]]:
        atoms = np.array(self.natoms)
        yield "labels", self.labels.line()
        yield "dataset", self.name
        yield "structures", f"{len(atoms)} ({self.periodic} periodic), in {len(self.groups - {''})} groups"
        yield "atoms", f"{atoms.sum()} ({self.fixed} fixed)"
        yield "atoms per structure", f"{_range(atoms)}   {sparkline(np.histogram(atoms, edges(atoms, 24))[0])}"
        for number in np.argsort(-self.elements, kind="stable")[: int((self.elements > 0).sum())].tolist():
            share = self.elements[number] / atoms.sum()
            where = self.containing[number] / len(atoms)
            yield f"  {chemical_symbols[number]}", f"{share:6.1%} of the atoms, in {where:.1%} of the structures"
        for name, values in self.scalars.items():
            numbers = np.array(values)
            if self.labels_are_classes(name):
                yield name, f"yes for {int(numbers.sum())} of {len(numbers)} labels ({numbers.mean():.1%})"
                continue
            text = f"mean {numbers.mean():.8g}, std {numbers.std():.4g}, {_range(numbers)} {self.unit(name)}"
            finite = numbers[np.isfinite(numbers)]
            yield name, f"{text}   {sparkline(np.histogram(finite, edges(finite, 24))[0])}"
            if name == "energy":
                each = numbers / atoms if len(numbers) == len(atoms) else np.zeros(0)
                if len(each):
                    yield "energy per atom", f"mean {each.mean():.6g}, std {each.std():.4g} {self.unit(name)}"
        for name, moments in self.arrays.items():
            yield name, f"std of components {moments.std:.4g} {self.unit(name)}"
        if self.force_lengths.any():
            shown = np.flatnonzero(self.force_lengths)
            part = self.force_lengths[shown[0] : shown[-1] + 1]
            low, high = FORCE_EDGES[shown[0]], FORCE_EDGES[shown[-1] + 1]
            text = f"median {self._median_force():.3g}, largest {self.largest_force:.4g} eV/Å"
            yield "length of the forces", f"{text}   {sparkline(part)} ({low:.2g} to {high:.2g}, logarithmic)"

    def labels_are_classes(self, name: str) -> bool:
        """Say whether a target is a binary label, as declared by the dataset."""
        return name in self.classes or self.classes == "all"

    def _median_force(self) -> float:
        share = np.cumsum(self.force_lengths) / self.force_lengths.sum()
        index = int(np.searchsorted(share, 0.5))
        return float(np.sqrt(FORCE_EDGES[index] * FORCE_EDGES[index + 1]))


def statistics(dataset: Dataset, limit: int | None = None) -> Statistics:
    """Collect the numbers of a dataset, or of `limit` structures spread over it (over its beginning, if unprepared).

    Raises:
        DataError: there are no structures, or a file is broken.

    """
    result = Statistics(dataset.name, units=dataset.info.units, classes=dataset.info.labels)
    for sample in tracked(_chosen(dataset, limit), "show", limit):
        result.add(sample)
    if not result.natoms:
        raise DataError(f"{dataset.name}: there are no structures: check the file")
    described(result.labels, dataset)
    return result


def figure(result: Statistics) -> Figure:
    """Draw histograms of atoms, elements, every scalar target and the lengths of the forces."""
    panels = 2 + len(result.scalars) + bool(result.force_lengths.any())
    rows = -(-panels // 2)
    drawing = Figure(figsize=(10, 3.2 * rows), layout="constrained")
    axes = iter(drawing.subplots(rows, 2, squeeze=False).ravel())
    _histogram(next(axes), np.array(result.natoms), "atoms per structure", "structures")
    _bars(next(axes), result)
    for name, values in result.scalars.items():
        _histogram(next(axes), np.array(values), f"{name} ({result.unit(name)})", "structures")
    if result.force_lengths.any():
        _forces(next(axes), result)
    for unused in axes:
        unused.set_visible(False)
    drawing.suptitle(f"{result.name}: {number_of(len(result.natoms), 'structure')}")
    return drawing


def save_figure(drawing: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; raises ConfigError unless the name ends in .png, .pdf or .svg."""
    suffix = Path(path).suffix.lower()
    if suffix not in FIGURE_FORMATS:
        raise ConfigError(f"{path}: figures are written as {', '.join(sorted(FIGURE_FORMATS))}: give it that ending")
    with atomic_write(path) as temporary:
        drawing.savefig(temporary, format=suffix[1:], dpi=150)


def sparkline(counts: NDArray[Any]) -> str:
    """Draw a histogram in one line of text; non-empty bins are visible."""
    top = max(int(counts.max(initial=0)), 1)
    heights = np.ceil(counts / top * (len(_LEVELS) - 1)).astype(int)
    return "".join(_LEVELS[height] for height in heights)


def _chosen(dataset: Dataset, limit: int | None) -> Iterable[Sample]:
    if limit is None:
        yield from dataset
    elif isinstance(dataset, PreparedDataset):
        chosen = np.unique(np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).astype(int))
        yield from (dataset[number] for number in chosen.tolist())
    else:
        yield from (sample for sample, _ in zip(dataset, range(limit), strict=False))


def _range(values: NDArray[Any]) -> str:
    return f"{values.min():.8g} to {values.max():.8g}, median {np.median(values):.8g}"


def _histogram(axis: Axes, values: NDArray[Any], label: str, count: str) -> None:
    finite = values[np.isfinite(values)]
    axis.hist(finite, bins=edges(finite, 50))
    axis.set_xlabel(label)
    axis.set_ylabel(count)


def _bars(axis: Axes, result: Statistics) -> None:
    order = np.argsort(-result.elements, kind="stable")[: min(30, int((result.elements > 0).sum()))]
    axis.bar([chemical_symbols[number] for number in order.tolist()], result.elements[order])
    axis.set_ylabel("atoms")
    axis.set_yscale("log")
    axis.tick_params(axis="x", labelsize=7)


def _forces(axis: Axes, result: Statistics) -> None:
    shown = np.flatnonzero(result.force_lengths)
    axis.stairs(result.force_lengths, FORCE_EDGES, fill=True)
    axis.set_xscale("log")
    axis.set_xlim(FORCE_EDGES[shown[0]], FORCE_EDGES[shown[-1] + 1])
    axis.set_xlabel("length of the force on an atom (eV/Å)")
    axis.set_ylabel("atoms")
