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
from warnings import warn

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.db import connect

from atomslim.atoms.frames import bounded_arrays, files_in, format_of
from atomslim.atoms.sample import Sample
from atomslim.data.container import Container, is_container
from atomslim.data.info import DatasetInfo, Variant
from atomslim.data.known import require_structures
from atomslim.data.lmdb_file import LmdbFile
from atomslim.data.readers._common import damaged, existing
from atomslim.data.readers._frames import read_frames, readable
from atomslim.data.readers._labels import Frame, Labels, check_options
from atomslim.data.readers._units import require_total
from atomslim.data.remarks import Remarks
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.files import most_expanded
from atomslim.parsing import parse_json

INFO = DatasetInfo(
    name="file",
    title="Structures in a file",
    homepage="https://ase-lib.org/ase/io/io.html",
    licence="that of the file",
    citation="that of the file",
    level_of_theory="that of the file",
    units_in_file="eV, Å, eV/Å³ unless stated otherwise",
    note="Labels are found as energy, forces and stress in results, info, arrays and a database row's data; "
    "energy_key, forces_key, stress_key, properties and labels name others.",
    variants=(Variant(targets=("energy", "forces")),),
)

MOST_DELETED = 1000
"""Most rows that a database may have had, relative to those it has."""

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
    labels: str | tuple[str, ...] = (),
    group_key: str = "",
    energy_unit: str = "",
    length_unit: str = "Å",
    stress_unit: str = "",
    stress_factor: float = 1.0,
) -> Iterator[Sample]:
    """Give the structures of a file, in its order, with the labels they have; labels may differ between structures.

    Args:
        path: the file; or a folder of files, read in the order of their names.
        variant: empty: a file has no variants.
        energy_key: name of the energy in the file; empty: energy, REF_energy and similar names, in any case.
        forces_key: name of the forces; empty as above.
        stress_key: name of the stress; empty as above, or a virial: stress = -virial / volume.
        properties: names (or one text of names, separated by commas) of further numbers of a structure to take as
            targets, in their own units.
        labels: names, likewise, of labels of 0 and 1, or false and true, to take as targets.
        group_key: name of what a structure belongs to, for splits by group (a molecule's or trajectory's name).
        energy_unit: unit of the energy; with `length_unit` also of forces and stress. Empty: eV, and energies that look
            like totals in kcal/mol or Hartree are refused.
        length_unit: unit of positions and lattice.
        stress_unit: unit of the stress, such as GPa or kbar; empty: as the two others say. Virials are energies.
        stress_factor: multiplies the stress: -1 where compression counts as positive.

    Raises:
        ConfigError: a variant, or a unit that is not known.
        DataError: a file that is missing, cut off, damaged or of no known format; a structure with two labels that
            contradict each other, or with numbers that are not finite; a label named here that no structure has;
            energies that look like another unit's.

    """
    yield from read_noting(
        Remarks(),
        path,
        variant,
        energy_key=energy_key,
        forces_key=forces_key,
        stress_key=stress_key,
        properties=properties,
        labels=labels,
        group_key=group_key,
        energy_unit=energy_unit,
        length_unit=length_unit,
        stress_unit=stress_unit,
        stress_factor=stress_factor,
    )


def read_noting(remarks: Remarks, path: Path, variant: str = "", **options: Any) -> Iterator[Sample]:
    """Read as `read` does, with the same options, and note fields besides the labels used."""
    if variant:
        raise ConfigError(f"a file has no variants: leave {variant!r} out")
    labels = check_options(_labels(**options))
    checked = bool(options.get("energy_unit"))
    for location, frame in frames(path):
        sample = frame if isinstance(frame, Sample) else labels.sample(frame, location, remarks)
        if not checked and "energy" in sample.targets and len(sample) > 1:
            require_total(float(sample.targets["energy"]), sample.numbers, "eV", location)
            checked = True
        yield sample
    labels.require_named(remarks, path)


def _labels(
    properties: str | tuple[str, ...] = (), labels: str | tuple[str, ...] = (), energy_unit: str = "", **others: Any
) -> Labels:
    return Labels(properties=_names(properties), classes=_names(labels), energy_unit=energy_unit or "eV", **others)


def _names(given: str | tuple[str, ...]) -> tuple[str, ...]:
    names = given.split(",") if isinstance(given, str) else given
    return tuple(stripped for name in names if (stripped := name.strip()))


