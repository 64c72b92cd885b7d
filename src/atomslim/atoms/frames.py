"""The records of a file of structures, one at a time: what all readers of such files share.

What is wrong with a file, each reader says in its own error; here are only the reasons.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from io import StringIO
from itertools import count, islice
from pathlib import Path

from ase import Atoms
from ase.io import iread
from ase.io.extxyz import read_xyz
from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat, open_with_compression

Record = Callable[[], Atoms]
"""Gives the structure of a record; that of an extended XYZ file is not parsed before."""


def format_of(path: Path) -> str | None:
    """Name ASE's format of a file; None for empty files and unknown formats."""
    try:
        return get_ioformat(filetype(str(path))).name
    except UnknownFileTypeError:
        return None


def records_of(path: Path, form: str) -> Iterator[Record]:
    """Give the records of a file in a format of ASE's, in order, without holding more than one.

    Raises:
        ValueError: a record that is cut off or does not begin with a number of atoms.
        Exception: whatever ASE's reader of the format raises.

    """
    if form == "extxyz":
        yield from _xyz_records(path)
    else:
        for atoms in iread(path, ":", format=form, do_not_split_by_at_sign=True):
            yield partial(_itself, atoms)


def numbered(
    records: Iterator[Record],
    readable: Callable[[int], AbstractContextManager[None]],
    wanted: Callable[[int], bool] | None = None,
) -> Iterator[tuple[int, Atoms | None]]:
    """Give every record its number, from 0, and its structure, or None where it is not wanted.

    Args:
        records: as `records_of` gives them.
        readable: a context in which the record of a number is read; it says what is wrong with it.
        wanted: says of a number whether its record is to be parsed; default: all are.

    """
    for number in count():
        with readable(number):
            record = next(records, None)
            if record is None:
                return
            atoms = record() if wanted is None or wanted(number) else None
        yield number, atoms


def reason(error: Exception) -> str:
    """Say in one short line why a record cannot be read."""
    if isinstance(error, KeyError):
        return f"unknown element or name {error}"
    return " ".join(str(error).strip().split("\n")[0].split())[:200] or type(error).__name__


def _itself(atoms: Atoms) -> Atoms:
    return atoms


def _xyz_records(path: Path) -> Iterator[Record]:
    """Split (extended) XYZ into records ourselves: ASE scans the whole file first and stops at a blank line."""
    with open_with_compression(str(path), "r") as lines:
        for record in _split(iter(lines)):
            yield partial(_parsed, record)


def _parsed(record: list[str]) -> Atoms:
    atoms: Atoms = next(iter(read_xyz(StringIO("".join(record)), slice(None))))
    return atoms


def _split(lines: Iterator[str]) -> Iterator[list[str]]:
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
