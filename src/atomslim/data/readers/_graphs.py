"""Shared by the readers of pickled graph objects: LMDB shards of them, lists of them, and what their fields mean."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from ase.formula import Formula
from numpy.typing import ArrayLike, NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.lmdb_file import LmdbFile
from atomslim.data.readers._common import integers, labelled, number, require_keys
from atomslim.data.readers._npz import open_npz
from atomslim.data.unpickle import graph_fields, load, loads
from atomslim.errors import DataError

Fields = dict[str, Any]
"""The fields of a graph object by name."""


class GraphShards:
    """The graph objects of LMDB shards, by number: shards in the given order, records "0" to "n-1" in each.

    Can be pickled and sent to workers: each process opens the files itself.

    Raises:
        DataError: a file is cut off or no LMDB file; later, by record: it is missing, damaged, or no graph object.

    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.files = [LmdbFile(path) for path in paths]
        self.ends = list(accumulate(_length(file) for file in self.files))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> tuple[str, Fields]:
        """Return the location ("file, record 17") and the fields of a record; negative: from the end."""
        index = range(len(self))[index]
        shard = bisect_right(self.ends, index)
        record = index - (self.ends[shard - 1] if shard else 0)
        location = f"{self.files[shard].path}, record {record}"
        content = self.files[shard].get(str(record).encode())
        if content is None:
            raise DataError(f"{location}: missing, though the file announces more: get the file again")
        return location, graph_fields(loads(content, location), location)

    def natoms(self) -> NDArray[np.int64] | None:
        """Return the number of atoms of every record from `metadata.npz` beside the shards; None where there is none.

        Raises:
            DataError: the file is damaged, or is about another number of records.

        """
        path = self.files[0].path.with_name("metadata.npz")
        if not path.exists():
            return None
        with open_npz(path) as metadata:
            key = "natoms" if "natoms" in metadata.names else "num_nodes"
            require_keys(metadata.names, [key], str(path))
            natoms = integers(metadata.array(key), key, str(path))
        if len(natoms) != len(self):
            raise DataError(f"{path}: is about {len(natoms)} records, but the shards hold {len(self)}: remove the file")
        return natoms


def graph_list(path: Path) -> Iterator[tuple[str, Fields]]:
    """Give location and fields of each graph object of a pickled list; raises DataError for anything else."""
    content = load(path)
    if not isinstance(content, list | tuple):
        raise DataError(f"{path}: holds a {type(content).__name__} where a list is expected: check the file")
    if not content:
        raise DataError(f"{path}: is empty: remove the file")
    for record, graph in enumerate(content):
        location = f"{path}, record {record}"
        yield location, graph_fields(graph, location)


def graph_sample(
    fields: Fields, location: str, *, group: str = "", periodic: bool = True, relaxed: bool = False, shift: float = 0.0
) -> Sample:
    """Make a sample of the fields of a graph object.

    The target energy is `y` (in newer files `energy`; with `relaxed` it is `y_relaxed`, where that is present) plus
    `shift` (eV); forces are `force` or `forces` and needed unless the energy is that of the relaxed structure. Where a
    file says nothing, tags are 2, no atom is fixed, and what is `periodic` is so in all directions.

    Raises:
        DataError: fields are missing, do not fit each other, or are not finite.

    """
    require_keys(fields, ["pos", "atomic_numbers", *(["cell"] if periodic else [])], location)
    energy = _first(fields, ("y_relaxed", "y", "energy") if relaxed else ("y", "energy"), location)
    targets: dict[str, ArrayLike] = {"energy": number(fields[energy], energy, location) + shift}
    if energy != "y_relaxed" or "force" in fields or "forces" in fields:
        targets["forces"] = fields[_first(fields, ("force", "forces"), location)]
    numbers = integers(fields["atomic_numbers"], "atomic numbers", location)
    if "natoms" in fields and number(fields["natoms"], "natoms", location) != len(numbers):
        raise DataError(f"{location}: natoms is not the number of atoms, {len(numbers)}: get the file again")
    return labelled(
        location,
        numbers,
        fields["pos"],
        targets,
        cell=fields.get("cell"),
        pbc=fields.get("pbc"),
        tags=fields.get("tags"),
        fixed=fields.get("fixed"),
        group=group,
    )


def system(fields: Fields, location: str) -> str:
    """Give the system's number, `sid`, as text, and "" where the record has none."""
    if "sid" not in fields:
        return ""
    sid = fields["sid"]
    return sid if isinstance(sid, str) else f"{number(sid, 'sid', location):.0f}"


def formula(fields: Fields, location: str) -> Formula:
    """Give the sum formula of a molecule, in Hill's order."""
    require_keys(fields, ["atomic_numbers"], location)
    numbers = integers(fields["atomic_numbers"], "atomic numbers", location)
    from ase.data import chemical_symbols  # noqa: PLC0415 -- beside ase.formula

    if len(numbers) and not 0 < numbers.min() <= numbers.max() < len(chemical_symbols):
        raise DataError(f"{location}: an atomic number is not an element: check the file")
    return Formula.from_list([chemical_symbols[z] for z in numbers]).convert("hill")


def _length(file: LmdbFile) -> int:
    """Count the records: the pickled "length", else the number of keys."""
    content = file.get(b"length")
    if content is None:
        return file.entries
    length = number(loads(content, f"{file.path}, length"), "length", str(file.path))
    if not 0 <= length <= file.entries:
        raise DataError(f"{file.path}: announces {length:.0f} records in {file.entries} keys: get the file again")
    return int(length)


def _first(fields: Fields, names: Sequence[str], location: str) -> str:
    """Return the first of several names that exists."""
    found = [name for name in names if name in fields]
    if not found:
        require_keys(fields, [" or ".join(names)], location)
    return found[0]
