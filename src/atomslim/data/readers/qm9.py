"""QM9: 134 thousand organic molecules of up to nine heavy atoms (C, N, O, F) with 15 properties, B3LYP/6-31G(2df,p).

Source: https://doi.org/10.6084/m9.figshare.c.978904 (CC0 1.0), by Ramakrishnan et al., Sci. Data 1, 140022 (2014).

In the file: GHz, Debye, bohr³, bohr², Hartree, cal/mol/K, Å. Energies (homo, lumo, gap, zpve, U0, U, H, G) become eV
with `ase.units.Hartree`, in float64; rotational constants A, B, C (GHz), mu (D), alpha (bohr³), r2 (bohr²) and Cv
(cal/mol/K) are unchanged. U0, U, H, G are totals, or less the isolated atoms' on request (then also Cv).

Four layouts are read: the original one (`dsgdb9nsd_*.xyz`, which are not proper XYZ, in a folder or a tar archive), an
SDF file with its csv, extended XYZ with the properties in the comment line, and SchNetPack's ASE database, whose own
units are obeyed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from ase.units import Hartree

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, RemoteFile, Variant
from atomslim.data.readers._common import existing, labelled
from atomslim.data.readers._qm9_files import Molecule, read_database, read_raw, read_sdf, read_tar, read_xyz
from atomslim.data.readers._qm9_files import raw_files as _raw_files
from atomslim.data.readers._qm9_files import uncharacterised as _uncharacterised
from atomslim.data.readers._units import factor, require_total
from atomslim.errors import ConfigError, DataError

ENERGIES = ("homo", "lumo", "gap", "zpve", "U0", "U", "H", "G")
"""Targets that are energies, in eV."""

UNITS = {"A": "GHz", "B": "GHz", "C": "GHz", "mu": "D", "alpha": "a0^3", "r2": "a0^2", "Cv": "cal/mol/K"}
"""Units of the others."""

TARGETS = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
"""All targets in the order of the original files."""

ATOMS = {
    "U0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "U": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "H": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "G": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
    "Cv": {1: 2.981, 6: 2.981, 7: 2.981, 8: 2.981, 9: 2.981},
}
"""Isolated atoms, Hartree (Cv: cal/mol/K), of the dataset's atomref.txt."""

_TAR = RemoteFile(
    url="https://ndownloader.figshare.com/files/3195389",
    name="dsgdb9nsd.xyz.tar.bz2",
    md5="ad1ebd51ee7f5b3a6e32e974e5d54012",
    bytes=86_144_227,
)
_LIST = RemoteFile(
    url="https://ndownloader.figshare.com/files/3195404",
    name="uncharacterized.txt",
    md5="a361887bacb427b8a0ce7903d92a53b4",
    bytes=486_752,
)


def _variant(name: str, targets: tuple[str, ...]) -> Variant:
    return Variant(name=name, targets=targets, count=133_885, files=(_TAR, _LIST), path=_TAR.name)


INFO = DatasetInfo(
    name="qm9",
    title="QM9",
    homepage="https://doi.org/10.6084/m9.figshare.c.978904",
    licence="CC0 1.0",
    citation="R. Ramakrishnan, P. O. Dral, M. Rupp, O. A. von Lilienfeld, Sci. Data 1, 140022 (2014)",
    level_of_theory="B3LYP/6-31G(2df,p)",
    units_in_file="Hartree, Å, Debye, bohr, GHz, cal/mol/K",
    note="Energies are converted to eV. 3054 molecules that changed their bonds in the relaxation are left out with "
    "uncharacterised=<uncharacterized.txt>.",
    variants=(_variant("", TARGETS), *(_variant(target, (target,)) for target in TARGETS)),
    units=UNITS,
    cutoff=8.0,
    neighbours=30,
)


