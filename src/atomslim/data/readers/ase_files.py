"""Any file of structures: extended XYZ, whatever else ASE reads, ASE databases, and `.aselmdb` files.

The structures are the user's, and so are source, licence and citation. Energies are taken as eV, positions as Å,
stress as eV/Å³ with tension positive (ASE's sign), and other units on request (`energy_unit`, `length_unit`); factors
are those of `ase.units`. A structure is periodic where it says so: a lattice with `pbc="F F F"` is not.

An `.aselmdb` file is an LMDB with the keys "1" to "n", each a zlib-compressed JSON object with ASE's fields of a
database row, in which an array is `{"__ndarray__": [shape, type, numbers]}`.
"""

import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from itertools import count as integers_from
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.db import connect

from atomslim.atoms.frames import bounded_arrays
from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, Variant
from atomslim.data.lmdb_file import LmdbFile
from atomslim.data.readers._common import damaged, existing, files_at
from atomslim.data.readers._frames import read_frames, readable
from atomslim.data.readers._labels import Frame, Labels, check_options
from atomslim.data.readers._units import require_total
from atomslim.errors import ConfigError, DataError
from atomslim.files import most_expanded
from atomslim.parsing import parse_json

INFO = DatasetInfo(
    name="file",
    title="Structures in a file",
    homepage="https://ase-lib.org/ase/io/io.html",
    licence="that of the file",
    citation="that of the file",
    level_of_theory="that of the file",
    units_in_file="eV, Å, eV/Å³ unless said otherwise",
    note="Labels are found as energy, forces and stress in results, info, arrays and a database row's data; "
    "energy_key, forces_key, stress_key and properties name others.",
    variants=(Variant(targets=("energy", "forces")),),
)

MOST_DELETED = 1000
"""So many times the rows that are there may have been in a database once."""

_NO_ROWS = (b"nextid", b"deleted_ids", b"metadata")
_RESULTS = ("energy", "forces", "stress", "energies", "stresses", "magmoms", "charges", "dipole", "magmom")


def read(  # noqa: PLR0913 -- every file names its labels differently
    path: Path,
    variant: str = "",
    *,
    energy_key: str = "",
    forces_key: str = "",
    stress_key: str = "",
    properties: str | tuple[str, ...] = (),
    group_key: str = "",
    energy_unit: str = "",
    length_unit: str = "Å",
    stress_factor: float = 1.0,
) -> Iterator[Sample]:
    """Give the structures of a file, in its order, with the labels they have; labels may differ between structures.

    Args:
        path: the file; or a folder of `.aselmdb` files, read in the order of their names.
        variant: empty: a file has no variants.
        energy_key: name of the energy in the file; empty: energy, REF_energy and the like, in upper or lower case.
        forces_key: name of the forces; empty as above.
        stress_key: name of the stress; empty as above, or a virial: stress = -virial / volume.
        properties: names (or one text of names, separated by commas) of further numbers of a structure to take as
            targets, in their own units.
        group_key: name of what a structure belongs to, for splits by group (a molecule's or trajectory's name).
        energy_unit: unit of the energy; with `length_unit` also of forces and stress. Empty: eV, and energies that look
            like totals in kcal/mol or Hartree are refused.
        length_unit: unit of positions and lattice.
        stress_factor: multiplies the stress: -1 where compression counts as positive.

    Raises:
        ConfigError: a variant, or a unit that is not known.
        DataError: a file that is not there, cut off, damaged or of no known format; a structure without labels, with
            two that contradict each other, or with numbers that are not finite; energies that look like another unit's.

    """
    if variant:
        raise ConfigError(f"a file has no variants: leave {variant!r} out")
    labels = check_options(
        Labels(
            energy_key=energy_key,
            forces_key=forces_key,
            stress_key=stress_key,
            group_key=group_key,
            properties=tuple(name.strip() for name in properties.split(","))
            if isinstance(properties, str)
            else properties,
            energy_unit=energy_unit or "eV",
            length_unit=length_unit,
            stress_factor=stress_factor,
        )
    )
    for index, (place, frame) in enumerate(frames(path)):
        sample = labels.sample(frame, place)
        if index == 0 and not energy_unit and "energy" in sample.targets:
            require_total(float(sample.targets["energy"]), sample.numbers, "eV", place)
        yield sample


def frames(path: Path) -> Iterator[tuple[str, Frame]]:
    """Give the place (file and record) and the contents of every record; raises DataError as `read` does."""
    if existing(path).is_dir():
        yield from chain.from_iterable(map(_lmdb_frames, files_at(path, [".aselmdb"])))
    elif path.suffix == ".aselmdb":
        yield from _lmdb_frames(path)
    elif path.suffix == ".db":
        yield from database_frames(path)
    else:
        yield from ((place, Frame.of(atoms)) for place, atoms in read_frames(path))


