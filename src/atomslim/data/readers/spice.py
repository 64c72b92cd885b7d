"""SPICE 1: 1.1 million conformations of drug-like molecules, peptides, dimers and ions, ωB97M-D3(BJ)/def2-TZVPPD.

Source: https://doi.org/10.5281/zenodo.8222043 (version 1.1.4, CC0 1.0), by Eastman et al., Sci. Data 10, 11 (2023).

In the file: bohr, Hartree and Hartree/bohr, as the attribute `units` of each dataset says; it is obeyed. Positions
become Å, energies eV with `ase.units.Hartree` and `ase.units.Bohr`. The file has **gradients**: forces = -gradient, in
eV/Å. Energies are totals, or formation energies on request, in float64.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, RemoteFile, Variant
from atomslim.data.readers._common import damaged, files_at, integers, labelled, require_keys
from atomslim.data.readers._hdf5 import children, open_hdf5
from atomslim.data.readers._units import factor, require_total
from atomslim.errors import DataError

SUBSETS = {
    "dipeptides": 33_850,
    "solvated_amino_acids": 1_300,
    "des370k": 345_676,
    "des_monomers": 18_700,
    "ion_pairs": 1_426,
    "pubchem": 731_856,
}
"""The subsets and their conformations as published."""

_FILE = RemoteFile(url="https://zenodo.org/records/8222043/files/SPICE-1.1.4.hdf5", name="SPICE-1.1.4.hdf5")
_DEFAULT_UNITS = {
    "conformations": "bohr",
    "dft_total_energy": "hartree",
    "formation_energy": "hartree",
    "dft_total_gradient": "hartree/bohr",
}


def _variant(name: str, count: int) -> Variant:
    return Variant(name=name, targets=("energy", "forces"), count=count, files=(_FILE,), path=_FILE.name)


INFO = DatasetInfo(
    name="spice",
    title="SPICE 1.1.4",
    homepage="https://doi.org/10.5281/zenodo.8222043",
    licence="CC0 1.0",
    citation="P. Eastman, P. K. Behara, D. L. Dotson, R. Galvelis, J. E. Herr, J. T. Horton, Y. Mao, J. D. Chodera, "
    "B. P. Pritchard, Y. Wang, G. De Fabritiis, T. E. Markland, Sci. Data 10, 11 (2023)",
    level_of_theory="ωB97M-D3(BJ)/def2-TZVPPD",
    units_in_file="Hartree, bohr (gradients)",
    note="Converted to eV and Å; forces are minus the gradients. Counts are those of the paper (version 1.0).",
    variants=(_variant("", 1_132_808), *(_variant(name, count) for name, count in SUBSETS.items())),
    cutoff=12.0,
    neighbours=30,
)


def read(path: Path, variant: str = "", *, energy: Literal["total", "formation"] = "total") -> Iterator[Sample]:
    """Give the conformations, molecule by molecule in the file's order, with energies (eV) and forces (eV/Å).

    Args:
        path: the HDF5 file, or a folder of such files, read in the order of their names.
        variant: part of a subset's name, such as `solvated_amino_acids` (`_`, `-` and case do not matter); empty: all.
        energy: `total`, or `formation` for the energies with the file's own atomic references removed.

    Raises:
        ConfigError: h5py is not installed.
        DataError: a file that is missing, cut off, damaged or of another layout; no molecule of the subset; labels
            that are not finite; a unit that is not known or does not fit the numbers.

    """
    column = "formation_energy" if energy == "formation" else "dft_total_energy"
    for file in files_at(path, [".hdf5", ".h5"]):
        with open_hdf5(file) as content:
            for name, group in _members(content, file, variant):
                yield from _conformations(group, f"{file}, {name}", name, column)


def count(path: Path, variant: str = "") -> int:
    """Count the conformations without reading them; raises as `read` does."""
    total = 0
    for file in files_at(path, [".hdf5", ".h5"]):
        with open_hdf5(file) as content:
            for name, group in _members(content, file, variant):
                require_keys(group.keys(), ["dft_total_energy"], f"{file}, {name}")
                total += int(group["dft_total_energy"].shape[0])
    return total


def _members(content: Any, file: Path, variant: str) -> Iterator[tuple[str, Any]]:
    """Give the molecules of a subset."""
    wanted, others, found = _plain(variant), set(), False
    for name, group in children(content, f"{file}"):
        subset = _subset(group, f"{file}, {name}") if wanted else ""
        if wanted in _plain(subset):
            found = True
            yield name, group
        else:
            others.add(subset)
    if not found:
        known = "; ".join(sorted(others)[:12])
        raise DataError(f"{file}: has no molecule of the subset {variant!r} (there is: {known}): name one of these")


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ")


def _subset(group: Any, location: str) -> str:
    require_keys(group.keys(), ["subset"], location)
    with damaged(location, OSError, RuntimeError, IndexError):
        value = np.ravel(group["subset"][()])[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _conformations(group: Any, location: str, name: str, column: str) -> Iterator[Sample]:
    """Convert a molecule's conformations: F = -gradient."""
    require_keys(group.keys(), ["atomic_numbers", "conformations", column, "dft_total_gradient"], location)
    with damaged(location, OSError, RuntimeError):
        numbers = integers(group["atomic_numbers"][()], "atomic numbers", location)
    energies = _converted(group, column, location).reshape(-1)
    shape = (len(energies), len(numbers), 3)
    positions = _converted(group, "conformations", location, shape)
    gradients = _converted(group, "dft_total_gradient", location, shape)
    if column == "dft_total_energy" and len(energies):
        require_total(float(energies[0]), numbers, _unit(group, column), location)
    for frame in range(len(energies)):
        targets = {"energy": energies[frame], "forces": -gradients[frame]}
        yield labelled(f"{location}, conformation {frame}", numbers, positions[frame], targets, group=name)


def _converted(group: Any, key: str, location: str, shape: tuple[int, ...] | None = None) -> NDArray[np.float64]:
    """Read a dataset into float64, in eV and Å."""
    with damaged(f"{location}, {key}", OSError, RuntimeError, TypeError, ValueError):
        array = np.asarray(group[key][()], dtype=np.float64)
    if shape is not None and array.shape != shape:
        raise DataError(
            f"{location}: {key} has the shape {array.shape} where {shape} (conformations, atoms, 3) is expected: "
            "get the file again"
        )
    return array * factor(_unit(group, key), f"{location}, {key}")


def _unit(group: Any, key: str) -> str:
    unit = group[key].attrs.get("units", _DEFAULT_UNITS[key])
    return unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
