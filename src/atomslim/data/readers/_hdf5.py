"""Shared by the readers of HDF5 files: opening, and groups that hold many conformations of one molecule."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.optional import data_package
from atomslim.data.readers._common import damaged, existing, floats, integers, labelled, require_keys, require_size
from atomslim.errors import DataError

_BROKEN = (OSError, RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What h5py raises for files that are damaged or have something else where a dataset is expected."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; raises DataError for a file that is cut off, damaged or something else."""
    h5py = data_package("h5py")
    with damaged(f"{existing(path)}", OSError):
        file = h5py.File(path, "r")
    with file:
        yield file


def children(group: Any, location: str) -> Iterator[tuple[str, Any]]:
    """Give the subgroups of a group in the order of their names; raises DataError for a group without any."""
    package = data_package("h5py")
    with damaged(location, *_BROKEN):
        found = [(name, member) for name, member in group.items() if isinstance(member, package.Group)]
    if not found:
        raise DataError(f"{location}: is empty, or has another layout: check that it is the right file")
    yield from found


@dataclass(frozen=True)
class Columns:
    """Names of the datasets of a group of conformations, and the factors that turn them into eV and eV/Å."""

    numbers: str
    positions: str
    energy: str
    forces: str
    energy_factor: float = 1.0
    forces_factor: float = 1.0

    def count(self, group: Any, location: str) -> int:
        """Count the conformations without reading them."""
        return _rows(group, self.energy, location)

    def natoms(self, group: Any, location: str) -> int:
        """Count the atoms without reading them."""
        return _rows(group, self.numbers, location)

    def read(self, group: Any, location: str, name: str) -> Iterator[Sample]:
        """Give the conformations of a group as samples of the group `name`.

        Raises:
            DataError: a dataset is missing, has another shape than the others, or is damaged; labels that are not
                finite.

        """
        require_keys(group.keys(), [self.numbers, self.positions, self.energy, self.forces], location)
        numbers = atomic_numbers(_array(group, self.numbers, location), location)
        energies = floats(_array(group, self.energy, location), self.energy, location)
        if energies.ndim != 1:
            raise DataError(f"{location}: {self.energy} has the shape {energies.shape} where (m,) is expected")
        shape = (len(energies), len(numbers), 3)
        positions = _shaped(group, self.positions, shape, location)
        forces = _shaped(group, self.forces, shape, location)
        for frame in range(len(energies)):
            targets = {
                "energy": np.float64(energies[frame]) * self.energy_factor,
                "forces": forces[frame] * self.forces_factor,
            }
            yield labelled(f"{location}, conformation {frame}", numbers, positions[frame], targets, group=name)


def atomic_numbers(species: NDArray[Any], location: str) -> NDArray[np.int64]:
    """Convert element symbols (bytes) or atomic numbers to atomic numbers; raises DataError for unknown symbols."""
    if species.dtype.kind not in "SO":
        return integers(species, "atomic numbers", location)
    from ase.data import atomic_numbers as table  # noqa: PLC0415

    symbols = [value.decode("ascii", "replace") if isinstance(value, bytes) else str(value) for value in species]
    unknown = [symbol for symbol in symbols if symbol not in table]
    if unknown:
        raise DataError(f"{location}: {unknown[0]!r} is not an element: check the file")
    return np.array([table[symbol] for symbol in symbols], dtype=np.int64)


def _rows(group: Any, key: str, location: str) -> int:
    require_keys(group.keys(), [key], location)
    with damaged(f"{location}, {key}", *_BROKEN):
        return int(group[key].shape[0])


def _shaped(group: Any, key: str, shape: tuple[int, ...], location: str) -> NDArray[Any]:
    array = floats(_array(group, key, location), key, location)
    if array.shape != shape:
        raise DataError(
            f"{location}: {key} has the shape {array.shape} where {shape} (conformations, atoms, 3) is expected: "
            "get the file again"
        )
    return array


def _array(group: Any, key: str, location: str) -> NDArray[Any]:
    """Read a dataset that lies in the file itself and is no larger than the file explains."""
    location = f"{location}, {key}"
    with damaged(location, *_BROKEN):
        dataset = group[key]
        if dataset.external or dataset.is_virtual or dataset.file.id != group.file.id:
            raise DataError(f"{location}: lies in another file: get a file that holds its data itself")
        require_size(dataset.nbytes, Path(group.file.filename).stat().st_size, "the dataset", location)
        return np.asarray(dataset[()])
