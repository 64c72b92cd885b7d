"""The records of a file of structures, one at a time: what all readers of such files share.

Each reader raises its own errors; only the reasons are given here.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from io import StringIO
from itertools import count, islice
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
from ase import Atoms
from ase.io import iread, jsonio
from ase.io.extxyz import read_xyz
from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat, open_with_compression

from atomslim.atoms.xyz_header import fields
from atomslim.errors import AtomslimWarning
from atomslim.files import most_expanded

LONGEST_ITEM = 1024
"""Bytes of one number or text of an array."""

Record = Callable[[], Atoms]
"""Gives the structure of a record; extended XYZ is only parsed then."""


def format_of(path: Path) -> str | None:
    """Name ASE's format of a file; None for empty files and unknown formats."""
    try:
        return get_ioformat(filetype(str(path))).name
    except UnknownFileTypeError:
        return None


def files_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """List a folder's files of structures in the order of their names, and the files that are skipped.

    Hidden files and those that databases leave behind (locks, journals) are in neither list. Other files
    beside `.aselmdb` files only describe them.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and not _is_no_data(file.name))
    databases = [file for file in files if file.suffix == ".aselmdb"]
    return (databases, [file for file in files if file not in databases]) if databases else (files, [])


def _is_no_data(name: str) -> bool:
    return name.startswith(".") or name == "lock.mdb" or name.endswith(("-lock", ".lock", "-journal", "-wal", "-shm"))


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


@contextmanager
def bounded_arrays() -> Iterator[None]:
    """Let ASE make no array from JSON that is larger than its numbers: ASE would repeat one of them."""
    usual = jsonio.create_ndarray

    def careful(shape: Any, dtype: Any, data: Any) -> Any:
        kind, count = np.dtype(dtype), int(np.prod(shape, dtype=object))
        given = np.size(data) // (2 if kind.kind == "c" else 1)
        if kind.kind not in "biufcU" or kind.itemsize > LONGEST_ITEM or count != given:
            raise ValueError(f"an array of {count} {str(dtype)[:40]} described by {given} values")
        return usual(shape, dtype, data)  # type: ignore[no-untyped-call]

    jsonio.create_ndarray = careful
    try:
        yield
    finally:
        jsonio.create_ndarray = usual


def numbered(
    records: Iterator[Record],
    readable: Callable[[int], AbstractContextManager[None]],
    wanted: Callable[[int], bool] | None = None,
) -> Iterator[tuple[int, Atoms | None]]:
    """Give every record its number, from 0, and its structure, or None where it is not wanted.

    Args:
        records: as `records_of` gives them.
        readable: a context in which the record of a number is read; it says what is wrong with it.
        wanted: whether the record with a number is to be parsed; default: all are.

    """
    for number in count():
        with readable(number), bounded_arrays():
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
    most = most_expanded(path.stat().st_size)
    with open_with_compression(str(path), "r") as lines:
        for record in _split(_lines(lines, most), most):
            yield partial(_parsed, record)


def _lines(file: Any, most: int) -> Iterator[str]:
    """Give the lines of a file; raises ValueError for one that is longer than the file's size explains."""
    while line := file.readline(most):
        if len(line) == most:
            raise ValueError("a line is longer than the file's size explains")
        yield line


def _parsed(record: list[str]) -> Atoms:
    _require_columns(record)
    _say_unnamed_columns(record)
    atoms: Atoms = next(iter(read_xyz(StringIO("".join(record)), slice(None), properties_parser=fields)))
    return atoms


def _require_columns(record: list[str]) -> None:
    """Raise ValueError for columns of more numbers than a line has characters: ASE would allocate them."""
    announced = re.search(r"Properties=(\S*)", record[1], re.IGNORECASE)
    counts = re.findall(r"\d+", announced[1]) if announced else []
    if any(len(digits) > 6 or int(digits) > max(map(len, record[2:]), default=0) for digits in counts):
        raise ValueError("Properties announces more columns than the lines of atoms have")


def _say_unnamed_columns(record: list[str]) -> None:
    """Warn once if rows have more columns than are declared: these are not read."""
    declared = re.search(r"properties\s*=\s*\"?([^\s\"]+)", record[1], flags=re.IGNORECASE)
    counts = re.findall(r":(\d+)(?=:|$)", declared[1]) if declared else ["1", "3"]
    more = len(record[2].split()) - sum(map(int, counts)) if len(record) > 2 else 0
    if more > 0:
        text = (
            f"{more} columns of an extended XYZ file have no name in Properties and are not read: if they are forces, "
        )
        warn(f"{text}write Properties=species:S:1:pos:R:3:forces:R:3", AtomslimWarning, stacklevel=2)


def _split(lines: Iterator[str], most: int) -> Iterator[list[str]]:
    header = _next_filled(lines).removeprefix("\ufeff")  # the byte order mark that some editors write
    while header:
        atoms = _atom_count(header)
        record = [header, *taken(lines, atoms + 1, most)]
        if len(record) < atoms + 2:
            raise ValueError(f"the file ends after {max(len(record) - 2, 0)} of {atoms} atoms")
        header = _next_filled(lines)
        while header.lstrip().startswith("VEC"):  # cell vectors as pseudo-atoms after the record
            record.append(header)
            header = _next_filled(lines)
        yield record


def taken(lines: Iterator[str], count: int, most: int) -> Iterator[str]:
    """Give so many lines; raises ValueError when they are more than a file of this size explains."""
    size = 0
    for line in islice(lines, count):
        size += len(line)
        if size > most:
            raise ValueError("a record is longer than the file's size explains")
        yield line


def _next_filled(lines: Iterator[str]) -> str:
    return next((line for line in lines if line.strip()), "")


def _atom_count(header: str) -> int:
    if not re.fullmatch(r"\d+", header.strip(), re.ASCII):
        raise ValueError(f"expected the number of atoms, found {header.strip()[:40]!r}")
    return int(header.strip()[:18])
