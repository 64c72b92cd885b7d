"""The structures of a file that ASE reads, one at a time, with errors that name the file and the record."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ase import Atoms

from atomslim.atoms.frames import Record, format_of, numbered, reason, records_of
from atomslim.data.readers._common import existing
from atomslim.errors import DataError


def read_frames(path: Path) -> Iterator[tuple[str, Atoms]]:
    """Give the location (file and record) and the structure of every record, in order, without holding more than one.

    Raises:
        DataError: the file is missing or has no known format; a record cannot be read, is cut off, or there is none.

    """
    record = -1
    for record, atoms in numbered(_records(path), lambda record: readable(_location(path, record))):
        if atoms is not None:
            yield _location(path, record), atoms
    if record < 0:
        raise DataError(f"{path}: the file holds no structures: check that it was written completely")


@contextmanager
def readable(location: str) -> Iterator[None]:
    """Say which record is unreadable, whatever ASE's reader raises."""
    try:
        yield
    except DataError:
        raise
    except ModuleNotFoundError as error:
        raise DataError(f"{location}: reading this format needs the Python package {error.name}: install it") from error
    except Exception as error:
        raise DataError(f"{location}: cannot be read: {reason(error)}: mend or remove this record") from error


def _location(path: Path, record: int) -> str:
    return f"{path}, record {record}"


def _records(path: Path) -> Iterator[Record]:
    yield from records_of(path, _format(path))


def _format(path: Path) -> str:
    """Name ASE's format of a file; only folders, empty files and unknown formats have none."""
    if existing(path).is_dir():
        raise DataError(f"{path}: is a folder: name one file of structures")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty: check that it was written completely")
    name = format_of(path)
    if name is None:
        raise DataError(f"{path}: no format that ASE knows: give a file such as .extxyz, .traj or .db")
    return name
