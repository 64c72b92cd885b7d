"""ANI-1x: molecules of C, H, N and O, chosen by active learning.

Source: https://doi.org/10.6084/m9.figshare.10047041. Licence: CC0. Units in the file: Hartree, Å, Hartree/Å; energies
and forces are converted with ASE's Hartree (27.2114 eV). The file has one group for each sum formula and many levels of
theory; only ωB97x/6-31G(d) is complete, and only its energy and forces are looked at: elsewhere NaN means "not
computed". Pickled lists of graph objects, as JMP preprocessed them, hold eV and eV/Å.
"""

from collections.abc import Iterator
from pathlib import Path

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, RemoteFile, Variant
from atomslim.data.readers._common import HARTREE, locate
from atomslim.data.readers._graphs import formula, graph_list, graph_sample
from atomslim.data.readers._hdf5 import Columns, children, open_hdf5

INFO = DatasetInfo(
    name="ani1x",
    title="ANI-1x",
    homepage="https://doi.org/10.6084/m9.figshare.10047041",
    licence="CC0",
    citation=(
        "Smith, Zubatyuk, Nebgen, Lubbers, Barros, Roitberg, Isayev, Tretiak, "
        "Scientific Data 7, 134 (2020), doi:10.1038/s41597-020-0473-z"
    ),
    level_of_theory="ωB97x/6-31G(d)",
    units_in_file="Hartree, Å, Hartree/Å",
    note="converted to eV; molecules of fewer than 4 atoms are left out; split by group (sum formula)",
    variants=(
        Variant(
            targets=("energy", "forces"),
            count=4_956_005,
            files=(
                RemoteFile(
                    url="https://springernature.figshare.com/ndownloader/files/18112775", name="ani1x-release.h5"
                ),
            ),
            path="ani1x-release.h5",
        ),
    ),
    cutoff=8.0,
)

COLUMNS = Columns(
    numbers="atomic_numbers",
    positions="coordinates",
    energy="wb97x_dz.energy",
    forces="wb97x_dz.forces",
    energy_factor=HARTREE,
    forces_factor=HARTREE,
)

MIN_ATOMS = 4
"""Smaller molecules have no quadruplets, and are left out as in JMP."""

SUFFIXES = (".h5", ".hdf5", ".pkl")


def read(path: Path, variant: str = "", *, min_atoms: int = MIN_ATOMS) -> Iterator[Sample]:
    """Read conformations: targets "energy" (eV) and "forces" (eV/Å); the group is the sum formula, such as C1H4N4O4.

    Parameters
    ----------
    path
        The HDF5 file, a pickled list of graph objects, or a folder of one of them.
    variant
        There is only one: leave it empty. Of a folder, the subfolder to read.
    min_atoms
        Smaller molecules are left out.

    Raises
    ------
    DataError
        A file is missing, cut off, damaged or of another layout, or labels are not finite; names file and group.

    """
    for file in locate(path, variant, SUFFIXES):
        samples = _read_list(file) if file.suffix == ".pkl" else _read_hdf5(file, min_atoms)
        yield from (sample for sample in samples if len(sample) >= min_atoms)


def count(path: Path, variant: str = "") -> int | None:
    """Count the conformations of molecules that `read` gives by default; None for pickled lists."""
    files = locate(path, variant, SUFFIXES)
    return None if files[0].suffix == ".pkl" else sum(_count(file) for file in files)


def _read_hdf5(path: Path, min_atoms: int) -> Iterator[Sample]:
    with open_hdf5(path) as file:
        for name, group in children(file, str(path)):
            location = f"{path}, {name}"
            if COLUMNS.natoms(group, location) >= min_atoms:
                yield from COLUMNS.read(group, location, name)


def _count(path: Path) -> int:
    with open_hdf5(path) as file:
        groups = [(group, f"{path}, {name}") for name, group in children(file, str(path))]
        return sum(COLUMNS.count(*group) for group in groups if COLUMNS.natoms(*group) >= MIN_ATOMS)


def _read_list(path: Path) -> Iterator[Sample]:
    for location, fields in graph_list(path):
        # The release writes every count, also 1: groups of both forms of the dataset have the same names.
        elements = formula(fields, location).count()
        group = "".join(f"{element}{atoms}" for element, atoms in elements.items())
        yield graph_sample(fields, location, group=group, periodic=False)
