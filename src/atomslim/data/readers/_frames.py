"""The structures of a file that ASE reads, one at a time, with errors that name the file and the record."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from itertools import count, islice
from pathlib import Path

from ase import Atoms
from ase.io import iread
from ase.io.extxyz import read_xyz
from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat, open_with_compression

from atomslim.data.readers._common import existing
from atomslim.errors import DataError


def read_frames(path: Path) -> Iterator[tuple[str, Atoms]]:
    """Give the place (file and record) and the structure of every record, in order, without holding more than one.

    Raises:
        DataError: the file is not there or has no known format; a record cannot be read, is cut off, or there is none.

    """
    records = _records(path)
    for record in count():
        place = f"{path}, record {record}"
        with readable(place):
            atoms = next(records, None)
        if atoms is None:
            break
        yield place, atoms
    if record == 0:
        raise DataError(f"{path}: the file holds no structures: check that it was written completely")


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Say which record is unreadable, whatever ASE's reader raises."""
    try:
        yield
    except DataError:
        raise
    except ModuleNotFoundError as error:
        raise DataError(f"{place}: reading this format needs the Python package {error.name}: install it") from error
    except Exception as error:
        raise DataError(f"{place}: cannot be read: {_reason(error)}: mend or remove this record") from error


def _records(path: Path) -> Iterator[Atoms]:
    name = _format(path)
    if name == "extxyz":
        yield from _xyz_structures(path)
    else:
        yield from iread(path, ":", format=name, do_not_split_by_at_sign=True)


def _format(path: Path) -> str:
    """Name ASE's format of a file; only folders, empty files and unknown formats have none."""
    if existing(path).is_dir():
        raise DataError(f"{path}: is a folder: name one file of structures")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty: check that it was written completely")
    try:
        return get_ioformat(filetype(str(path))).name
    except UnknownFileTypeError as error:
        raise DataError(f"{path}: no format that ASE knows: give a file such as .extxyz, .traj or .db") from error


def _xyz_structures(path: Path) -> Iterator[Atoms]:
    """Split (extended) XYZ into records ourselves: ASE scans the whole file first and stops at a blank line."""
    with open_with_compression(str(path), "r") as lines:
        for record in _xyz_records(iter(lines)):
            yield from read_xyz(StringIO("".join(record)), slice(None))


def _xyz_records(lines: Iterator[str]) -> Iterator[list[str]]:
    header = _next_filled(lines)
    while header:
        atoms = _atom_count(header)
        record = [header, *islice(lines, atoms + 1)]
        if len(record) < atoms + 2:
            raise ValueError(f"the file ends after {max(len(record) - 2, 0)} of {atoms} atoms")
        header = _next_filled(lines)
        while header.lstrip().startswith("VEC"):  # cell vectors as pseudo-atoms after the record
            record.append(header)
            header = _next_filled(lines)
        yield record


def _next_filled(lines: Iterator[str]) -> str:
    return next((line for line in lines if line.strip()), "")


def _atom_count(header: str) -> int:
    if not header.strip().isdigit():
        raise ValueError(f"expected the number of atoms, found {header.strip()[:40]!r}")
    return int(header)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"unknown element or name {error}"
    return " ".join(str(error).strip().split("\n")[0].split())[:200] or type(error).__name__