def count(path: Path, variant: str = "") -> int | None:
    """Count the structures of a database; None for other files, which would have to be read for it."""
    if variant:
        raise ConfigError(f"a file has no variants: leave {variant!r} out")
    if existing(path).is_dir() or path.suffix == ".aselmdb":
        return sum(_count_rows(LmdbFile(file)) for file in files_at(path, [".aselmdb"]))
    if path.suffix == ".db":
        with damaged(f"{path}", Exception):
            return int(connect(path, type="db").count())
    return None


def database_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    """Give the place and the contents of every row of an ASE database (SQLite); raises DataError as `read` does."""
    rows = _rows(path)
    for index in integers_from():
        place = f"{path}, record {index}"
        with readable(place), bounded_arrays():
            row = next(rows, None)
            if row is None:
                break
            frame = Frame.of(row.toatoms(), {**row.key_value_pairs, **row.data})
        yield place, frame
    if index == 0:
        raise DataError(f"{path}: the database holds no structures: check that it was written completely")


def metadata(path: Path) -> Mapping[str, Any]:
    """Give what an ASE database says about itself; raises DataError for a file that is none."""
    with damaged(f"{existing(path)}", Exception), bounded_arrays():
        return dict(connect(path, type="db").metadata)


def _rows(path: Path) -> Iterator[Any]:
    with damaged(f"{existing(path)}", sqlite3.Error):
        yield from connect(path, type="db", use_lock_file=False).select()


def _lmdb_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    """Give the rows by number; deleted ones leave gaps below `nextid`."""
    file = LmdbFile(existing(path))
    if not _count_rows(file):
        raise DataError(f"{path}: the file holds no structures: check that it was written completely")
    numbers = file.numbers()
    _require_all(file, numbers)
    for number in numbers:
        place = f"{path}, record {number}"
        yield place, _frame(_json(file.get(b"%d" % number) or b"", place), place)


def _require_all(file: LmdbFile, numbers: Sequence[int]) -> None:
    """Raise DataError when the file announces far more rows than it has: more than were ever deleted."""
    following = file.get(b"nextid")
    if following is None:
        return
    end, deleted = (
        _json(following, f"{file.path}, nextid"),
        _json(file.get(b"deleted_ids"), f"{file.path}, deleted_ids"),
    )
    if not isinstance(end, int) or not isinstance(deleted, list | None):
        raise DataError(f"{file.path}: nextid or deleted_ids is something else than numbers: get the file again")
    if end - 1 > MOST_DELETED * (len(numbers) + len(deleted or ())):
        raise DataError(f"{file.path}: announces {end - 1} rows and holds {len(numbers)}: get the file again")


def _count_rows(file: LmdbFile) -> int:
    return file.entries - sum(file.get(key) is not None for key in _NO_ROWS)


def _json(record: bytes | None, place: str) -> Any:
    """Read a packed JSON text; None where there is no record."""
    if record is None:
        return None
    with damaged(place, zlib.error, ValueError, TypeError, OverflowError):
        unpacking, most = zlib.decompressobj(), most_expanded(len(record))
        text = unpacking.decompress(record, most)
        if not unpacking.eof:
            cut = "more than its size explains" if len(text) == most else "the end is missing"
            raise ValueError(cut)
        return parse_json(text, object_hook=_array)


def _array(content: dict[str, Any]) -> Any:
    """Turn `{"__ndarray__": [shape, type, numbers]}` into an array."""
    if "__ndarray__" not in content:
        return content
    shape, kind, numbers = content["__ndarray__"]
    dtype = np.dtype(str(kind))
    if dtype.kind not in "biufc":
        raise ValueError(f"an array of type {str(kind)[:40]}")
    return np.array(numbers, dtype=dtype).reshape(shape)


def _frame(row: Any, place: str) -> Frame:
    with readable(place):
        atoms = Atoms(
            numbers=row["numbers"],
            positions=row["positions"],
            cell=row.get("cell"),
            pbc=row.get("pbc"),
            tags=row.get("tags"),
            constraint=_fixed(row, len(row["numbers"])),
        )
    data = {**(row.get("key_value_pairs") or {}), **(row.get("data") or {})}
    return Frame(atoms, {key: row[key] for key in _RESULTS if row.get(key) is not None}, data)


def _fixed(row: Mapping[str, Any], natoms: int) -> FixAtoms | None:
    """Give the constraint of fixed atoms; others have no meaning here."""
    found = row.get("constraints") or []
    listed = list(parse_json(found) if isinstance(found, str) else found)
    indices = [index for entry in listed if entry["name"] == "FixAtoms" for index in entry["kwargs"]["indices"]]
    if not all(isinstance(index, int) and 0 <= index < natoms for index in indices):
        raise ValueError(f"a constraint fixes an atom that is none of the {natoms}")
    return FixAtoms(indices=indices) if indices else None
