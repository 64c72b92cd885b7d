"""The structures of a file, one at a time, with errors that name the file and the record."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ase import Atoms

from atomslim.atoms.frames import Record, format_of, numbered, reason, records_of
from atomslim.errors import StructureError


def read_frames(path: Path) -> Iterator[Atoms]:
    """Read the structures of any file that ASE reads, in order, without holding more than one.

    Raises:
        StructureError: a record cannot be read, is cut off, or there is none; names the file and the record.
        OSError: the file is missing, or may not be read.

    """
    return (atoms for _, atoms in read_numbered(path) if atoms is not None)


def read_numbered(path: Path, wanted: Callable[[int], bool] | None = None) -> Iterator[tuple[int, Atoms | None]]:
    """Read the wanted records of a file; others come as None, without being parsed if extended XYZ.

    Raises as `read_frames` does.
    """
    record = -1
    for record, atoms in numbered(_records(path), partial(_named, path), wanted):
        yield record, atoms
    if record < 0:
        raise StructureError(f"{path}: the file holds no structures; check that it was written completely")


def record_label(path: Path | str, record: int) -> str:
    """Name one record of a file as every message about it does."""
    return f"{path}: record {record} (counting from 0)"


@contextmanager
def _named(path: Path, record: int) -> Iterator[None]:
    """Say which record is unreadable, whatever ASE's reader raises; OSErrors pass through."""
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
            f"{record_label(path, record)} cannot be read: {reason(error)}; mend or remove this record"
        ) from error


def _records(path: Path) -> Iterator[Record]:
    yield from records_of(path, require_format(path))


def require_format(path: Path) -> str:
    """Name ASE's format for a file; raises StructureError for folders, empty files and unknown formats."""
    if path.is_dir():
        raise StructureError(f"{path}: is a folder; name one file of structures")
    name = format_of(path)
    if name is None:
        what = "the file is empty" if path.stat().st_size == 0 else "no format that ASE knows"
        raise StructureError(f"{path}: {what}; give a file such as .extxyz, .cif, .traj or POSCAR")
    return name
