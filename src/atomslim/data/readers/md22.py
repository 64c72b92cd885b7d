"""MD22: trajectories of seven larger molecules (42 to 370 atoms), PBE+MBD.

Source: http://www.sgdml.org (licence not stated), by Chmiela et al., Sci. Adv. 9, eadf0873 (2023).

In the file: kcal/mol, kcal/mol/Å, Å, whether npz (whose `e_unit` and `r_unit` are obeyed) or extended XYZ (energy under
`Energy`, forces under `forces`, no lattice). Both become eV and eV/Å with `ase.units.kcal / ase.units.mol`; energies
stay totals, in float64.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, RemoteFile, Variant
from atomslim.data.readers._frames import read_frames
from atomslim.data.readers._labels import Frame, Labels, check_options
from atomslim.data.readers._md_npz import count_npz, molecule_file, molecule_name, read_npz, require_molecule
from atomslim.data.readers._units import require_total
from atomslim.errors import DataError

FORMULAS = {
    "Ac-Ala3-NHMe": "C12H22N4O4",
    "DHA": "C22H32O2",
    "stachyose": "C24H42O21",
    "AT-AT": "C20H22N14O4",
    "AT-AT-CG-CG": "C38H42N30O8",
    "buckyball-catcher": "C120H28",
    "double-walled_nanotube": "C326H44",
}
"""The molecules and their formulas."""

_COUNTS = {
    "Ac-Ala3-NHMe": 85_109,
    "DHA": 69_753,
    "stachyose": 27_272,
    "AT-AT": 20_001,
    "AT-AT-CG-CG": 10_153,
    "buckyball-catcher": 6_102,
    "double-walled_nanotube": 5_032,
}

_SUFFIXES = (".npz", ".xyz", ".extxyz")


def _variant(molecule: str) -> Variant:
    name = f"md22_{molecule}.npz"
    file = RemoteFile(url=f"http://www.quantum-machine.org/gdml/repo/datasets/{name}", name=name)
    return Variant(name=molecule, targets=("energy", "forces"), count=_COUNTS[molecule], files=(file,), path=name)


INFO = DatasetInfo(
    name="md22",
    title="MD22",
    homepage="http://www.sgdml.org",
    licence="not stated",
    citation="S. Chmiela, V. Vassilev-Galindo, O. T. Unke, A. Kabylda, H. E. Sauceda, A. Tkatchenko, K.-R. Müller, "
    "Sci. Adv. 9, eadf0873 (2023)",
    level_of_theory="PBE+MBD (FHI-aims)",
    units_in_file="kcal/mol, Å",
    note="Converted to eV and eV/Å; energies are totals.",
    variants=tuple(_variant(molecule) for molecule in FORMULAS),
    cutoff=12.0,
    neighbours=30,
)


def read(path: Path, variant: str = "", *, energy_unit: str = "", length_unit: str = "") -> Iterator[Sample]:
    """Give the frames of one molecule, with energies (eV) and forces (eV/Å), in the file's order.

    Args:
        path: an npz archive or an extended XYZ file, or a folder that holds the molecule's.
        variant: the molecule; may be empty for a file.
        energy_unit: unit of the energies in the file, if other than kcal/mol and not given in the file.
        length_unit: unit of the positions in the file, if other than Å and not given in the file.

    Raises:
        ConfigError: no such molecule.
        DataError: a file that is missing, cut off, damaged or of another layout or molecule; frames of different
            sizes; labels that are missing or not finite; energies that look like those of another unit.

    """
    file = molecule_file(path, INFO, variant, _SUFFIXES)
    if file.suffix == ".npz":
        frames = read_npz(file, FORMULAS, energy_unit, length_unit)
    else:
        frames = _read_xyz(file, energy_unit or "kcal/mol", length_unit or "Å")
    first = next(frames)
    require_molecule(first.numbers, FORMULAS, variant, f"{file}")
    yield from chain([first], frames)


def count(path: Path, variant: str = "") -> int | None:
    """Count the frames of an npz archive; None for extended XYZ, which would have to be read for it."""
    file = molecule_file(path, INFO, variant, _SUFFIXES)
    return count_npz(file) if file.suffix == ".npz" else None


def _read_xyz(file: Path, energy_unit: str, length_unit: str) -> Iterator[Sample]:
    labels = check_options(Labels(energy_unit=energy_unit, length_unit=length_unit, required=("energy", "forces")))
    first: Sample | None = None
    for location, atoms in read_frames(file):
        sample = labels.sample(Frame.of(atoms), location)
        if first is None:
            first = sample
            require_total(float(sample.targets["energy"]), sample.numbers, energy_unit, location)
        if not np.array_equal(sample.numbers, first.numbers):
            raise DataError(f"{location}: has other atoms than record 0: all frames must be of one molecule")
        yield replace(sample, group=molecule_name(sample.numbers, FORMULAS))
