"""Revised MD17: 100,000 frames each of ten small organic molecules, PBE/def2-SVP; original MD17 archives read too.

Source: https://doi.org/10.6084/m9.figshare.12672038 (CC0 1.0), by Christensen and von Lilienfeld, Mach. Learn.: Sci.
Technol. 1, 045018 (2020). Original MD17: http://www.sgdml.org, Chmiela et al., Sci. Adv. 3, e1603015 (2017).

In the file: kcal/mol, kcal/mol/Å, Å. Energies and forces are multiplied by `ase.units.kcal / ase.units.mol` (1 eV =
23.0605 kcal/mol) and become eV and eV/Å; energies stay totals, in float64. The recomputed labels are used, not `old_*`.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from atomslim.atoms.sample import Sample
from atomslim.data.info import DatasetInfo, RemoteFile, Variant
from atomslim.data.readers._md_npz import count_npz, molecule_file, read_npz, require_molecule

FORMULAS = {
    "aspirin": "C9H8O4",
    "azobenzene": "C12H10N2",
    "benzene": "C6H6",
    "ethanol": "C2H6O",
    "malonaldehyde": "C3H4O2",
    "naphthalene": "C10H8",
    "paracetamol": "C8H9NO2",
    "salicylic": "C7H6O3",
    "toluene": "C7H8",
    "uracil": "C4H4N2O2",
}
"""The molecules and their formulas."""

_FILES = {
    "aspirin": (62265757, 153_601_803, "17fd6fb69066888613f7e16b358a7553"),
    "azobenzene": (62265754, 175_180_782, "be79df918468eb3579aa73a0becf7390"),
    "benzene": (62265739, 88_801_794, "18c9242bc90fbf28215f6dd81e650f16"),
    "ethanol": (62265733, 67_201_791, "eb837fb8deb27d4e0d52f71a03aff776"),
    "malonaldehyde": (62265736, 67_201_791, "cdc1d70c0c34062ddde6e5071eb6fe21"),
    "naphthalene": (62265751, 132_001_800, "0efba19c9907e3852318b1e6008b3b9e"),
    "paracetamol": (62265760, 146_401_802, "ba10784f7b67635427085f6d7ec2dd97"),
    "salicylic": (62265748, 117_601_798, "900fedf242da438400fa4293348d7dd1"),
    "toluene": (62265742, 110_401_797, "0f2913d51f8149c90ab28d697a076f64"),
    "uracil": (62265745, 88_801_794, "992a4479c28a07e0cce6da964805be31"),
}


def _variant(molecule: str) -> Variant:
    identifier, size, md5 = _FILES[molecule]
    name = f"rmd17_{molecule}.npz"
    url = f"https://ndownloader.figshare.com/files/{identifier}"
    file = RemoteFile(url=url, name=name, md5=md5, bytes=size)
    count = 99_988 if molecule == "azobenzene" else 100_000
    return Variant(name=molecule, targets=("energy", "forces"), count=count, files=(file,), path=name)


INFO = DatasetInfo(
    name="rmd17",
    title="Revised MD17",
    homepage="https://doi.org/10.6084/m9.figshare.12672038",
    licence="CC0 1.0",
    citation="A. S. Christensen, O. A. von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)",
    level_of_theory="PBE/def2-SVP",
    units_in_file="kcal/mol, Å",
    note="Converted to eV and eV/Å; energies are totals. MD17's own archives (E, F, R, z) read too. Frames are "
    "neighbours of one trajectory: the authors advise against training on more than 1000 of them.",
    variants=tuple(_variant(molecule) for molecule in FORMULAS),
    cutoff=7.0,
    neighbours=100,
)


def read(path: Path, variant: str = "", *, energy_unit: str = "", length_unit: str = "") -> Iterator[Sample]:
    """Give the frames of one molecule, with energies (eV) and forces (eV/Å), in the file's order.

    Args:
        path: an npz archive, or a folder that holds the molecule's.
        variant: the molecule; may be empty for a file.
        energy_unit: unit of the energies in the file, if other than kcal/mol and not given in the file.
        length_unit: unit of the positions in the file, if other than Å and not given in the file.

    Raises:
        ConfigError: no such molecule.
        DataError: a file that is missing, cut off, damaged or of another layout or molecule; frames of different
            sizes; labels that are not finite; energies that look like those of another unit.

    """
    file = molecule_file(path, INFO, variant, (".npz",))
    frames = read_npz(file, FORMULAS, energy_unit, length_unit)
    first = next(frames)
    require_molecule(first.numbers, FORMULAS, variant, f"{file}")
    yield from chain([first], frames)


def count(path: Path, variant: str = "") -> int:
    """Count the frames; raises as `read` does."""
    return count_npz(molecule_file(path, INFO, variant, (".npz",)))
