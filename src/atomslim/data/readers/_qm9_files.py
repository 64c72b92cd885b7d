"""The layouts that QM9 comes in, each read into molecules with their properties under our names."""

import bz2
import csv
import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from atomslim.data.readers._common import damaged, existing, number
from atomslim.data.readers._frames import read_frames
from atomslim.data.readers._labels import Frame
from atomslim.data.readers.ase_files import database_frames, metadata
from atomslim.errors import DataError

RAW = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
"""Order of the properties on the second line of an original file."""

NAMES = {
    "A": ("a", "rotational_constant_a"),
    "B": ("b", "rotational_constant_b"),
    "C": ("c", "rotational_constant_c"),
    "mu": ("mu", "dipole_moment"),
    "alpha": ("alpha", "isotropic_polarizability"),
    "homo": ("homo",),
    "lumo": ("lumo",),
    "gap": ("gap",),
    "r2": ("r2", "electronic_spatial_extent"),
    "zpve": ("zpve",),
    "U0": ("u0", "energy_u0", "internal_energy_0k"),
    "U": ("u", "u298", "energy_u"),
    "H": ("h", "h298", "enthalpy_h"),
    "G": ("g", "g298", "free_energy"),
    "Cv": ("cv", "heat_capacity"),
}
"""What the properties are called in csv files, SchNetPack's databases and extended XYZ, in lower case."""

_LONGEST = 2**20
"""Bytes of a molecule's file: real ones have a few thousand."""

_BROKEN_TAR = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError)


@dataclass(frozen=True)
class Molecule:
    """A molecule of a file: positions in Å, properties under our names; its number in GDB-9 if given."""

    location: str
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    values: dict[str, float]
    number: int | None = None

    def scaled(self, factors: Mapping[str, float]) -> "Molecule":
        """Convert the properties."""
        return replace(self, values={name: value * factors[name] for name, value in self.values.items()})


def raw_files(folder: Path) -> list[Path]:
    """Give the original files in a folder, in the order of their numbers."""
    return sorted(folder.glob("dsgdb9nsd_*.xyz"))


def read_raw(file: Path) -> Iterator[Molecule]:
    """Read an original file; raises DataError when it is cut off or has another layout."""
    with damaged(f"{file}", OSError, UnicodeDecodeError):
        text = existing(file).read_text(encoding="ascii")
    yield parse_raw(text, f"{file}")


def read_tar(file: Path) -> Iterator[Molecule]:
    """Read a tar archive of original files, plain or compressed, in its order; raises DataError as `read_raw` does."""
    found = False
    with damaged(f"{existing(file)}", *_BROKEN_TAR), _open_tar(file) as archive:
        while (member := archive.next()) is not None:
            location = f"{file}, {member.name}"
            if not member.name.endswith(".xyz") or member.isdir():
                continue
            if not member.isreg() or member.issparse() or member.size > _LONGEST:
                raise DataError(f"{location}: is a link, or no molecule of a few lines: get the archive again")
            content = archive.extractfile(member)
            if content is not None:
                found = True
                yield parse_raw(content.read().decode("ascii", "replace"), location)
            getattr(archive, "members", []).clear()  # or it would remember all of them
        _require_end(archive)
    if not found:
        raise DataError(f"{file}: has no .xyz file in it: unpack it if it is an archive of something else")