def read(
    path: Path,
    variant: str = "",
    *,
    reference: Literal["none", "atoms"] = "none",
    uncharacterised: Path | None = None,
    energy_unit: str = "Hartree",
    table: Path | None = None,
) -> Iterator[Sample]:
    """Give the molecules, in the file's order, with their targets as scalars.

    Args:
        path: a folder of `dsgdb9nsd_*.xyz`, one of them, a tar archive of them, an SDF file, extended XYZ, a SchNetPack
            database, or a folder with one of these.
        variant: one target, such as `U0`; empty: all that the file has.
        reference: `atoms` subtracts the isolated atoms' U0, U, H, G and Cv.
        uncharacterised: the dataset's `uncharacterized.txt`: molecules that it lists are left out.
        energy_unit: unit of the energies of SDF and extended XYZ files that were converted by others.
        table: csv file with the properties of an SDF file; None: `<name>.sdf.csv` or `<name>.csv` beside it.

    Raises:
        ConfigError: no such target.
        DataError: a file that is missing, cut off, damaged or of another layout; a property that is missing or not
            finite; energies that look like those of another unit; no molecules' numbers where they are needed.

    """
    targets = _targets(variant)
    dropped = _uncharacterised(uncharacterised) if uncharacterised else frozenset()
    index = -1
    for index, molecule in enumerate(_molecules(path, energy_unit, table)):
        if index == 0:
            _require_unit(molecule, energy_unit)
        if uncharacterised and molecule.number is None:
            raise DataError(
                f"{molecule.location}: has no molecule's number, so the uncharacterised ones cannot be left out"
            )
        if molecule.number not in dropped:
            yield _sample(molecule, targets, reference)
    if index < 0:
        raise DataError(f"{path}: holds no molecules: check that it was written completely")


def count(path: Path, variant: str = "") -> int | None:
    """Count the molecules of a folder; None for other layouts, which would have to be read for it."""
    _targets(variant)
    return len(_raw_files(existing(path))) or None if path.is_dir() else None


def _targets(variant: str) -> tuple[str, ...]:
    if not variant:
        return ()
    known = INFO.variant(variant)
    if known is None:
        raise ConfigError(f"qm9 has no target {variant!r}: choose one of {', '.join(TARGETS)}")
    return known.targets


def _molecules(path: Path, energy_unit: str, table: Path | None) -> Iterator[Molecule]:
    """Choose the layout. Every molecule comes with its properties in the units of `TARGETS`."""
    source = _source(path)
    molecules: Iterator[Molecule]
    units = dict.fromkeys(ENERGIES, energy_unit) | UNITS
    if source.is_dir():
        molecules = (molecule for file in _raw_files(source) for molecule in read_raw(file))
    elif ".tar" in source.suffixes or source.suffix == ".tgz":
        molecules = read_tar(source)
    elif source.suffix == ".sdf":
        molecules = read_sdf(source, table)
    elif source.suffix == ".db":
        molecules, units = read_database(source)
    else:
        molecules = read_xyz(source)
    ours = dict.fromkeys(ENERGIES, "eV") | UNITS
    factors = {name: factor(unit, f"{source}") / factor(ours[name], name) for name, unit in units.items()}
    for molecule in molecules:
        yield molecule.scaled(factors)


def _source(path: Path) -> Path:
    """Find the file in a folder that holds one of the layouts."""
    if existing(path).is_file() or _raw_files(path):
        return path
    for pattern in ("*.tar*", "*.tgz", "*.sdf", "*.db", "*.extxyz", "*.xyz"):
        found = sorted(path.glob(pattern))
        if len(found) == 1:
            return found[0]
    raise DataError(f"{path}: has no dsgdb9nsd_*.xyz, and not one .tar, .sdf, .db or .xyz file: name the file")


def _require_unit(molecule: Molecule, energy_unit: str) -> None:
    for name in ("U0", "U", "H", "G"):
        if name in molecule.values:
            require_total(molecule.values[name], molecule.numbers, energy_unit, f"{molecule.location}, {name}")


def _sample(molecule: Molecule, targets: tuple[str, ...], reference: str) -> Sample:
    missing = [name for name in targets if name not in molecule.values]
    if missing:
        there = ", ".join(molecule.values) or "nothing"
        raise DataError(f"{molecule.location}: has no {', '.join(missing)} (there is: {there}): choose another file")
    values = {name: molecule.values[name] for name in targets or TARGETS if name in molecule.values}
    if reference == "atoms":
        values = {name: value - _atoms(molecule, name) for name, value in values.items()}
    group = "" if molecule.number is None else f"gdb_{molecule.number}"
    return labelled(molecule.location, molecule.numbers, molecule.positions, values, group=group)


def _atoms(molecule: Molecule, name: str) -> float:
    """Sum up the isolated atoms' values, eV (Cv: cal/mol/K); 0 for what has none."""
    if name not in ATOMS:
        return 0.0
    table: Mapping[int, float] = ATOMS[name]
    unknown = sorted({int(number) for number in molecule.numbers} - set(table))
    if unknown:
        raise DataError(f"{molecule.location}: no isolated atom with atomic number {unknown[0]}: use reference=none")
    return sum(table[int(number)] for number in molecule.numbers) * (1.0 if name == "Cv" else float(Hartree))
