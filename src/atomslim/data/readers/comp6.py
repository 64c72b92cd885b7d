"""COMP6: the benchmark that goes with the ANI potentials, here in the HDF5 layout `benchmark/molecule/…`.

Source: https://github.com/isayev/COMP6 (s66x8: dimers of the S66x8 set). Licence: MIT. Units in the file: Hartree, Å,
Hartree/Å; converted with ASE's Hartree (27.2114 eV). **The file's `forces` are gradients**: their sign is changed here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, Variant
from atomslim.data.readers._common import HARTREE, locate
from atomslim.data.readers._hdf5 import Columns, children, open_hdf5
from atomslim.errors import DataError

INFO = DatasetInfo(
    name="comp6",
    title="COMP6, benchmark of the ANI potentials",
    homepage="https://github.com/isayev/COMP6",
    licence="MIT",
    citation="Smith, Nebgen, Lubbers, Isayev, Roitberg, J. Chem. Phys. 148, 241733 (2018), doi:10.1063/1.5023802",
    level_of_theory="ωB97x/6-31G(d)",
    units_in_file="Hartree, Å, Hartree/Å",
    note="converted to eV; the file's `forces` are gradients, so their sign is changed; to be downloaded by hand",
    variants=(
        Variant(targets=("energy", "forces")),
        Variant(name="s66x8", targets=("energy", "forces"), count=528),
    ),
    cutoff=8.0,
)

COLUMNS = Columns(
    numbers="species",
    positions="coordinates",
    energy="energies",
    forces="forces",
    energy_factor=HARTREE,
    forces_factor=-HARTREE,
)

SUFFIXES = (".h5", ".hdf5")


def read(path: Path, variant: str = "") -> Iterator[Sample]:
    """Read conformations: targets "energy" (eV) and "forces" (eV/Å); the group is "benchmark/molecule".

    Parameters
    ----------
    path
        An HDF5 file or a folder of them.
    variant
        A benchmark, such as "s66x8"; empty: all in the file.

    Raises
    ------
    DataError
        A file is missing, cut off, damaged or of another layout, or labels are not finite; names file and group.

    """
    for file in locate(path, "", SUFFIXES):
        with open_hdf5(file) as content:
            for name, group in _molecules(content, file, variant):
                yield from COLUMNS.read(group, f"{file}, {name}", name)


def count(path: Path, variant: str = "") -> int:
    """Count the conformations."""
    total = 0
    for file in locate(path, "", SUFFIXES):
        with open_hdf5(file) as content:
            total += sum(COLUMNS.count(group, f"{file}, {name}") for name, group in _molecules(content, file, variant))
    return total


def _molecules(content: Any, path: Path, variant: str) -> Iterator[tuple[str, Any]]:
    benchmarks = dict(children(content, str(path)))
    if variant and variant not in benchmarks:
        raise DataError(f"{path}: has no benchmark {variant!r} (there are: {', '.join(benchmarks)}): name one of them")
    for benchmark in [variant] if variant else benchmarks:
        for molecule, group in children(benchmarks[benchmark], f"{path}, {benchmark}"):
            yield f"{benchmark}/{molecule}", group