@contextmanager
def _open_tar(file: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive, packed or not, none of whose parts is read at once that is longer than any of a real one."""
    with file.open("rb") as raw:
        head = raw.read(6)
    openers = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
    opener: Any = next((opener for magic, opener in openers.items() if head.startswith(magic)), open)
    with opener(file, "rb") as plain, tarfile.open(fileobj=_Sipping(plain), mode="r:") as archive:
        yield archive


class _Sipping(io.RawIOBase):
    """A file of which only little may be read at once: a head can announce gigabytes of names."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST + tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"a part of {size} bytes, which no molecule has")
        return bytes(self._file.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())


def _require_end(archive: tarfile.TarFile) -> None:
    """Require the block of zeros that ends an archive: without it, tarfile takes a cut for the end."""
    if archive.fileobj is not None:
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the end is missing")


def parse_raw(text: str, location: str) -> Molecule:
    """Parse an original file: natoms; "gdb N" and 15 properties; atoms x y z charge; frequencies, SMILES, InChI.

    Raises:
        DataError: see `read_raw`.

    """
    lines = text.splitlines()
    head = lines[1].split() if len(lines) > 1 else []
    if len(head) != len(RAW) + 2 or head[0] != "gdb" or not _is_count(lines[0]) or not _is_count(head[1]):
        raise DataError(
            f"{location}: is not an original QM9 file (natoms, then 'gdb', number and 15 properties): check the path"
        )
    natoms = int(lines[0])
    atoms = [line.split() for line in lines[2 : natoms + 2]]
    if len(atoms) < natoms or len(lines) < natoms + 5:
        raise DataError(f"{location}: ends after {len(lines)} of {natoms + 5} lines: get the file again")
    values = {name: _float(value, name, location) for name, value in zip(RAW, head[2:], strict=True)}
    numbers, positions = _atoms(atoms, location)
    return Molecule(location, numbers, positions, values, int(head[1]))


def read_sdf(file: Path, table: Path | None) -> Iterator[Molecule]:
    """Read an SDF file with the properties in a csv file, whose rows are in the same order.

    Raises:
        DataError: a file is missing, cut off or of another layout, or the names of the molecules do not agree.

    """
    beside = [Path(f"{file}.csv"), file.with_suffix(".csv")]
    source = table or next((path for path in beside if path.is_file()), beside[0])
    rows = read_table(source)
    index = -1
    for index, block in enumerate(_sdf_blocks(file)):
        location = f"{file}, record {index}"
        row = next(rows, None)
        if row is None:
            raise DataError(f"{source}: has {index} rows, and {file.name} has more molecules: get both files again")
        name, values = row
        title = block[0].strip()
        if title and name and title != name:
            raise DataError(f"{location}: is {title}, and its row in {source.name} is {name}: get both files again")
        numbers, positions = _sdf_atoms(block, location)
        yield Molecule(location, numbers, positions, values, gdb_number(name or title))
    if next(rows, None) is not None:
        raise DataError(f"{file}: has {index + 1} molecules, and {source.name} more rows: get both files again")


def read_table(file: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Give name and properties of each row of a csv file; raises DataError for missing columns or numbers."""
    with (
        damaged(f"{existing(file)}", OSError, UnicodeDecodeError, csv.Error),
        file.open(newline="", encoding="utf-8") as lines,
    ):
        rows = csv.DictReader(lines)
        columns = _known(rows.fieldnames or [])
        if not columns:
            raise DataError(f"{file}: has no column of a QM9 property: check that it is the right file")
        for index, row in enumerate(rows):
            location = f"{file}, record {index}"
            yield (
                row.get("mol_id") or "",
                {name: _float(row[column], name, location) for name, column in columns.items()},
            )


def read_xyz(file: Path) -> Iterator[Molecule]:
    """Read extended XYZ, or one original file; raises DataError as the readers of these do."""
    with damaged(f"{file}", OSError), existing(file).open("rb") as content:
        head = content.read(200).split(b"\n")
    if file.name.startswith("dsgdb9nsd") or (len(head) > 1 and head[1].startswith(b"gdb")):
        yield from read_raw(file)
        return
    for location, atoms in read_frames(file):
        frame = Frame.of(atoms)
        yield _labelled_molecule(frame, location, {**frame.results, **frame.atoms.info})


def read_database(file: Path) -> tuple[Iterator[Molecule], dict[str, str]]:
    """Give the molecules of a SchNetPack database and the units of their properties.

    Raises:
        DataError: the file is not a database, or does not say the units.

    """
    about = metadata(file)
    units = about.get("_property_unit_dict")
    if not isinstance(units, dict):
        raise DataError(f"{file}: its metadata has no _property_unit_dict, so the units are not known")
    if str(about.get("_distance_unit", "Ang")) not in {"Ang", "Angstrom"}:
        raise DataError(f"{file}: the positions are in {about['_distance_unit']}, and Ang is expected")
    molecules = (_labelled_molecule(frame, location, frame.data) for location, frame in database_frames(file))
    return molecules, {name: str(units[column]) for name, column in _known(units).items()}


def _labelled_molecule(frame: Frame, location: str, labels: Mapping[str, Any]) -> Molecule:
    values = {name: number(labels[key], name, location) for name, key in _known(labels).items()}
    if not values:
        there = ", ".join(sorted(labels)[:12]) or "nothing"
        raise DataError(f"{location}: has no QM9 property (there is: {there}): check that it is the right file")
    atoms = frame.atoms
    return Molecule(location, atoms.numbers.astype(np.int64), atoms.positions, values)


def _known(names: Iterable[str]) -> dict[str, str]:
    """Give the names of a file that are known, by ours."""
    lower = {name.lower(): name for name in names}
    found = {ours: next((lower[name] for name in theirs if name in lower), "") for ours, theirs in NAMES.items()}
    return {ours: name for ours, name in found.items() if name}


def gdb_number(name: str) -> int | None:
    """Give the number in a molecule's name such as `gdb_21`, None without one."""
    match = re.fullmatch(r"gdb[_ ](\d+)", name.strip())
    return int(match.group(1)) if match else None


def uncharacterised(file: Path) -> frozenset[int]:
    """Give the numbers of the molecules that a list names: each line of its longest block begins with one, ascending.

    Raises:
        DataError: the file is missing or lists nothing.

    """
    with damaged(f"{existing(file)}", OSError):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    blocks: list[list[int]] = [[]]
    for line in lines:
        first = line.split()[0] if line.split() else ""
        if _is_count(first) and int(first) > (blocks[-1][-1] if blocks[-1] else 0):
            blocks[-1].append(int(first))
        elif blocks[-1]:  # a heading ends a block, and so does a total such as "3054 compounds"
            blocks.append([])
    longest = max(blocks, key=len)
    if not longest:
        raise DataError(f"{file}: lists no molecules: check that it is uncharacterized.txt of the dataset")
    return frozenset(longest)


def _is_count(text: str) -> bool:
    return re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII) is not None


def _sdf_blocks(file: Path) -> Iterator[list[str]]:
    with damaged(f"{existing(file)}", OSError, UnicodeDecodeError), file.open(encoding="utf-8") as lines:
        block: list[str] = []
        for line in lines:
            if line.startswith("$$$$"):
                yield block
                block = []
            else:
                block.append(line)
    if any(line.strip() for line in block):
        raise DataError(f"{file}: the last molecule has no end ($$$$): the file is cut off, get it again")


def _sdf_atoms(block: list[str], location: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read the atoms of a V2000 block: their number in the first three columns of the fourth line."""
    counts = block[3] if len(block) > 3 else ""
    if not _is_count(counts[:3]) or "V3000" in counts:
        raise DataError(f"{location}: is not a molecule in the V2000 format: check that it is an SDF file of QM9")
    natoms = int(counts[:3])
    rows = [line.split() for line in islice(block, 4, 4 + natoms)]
    if len(rows) < natoms or any(len(row) < 4 for row in rows):
        raise DataError(f"{location}: ends before {natoms} atoms: get the file again")
    return _atoms([[row[3], *row[:3]] for row in rows], location)


def _atoms(rows: list[list[str]], location: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Convert rows of symbol, x, y, z."""
    for atom, row in enumerate(rows):
        if len(row) < 4 or row[0] not in atomic_numbers:
            raise DataError(
                f"{location}: atom {atom} is not an element with a position ({' '.join(row)[:60]!r}): check the file"
            )
    numbers = np.array([atomic_numbers[row[0]] for row in rows], dtype=np.int64)
    positions = [
        [_float(value, f"position of atom {atom}", location) for value in row[1:4]] for atom, row in enumerate(rows)
    ]
    return numbers, np.array(positions, dtype=np.float64).reshape(-1, 3)


def _float(text: Any, what: str, location: str) -> float:
    """Convert a number that may be written as Mathematica does: 1.2*^-5."""
    try:
        return float(str(text).replace("*^", "e"))
    except ValueError as error:
        raise DataError(f"{location}: {what} is {text!r}, which is not a number: check the file") from error