def frames(path: Path) -> Iterator[tuple[str, Frame | Sample]]:
    """Give the location (file and record) and the contents of every record; raises DataError as `read` does.

    Records of a container of ours, which a folder may hold, are samples already.
    """
    if existing(path).is_dir():
        yield from chain.from_iterable(map(frames, files_of(path)))
    elif is_container(path):
        yield from (
            (sample.name or f"{path}, record {location}", sample) for location, sample in enumerate(Container(path))
        )
    elif path.suffix == ".aselmdb" or is_database(path):
        yield from database_frames(path)
    else:
        yield from ((location, Frame.of(atoms)) for location, atoms in read_frames(path))


def files_of(folder: Path) -> list[Path]:
    """List a folder's files of structures in the order of their names, without locks and hidden files.

    Raises DataError where there are none, or one of no known format. Beside `.aselmdb` files, others are passed over
    with a warning.
    """
    files, others = files_in(folder)
    if not files:
        inside = ", ".join(sorted(child.name for child in folder.iterdir() if child.is_dir())) or "none"
        raise DataError(f"{folder}: the folder holds no files of structures (subfolders: {inside}): check the path")
    if others:
        names = ", ".join(file.name for file in others[:5])
        warn(f"{folder}: only its .aselmdb files are read, not {names}", AtomslimWarning, stacklevel=2)
    for file in files:
        require_structures(file)
        if file.suffix != ".aselmdb" and not is_container(file) and format_of(file) is None:
            raise DataError(f"{file}: no format that ASE knows: keep only files of structures in the folder")
    return files


def is_database(path: Path) -> bool:
    """Say whether a file is an ASE database, in SQLite or JSON, by its ending."""
    return path.suffix in {".db", ".json"}


def count(path: Path, variant: str = "") -> int | None:
    """Count the structures of a database; None for other files, which would have to be read for it."""
    if variant:
        raise ConfigError(f"a file has no variants: leave {variant!r} out")
    if existing(path).is_dir():
        counts = [count(file) for file in files_of(path)]
        return None if None in counts else sum(number for number in counts if number is not None)
    if is_container(path):
        return len(Container(path))
    if path.suffix == ".aselmdb":
        return _count_rows(LmdbFile(path))
    if path.suffix == ".db":
        with damaged(f"{path}", Exception):
            return int(connect(path, type="db").count())
    return None


def database_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    """Give the location and the contents of every row of a database; raises DataError as `read` does."""
    if path.suffix == ".aselmdb":
        yield from _lmdb_frames(path)
        return
    rows = _rows(path)
    for index in integers_from():
        location = f"{path}, record {index}"
        with readable(location), bounded_arrays():
            row = next(rows, None)
            if row is None:
                break
            frame = Frame.of(row.toatoms(), {**row.key_value_pairs, **row.data})
        yield location, frame
    if index == 0:
        raise DataError(f"{path}: the database holds no structures: check that it was written completely")


def metadata(path: Path) -> Mapping[str, Any]:
    """Give what an ASE database says about itself; raises DataError for a file that is none."""
    with damaged(f"{existing(path)}", Exception), bounded_arrays():
        return dict(connect(path, type="db").metadata)


def _rows(path: Path) -> Iterator[Any]:
    kind = "json" if path.suffix == ".json" else "db"
    with damaged(f"{existing(path)}", sqlite3.Error, ValueError, KeyError, AttributeError):
        yield from connect(path, type=kind, use_lock_file=False).select()


def _lmdb_frames(path: Path) -> Iterator[tuple[str, Frame]]:
    """Give the rows by number; deleted ones leave gaps below `nextid`."""
    file = LmdbFile(existing(path))
    if not _count_rows(file):
        raise DataError(f"{path}: the file holds no structures: check that it was written completely")
    numbers = file.numbers()
    _require_all(file, numbers)
    for number in numbers:
        location = f"{path}, record {number}"
        yield location, _frame(_json(file.get(b"%d" % number) or b"", location), location)


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


def _json(record: bytes | None, location: str) -> Any:
    """Read a packed JSON text; None where there is no record."""
    if record is None:
        return None
    with damaged(location, zlib.error, ValueError, TypeError, OverflowError):
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


def _frame(row: Any, location: str) -> Frame:
    with readable(location):
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
