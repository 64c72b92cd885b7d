"""The structures of a file, one at a time, with errors that name the file and the record."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import StringIO
from itertools import count, islice
from pathlib import Path

from ase import Atoms
from ase.io import iread
from ase.io.extxyz import read_xyz
from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat, open_with_compression

from atomslim.errors import StructureError


def read_frames(path: Path) -> Iterator[Atoms]:
    """Read the structures of any file that ASE reads, in order, without holding more than one.

    Raises:
        StructureError: a record cannot be read, is cut off, or there is none; names the file and the record.
        OSError: the file is not there, or may not be read.

    """
    records = _records(path)
    for record in count():
        with _named(path, record):
            atoms = next(records, None)
        if atoms is None:
            break
        yield atoms
    if record == 0:
        raise StructureError(f"{path}: the file holds no structures; check that it was written completely")


def read_numbered(path: Path, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Atoms | None]]:
    """Read the wanted records of a file; others come as None, of an extended XYZ file without being parsed.

    Raises as `read_frames` does.
    """
    records = _raw_records(path)
    for record in count():
        with _named(path, record):
            raw = next(records, None)
            if raw is None:
                break
            atoms = None if not wanted(record) else raw() if callable(raw) else raw
        yield record, atoms
    if record == 0:
        raise StructureError(f"{path}: the file holds no structures; check that it was written completely")


def place(path: Path, record: int) -> str:
    """Name one record of a file as every message about it does."""
    return f"{path}: record {record} (counting from 0)"


@contextmanager
def _named(path: Path, record: int) -> Iterator[None]:
    """Say which record is unreadable, whatever ASE's reader raises; a refusal by the system says it by itself."""
    try:
        yield
    except StructureError:
        raise
    except ModuleNotFoundError as error:
        raise StructureError(
            f"{path}: reading this format needs the Python package {error.name}: install it"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise StructureError(
            f"{place(path, record)} cannot be read: {_reason(error)}; mend or remove this record"
        ) from error


def _records(path: Path) -> Iterator[Atoms]:
    for raw in _raw_records(path):
        yield raw() if callable(raw) else raw


def _raw_records(path: Path) -> Iterator[Callable[[], Atoms] | Atoms]:
    """Give each record as a structure or, of an extended XYZ file, as a function that parses it."""
    name = _format(path)
    if name == "extxyz":
        yield from _xyz_structures(path)
    else:
        yield from iread(path, ":", format=name, do_not_split_by_at_sign=True)


def _format(path: Path) -> str:
    """Name ASE's format for a file; only folders, empty files and unknown formats have none."""
    if path.is_dir():
        raise StructureError(f"{path}: is a folder; name one file of structures")
    try:
        return get_ioformat(filetype(str(path))).name
    except UnknownFileTypeError as error:
        reason = "the file is empty" if path.stat().st_size == 0 else "no format that ASE knows"
        raise StructureError(f"{path}: {reason}; give a file such as .extxyz, .cif, .traj or POSCAR") from error


def _xyz_structures(path: Path) -> Iterator[Callable[[], Atoms]]:
    """Split (extended) XYZ into records ourselves: ASE scans the whole file first and stops at a blank line."""
    with open_with_compression(str(path), "r") as lines:
        for record in _xyz_records(iter(lines)):
            yield partial(_parsed, record)


def _parsed(record: list[str]) -> Atoms:
    atoms: Atoms = next(iter(read_xyz(StringIO("".join(record)), slice(None))))
    return atoms


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
    return str(error).strip().split("\n")[0] or type(error).__name__
