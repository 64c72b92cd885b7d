"""What the readers share: unit factors, the files of a folder, checks, and errors that name file and record."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import ArrayLike, NDArray

from atomslim.atoms.batch import LAST_ELEMENT, AtomsBatch, from_ase
from atomslim.atoms.sample import Sample
from atomslim.errors import DataError, StructureError, one_line
from atomslim.files import most_expanded

HARTREE = float(units.Hartree)
"""eV in one Hartree."""

BOHR = float(units.Bohr)
"""Å in one bohr."""

KCAL_PER_MOL = float(units.kcal / units.mol)
"""eV in one kcal/mol."""


def existing(path: Path) -> Path:
    """Return the path; raises DataError when there is nothing at it."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder: check the path, or download the dataset to it")
    return path


def files_at(path: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the file at `path`, or the files with one of the suffixes in the folder at `path`, sorted by name.

    Raises:
        DataError: there is nothing at `path`, or the folder has no such file.

    """
    if existing(path).is_file():
        return [path]
    found = _with_suffix(path, suffixes)
    if not found:
        raise DataError(f"{path}: has no file ending in {' or '.join(suffixes)}: check the path")
    return found


def locate(path: Path, variant: str, suffixes: Collection[str], variants: Collection[str] = ()) -> list[Path]:
    """Return the file at `path`, or the data files of a variant in the folder at `path`, sorted by name.

    The variant's subfolder is taken where there is one; else the files in the folder itself, unless the folder has the
    name of another of the `variants`. Folders that hold nothing but one folder, as archives unpack to, are passed.

    Raises:
        DataError: there is nothing at `path`, or no such file in it.

    """
    folder = existing(path)
    if folder.is_file():
        return [folder]
    while True:
        if variant and (folder / variant).is_dir():
            folder, variant = folder / variant, ""
        found = _with_suffix(folder, suffixes)
        inside = sorted(child for child in folder.iterdir() if child.is_dir())
        if found and (not variant or folder.name == variant or folder.name not in variants):
            return found
        if found or len(inside) != 1:
            break
        folder = inside[0]
    names = ", ".join(child.name for child in inside) or "none"
    wanted = f" of {variant!r}" if variant else ""
    raise DataError(f"{folder}: has no file{wanted} ending in {' or '.join(suffixes)} (subfolders: {names}): name one")


def _with_suffix(folder: Path, suffixes: Collection[str]) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name.endswith(tuple(suffixes)) and file.is_file())


def natural(path: Path) -> list[tuple[int, str]]:
    """Give a sort key that puts `10.txt` after `9.txt`."""
    return [(int(part or 0), text) for part, text in re.findall(r"(\d*)(\D*)", path.name)]


@contextmanager
def damaged(location: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds, raised by a library on a broken file, into a DataError that names the location."""
    try:
        yield
    except DataError:
        raise
    except (MemoryError, RecursionError) as error:
        raise DataError(f"{location}: damaged, or larger than memory ({one_line(error)}): download it again") from error
    except kinds as error:
        raise DataError(f"{location}: cut off or damaged ({one_line(error)}): download it again") from error


def require_keys(content: Collection[str] | Mapping[str, Any], keys: Collection[str], location: str) -> None:
    """Raise DataError, naming what is missing and what is there, unless `content` has all keys."""
    missing = [key for key in keys if key not in content]
    if missing:
        there = ", ".join(sorted(content)[:12]) or "nothing"
        raise DataError(f"{location}: has no {', '.join(missing)} (there is: {there}): check that the layout is right")


def number(value: object, what: str, location: str) -> float:
    """Give a number that is written as such, or as an array of one; raises DataError for anything else."""
    try:
        given = np.asarray(value)
        if given.dtype.kind == "b":
            raise DataError(f"{location}: {what} is true or false, not a number: check the file")
        array = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{location}: {what} is not a number: check the file") from error
    if array.size != 1:
        raise DataError(f"{location}: {what} has {array.size} values where one is expected: check the file")
    return float(array.reshape(()))


def converted(atoms: Atoms, location: str) -> AtomsBatch:
    """Convert an ASE structure; raises DataError, naming `location`, for constraints on atoms that do not exist."""
    try:
        return from_ase(atoms)
    except StructureError as error:
        raise DataError(f"{location}: {str(error).removeprefix('structure 0').lstrip(',: ')}") from error


def floats(value: ArrayLike, what: str, location: str) -> NDArray[np.float64]:
    """Convert numbers of any type to an array of their shape; raises DataError for dates, texts and objects."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{location}: the {what} are not numbers but {array.dtype}: check the file")
    return array.astype(np.float64)


def require_size(count: int, size: int, what: str, location: str) -> None:
    """Raise DataError for something of so many bytes in a file of a size: nothing real is packed so tightly."""
    if count > most_expanded(size):
        raise DataError(f"{location}: {what} would take {count:.2g} bytes, from {size} of the file: get the file again")


def integers(value: ArrayLike, what: str, location: str) -> NDArray[np.int64]:
    """Convert whole numbers of any type (some files keep atomic numbers as floats); raises DataError for others."""
    try:
        array = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{location}: the {what} are not numbers: check the file") from error
    if not np.array_equal(array, np.rint(array)) or np.abs(array).max(initial=0) >= 2**53:  # NaN too
        raise DataError(f"{location}: the {what} are not whole numbers: check the file")
    return array.astype(np.int64)


def labelled(  # noqa: PLR0913 -- a structure has this many parts
    location: str,
    numbers: ArrayLike,
    positions: ArrayLike,
    targets: Mapping[str, ArrayLike],
    *,
    cell: ArrayLike | None = None,
    pbc: ArrayLike | None = None,
    tags: ArrayLike | None = None,
    fixed: ArrayLike | None = None,
    group: str = "",
) -> Sample:
    """Make a sample (as `Sample.create`) and check that a model can learn from it.

    Raises:
        DataError: no atoms, unknown elements, shapes that do not fit each other, or numbers that are not finite; names
            `location`.

    """
    elements = integers(numbers, "atomic numbers", location)
    try:
        sample = Sample.create(
            elements,
            positions,
            targets,
            cell=cell,
            pbc=pbc,
            tags=None if tags is None else integers(tags, "tags", location),
            fixed=fixed,
            name=location,
            group=group,
        )
    except StructureError as error:
        raise DataError(str(error)) from error
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        raise DataError(f"{location}: holds something else than numbers ({one_line(error)}): check the file") from error
    _require_elements(sample)
    _require_finite(sample)
    return sample


def _require_elements(sample: Sample) -> None:
    if not len(sample):
        raise DataError(f"{sample.name}: has no atoms: remove the record")
    unknown = (sample.numbers < 1) | (sample.numbers > LAST_ELEMENT)
    if unknown.any():
        atom = int(np.flatnonzero(unknown)[0])
        raise DataError(
            f"{sample.name}: atom {atom} has the atomic number {sample.numbers[atom]}, which is not an element "
            f"(1 to {LAST_ELEMENT}): check the file"
        )


def _require_finite(sample: Sample) -> None:
    for what, values in {"positions": sample.positions, "cell": sample.cell, **sample.targets}.items():
        if np.isfinite(values).all():
            continue
        row = int(np.argwhere(~np.isfinite(values))[0][0]) if values.ndim else None
        where = "" if row is None else f" (row {row})"
        raise DataError(f"{sample.name}: {what}{where} not finite: remove the record or get the file again")
