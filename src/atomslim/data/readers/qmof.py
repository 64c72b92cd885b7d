"""QMOF: metal-organic frameworks relaxed with PBE-D3(BJ), and their band gaps.

Source: https://doi.org/10.6084/m9.figshare.13147324 (CC BY 4.0), by Rosen et al., Matter 4, 1578 (2021), and npj
Comput. Mater. 8, 112 (2022).

In the file: eV and Å, nothing to convert. Two layouts are read: `qmof.json` with `qmof_structure_data.json` (pymatgen
dictionaries: the element is in a site's `species`, its `label` may be any text), or a csv file of gaps (a column
refcode or qmof_id, and BG_PBE or outputs.pbe.bandgap) with one CIF each (the element is in `_atom_site_type_symbol`).
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.io.cif import CIFBlock, parse_cif

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, Variant
from atomslim.data.readers._common import existing, labelled, number
from atomslim.data.readers._frames import readable
from atomslim.data.readers._json_stream import read_array
from atomslim.data.readers._pymatgen import crystal
from atomslim.errors import ConfigError, DataError

INFO = DatasetInfo(
    name="qmof",
    title="QMOF",
    homepage="https://doi.org/10.6084/m9.figshare.13147324",
    licence="CC BY 4.0",
    citation="A. S. Rosen, S. M. Iyer, D. Ray, Z. Yao, A. Aspuru-Guzik, L. Gagliardi, J. M. Notestein, R. Q. Snurr, "
    "Matter 4, 1578 (2021); A. S. Rosen, V. Fung, P. Huck, et al., npj Comput. Mater. 8, 112 (2022)",
    level_of_theory="PBE (structures: PBE-D3(BJ))",
    units_in_file="eV, Å",
    note="Unpack qmof_database.zip of the homepage by hand. Neighbours: 30 up to 200 atoms, 10 up to 300, 5 above. "
    "Predictions are means over atoms, or sums as an option.",
    variants=(Variant(targets=("band_gap",), count=20_372),),
    cutoff=19.0,
    neighbours=30,
    periodic=True,
)

_PROPERTIES, _STRUCTURES = "qmof.json", "qmof_structure_data.json"
_NAMES = ("refcode", "qmof_id", "name")
_FULL = 0.999


def read(
    path: Path, variant: str = "", *, functional: str = "pbe", cifs: Path | None = None, skip_missing: bool = False
) -> Iterator[Sample]:
    """Give the structures with the target `band_gap` (eV), in the order of the file of structures, or of the csv.

    Structures without a gap of this functional are left out.

    Args:
        path: the folder that holds the pair of JSON files (or either of them), or a csv file (or the folder with it).
        variant: empty: the dataset has none.
        functional: pbe, hle17, hse06_10hf or hse06.
        cifs: folder of the CIFs named in the csv; None: that of the csv, or `relaxed_structures` in it.
        skip_missing: leave out structures whose CIF is missing instead of refusing.

    Raises:
        ConfigError: a variant.
        DataError: a file that is missing, cut off, damaged or of another layout; a structure with partly occupied
            sites, or without the element's symbol; no structure with such a gap.

    """
    if variant:
        raise ConfigError(f"qmof has no variants: leave {variant!r} out")
    folder = existing(path) if path.is_dir() else path.parent
    if path.suffix != ".csv" and (pair := _json_pair(folder)):
        samples = _read_json(*pair, functional.lower())
    else:
        samples = _read_cifs(_csv(path), functional.lower(), cifs, skip_missing=skip_missing)
    index = 0
    for index, sample in enumerate(samples, start=1):  # noqa: B007 -- counted for the check below
        yield sample
    if not index:
        raise DataError(f"{path}: no structure has a {functional} band gap: check the functional and the files")


def gaps(file: Path, functional: str = "pbe") -> dict[str, float]:
    """Give the band gaps (eV) of a csv file by refcode or qmof_id; raises DataError as `read` does."""
    return {name: gap for name, _, gap in _rows(file, functional.lower())}


def _json_pair(folder: Path) -> tuple[Path, Path] | None:
    for parent in (folder, folder / "qmof_database"):
        structures = [parent / f"{_STRUCTURES}{suffix}" for suffix in ("", ".gz")]
        found = next((file for file in structures if file.is_file()), None)
        if found and (parent / _PROPERTIES).is_file():
            return parent / _PROPERTIES, found
    return None


def _read_json(properties: Path, structures: Path, functional: str) -> Iterator[Sample]:
    found = dict(_json_gaps(properties, functional))
    for index, entry in enumerate(read_array(structures)):
        location = f"{structures}, record {index}"
        name = str(_member(entry, "qmof_id", location))
        if name not in found:
            raise DataError(f"{location}: {name} is not in {properties.name}: both files must be of one version")
        gap = found[name]
        if gap is not None:
            yield crystal(_member(entry, "structure", location), {"band_gap": gap}, location, group=name)


def _json_gaps(file: Path, functional: str) -> Iterator[tuple[str, float | None]]:
    """Give the gaps by qmof_id, None where there is none; they may be nested or under one dotted name."""
    for index, entry in enumerate(read_array(file)):
        location = f"{file}, record {index}"
        name, dotted = str(_member(entry, "qmof_id", location)), f"outputs.{functional}.bandgap"
        gap = entry[dotted] if dotted in entry else _nested(_member(entry, "outputs", location), functional)
        yield name, None if gap is None else number(gap, "the band gap", location)


def _nested(outputs: Any, functional: str) -> Any:
    values = outputs.get(functional) if isinstance(outputs, dict) else None
    return values.get("bandgap") if isinstance(values, dict) else None


def _member(entry: Any, key: str, location: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        there = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{location}: has no {key} (there is: {there[:200]}): check that it is the right file")
    return entry[key]


def _csv(path: Path) -> Path:
    if existing(path).is_file():
        return path
    found = sorted(path.glob("*.csv"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:12]) or "none"
        raise DataError(f"{path}: has neither {_PROPERTIES} with {_STRUCTURES} nor one csv file ({names}): name a file")
    return found[0]


def _rows(file: Path, functional: str) -> Iterator[tuple[str, str, float]]:
    """Give refcode, file name of the CIF and gap of each row that has a gap."""
    wanted = (f"BG_{functional.upper()}", f"outputs.{functional}.bandgap")
    with existing(file).open(newline="", encoding="utf-8") as lines, readable(f"{file}"):
        table = csv.DictReader(lines)
        columns = table.fieldnames or []
        name = next((column for column in _NAMES if column in columns), None)
        gap = next((column for column in wanted if column in columns), None)
        if name is None or gap is None:
            raise DataError(
                f"{file}: has the columns {', '.join(columns[:12]) or 'none'}, and one of {', '.join(_NAMES)} and "
                f"one of {', '.join(wanted)} are needed: check that it is the right file"
            )
        for index, row in enumerate(table):
            if row[gap]:
                location = f"{file}, record {index}"
                yield row[name], row.get("cif") or f"{row[name]}.cif", number(row[gap], "the band gap", location)


def _read_cifs(file: Path, functional: str, cifs: Path | None, *, skip_missing: bool) -> Iterator[Sample]:
    folders = [existing(cifs)] if cifs else [file.parent, file.parent / "relaxed_structures"]
    for name, cif, gap in _rows(file, functional):
        found = next((folder / cif for folder in folders if (folder / cif).is_file()), None)
        if found is not None:
            yield read_cif(found, {"band_gap": gap}, group=name)
        elif not skip_missing:
            raise DataError(
                f"{folders[0] / cif}: this CIF is not there: name its folder with cifs, or use skip_missing"
            )


def read_cif(file: Path, targets: Mapping[str, float], group: str = "") -> Sample:
    """Make a sample of the first structure of a CIF.

    Raises:
        DataError: the file is cut off or damaged, says no element symbols, or has partly occupied sites.

    """
    location = f"{file}"
    with readable(location):
        block = next((block for block in parse_cif(str(existing(file))) if block.get("_atom_site_type_symbol")), None)
        if block is None:
            raise DataError(f"{location}: has no _atom_site_type_symbol, so its elements are not known: get a full CIF")
        _require_whole(block, location)
        # Without symmetry, the result of get_atoms except for wrapping, 300 times as fast.
        atoms = block.get_unsymmetrized_structure() if _only_identity(block) else block.get_atoms()
    return labelled(location, atoms.numbers, atoms.positions, targets, cell=atoms.cell.array, pbc=True, group=group)


def _require_whole(block: CIFBlock, location: str) -> None:
    columns = [block.get(f"_atom_site_{name}") for name in ("type_symbol", "fract_x", "fract_y", "fract_z")]
    if len({len(column) for column in columns if isinstance(column, list)}) > 1:
        raise DataError(f"{location}: the columns of atoms differ in length: the file may be cut off")
    occupancy = block.get("_atom_site_occupancy")
    if occupancy is not None and np.any(np.asarray(occupancy, dtype=np.float64) < _FULL):
        raise DataError(f"{location}: a site is partly occupied: only ordered structures can be used")


def _only_identity(block: CIFBlock) -> bool:
    operations = [
        block.get(name)
        for name in (
            "_symmetry_equiv_pos_as_xyz",
            "_space_group_symop_operation_xyz",
            "_space_group_symop.operation_xyz",
        )
    ]
    listed = [
        operation for found in operations if found for operation in ([found] if isinstance(found, str) else found)
    ]
    return bool(listed) and all(operation.replace(" ", "").lower() == "x,y,z" for operation in listed)
