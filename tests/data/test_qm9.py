import csv
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from ase.io import write

from atomslim.atoms.sample import Sample
from atomslim.data.readers import qm9
from atomslim.data.readers._qm9_files import parse_raw, read_table, uncharacterised
from atomslim.errors import ConfigError
from data.complaints import complaint

HARTREE = 27.211386246
VALUES = [
    *(157.7118, 157.70997, 157.70699, 0.0, 13.21, -0.3877, 0.1171, 0.5048, 35.3641, 0.044749, -40.47893),
    *(-40.476062, -40.475117, -40.498597, 6.469),
]
"""Methane, as in the dataset's first file."""


def raw(number: int = 1, shift: float = 0.0) -> str:
    """Methane in the original layout; one number is written as Mathematica does."""
    positions = [
        (0.0, 0.0, shift),
        (0.63, 0.63, 0.63),
        (-0.63, -0.63, 0.63),
        (-0.63, 0.63, -0.63),
        (0.63, -0.63, -0.63),
    ]
    atoms = [f"{'H' if atom else 'C'}\t{x}\t{y}\t{z}\t-1.2*^-5" for atom, (x, y, z) in enumerate(positions)]
    atoms[4] = atoms[4].replace("-0.63\t-0.63", "-6.3*^-1\t-0.63")
    head = f"gdb {number}\t" + "\t".join(str(value) for value in VALUES) + "\t"
    return "\n".join(["5", head, *atoms, "1341.3\t1562.7", "C\tC\t", "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4", ""])


def numbers(sample: Sample) -> dict[str, float]:
    return {name: float(value) for name, value in sample.targets.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    raw_folder = tmp_path / "raw"
    raw_folder.mkdir()
    for number in (1, 21, 22):
        (raw_folder / f"dsgdb9nsd_{number:06d}.xyz").write_text(raw(number, shift=number * 1e-3))
    return raw_folder


def sdf_and_csv(tmp_path: Path) -> Path:
    """Write the same molecules as an SDF file and a csv file."""
    blocks = []
    for number in (1, 21, 22):
        atoms = [line.split() for line in raw(number, shift=number * 1e-3).splitlines()[2:7]]
        rows = [
            "".join(f"{float(value.replace('*^', 'e')):10.4f}" for value in atom[1:4]) + f" {atom[0]}   0  0"
            for atom in atoms
        ]
        bonds = [f"  1  {atom}  1  0" for atom in range(2, 6)]
        blocks += [f"gdb_{number}", "  -OEChem-03231823253D", "", "  5  4  0  0  0  0  0  0  0  0999 V2000", *rows]
        blocks += [*bonds, "M  END", "$$$$"]
    path = tmp_path / "gdb9.sdf"
    path.write_text("\n".join(blocks) + "\n")
    with (tmp_path / "gdb9.sdf.csv").open("w", newline="") as file:
        table = csv.writer(file)
        names = "mol_id,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv,u0_atom"
        table.writerow(names.split(","))
        table.writerows([[f"gdb_{number}", *VALUES, -1.5] for number in (1, 21, 22)])
    return path


def archive(path: Path, texts: dict[str, str]) -> Path:
    modes: dict[str, Literal["w:", "w:bz2", "w:gz"]] = {".tar": "w:", ".bz2": "w:bz2", ".gz": "w:gz"}
    with tarfile.open(path, modes[path.suffix]) as file:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            file.addfile(member, io.BytesIO(text.encode()))
    return path


def test_hartree_become_ev_and_the_rest_stays(folder: Path) -> None:
    samples = list(qm9.read(folder))
    assert len(samples) == qm9.count(folder) == 3
    expected = {
        name: value * (HARTREE if name in qm9.ENERGIES else 1.0)
        for name, value in zip(qm9.TARGETS, VALUES, strict=True)
    }
    assert numbers(samples[1]) == pytest.approx(expected, rel=1e-8)
    assert samples[1].numbers.tolist() == [6, 1, 1, 1, 1]
    assert samples[1].positions[0].tolist() == [0.0, 0.0, 0.021]
    assert samples[1].positions[4].tolist() == [0.63, -0.63, -0.63]
    assert samples[1].group == "gdb_21"
    assert samples[1].name == f"{folder / 'dsgdb9nsd_000021.xyz'}"


def test_one_target_may_be_chosen(folder: Path) -> None:
    assert [list(sample.targets) for sample in qm9.read(folder, "u0")] == [["U0"]] * 3
    assert list(next(qm9.read(folder, "Cv")).targets) == ["Cv"]
    complaint(qm9.read(folder, "energy"), "no target 'energy'", "U0", kind=ConfigError)


@pytest.mark.parametrize("suffix", [".tar", ".tar.bz2", ".tar.gz"])
def test_every_layout_says_the_same(suffix: str, folder: Path, tmp_path: Path) -> None:
    """Folder, tar archive, SDF with csv, extended XYZ and a database of the same molecules agree."""
    expected = list(qm9.read(folder))
    texts = {file.name: file.read_text() for file in sorted(folder.iterdir())}
    tar = archive(tmp_path / f"dsgdb9nsd.xyz{suffix}", texts)
    for source in (tar, sdf_and_csv(tmp_path), extended_xyz(tmp_path), database(tmp_path)):
        found = list(qm9.read(source))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert numbers(one) == pytest.approx(numbers(other), rel=1e-12)
            assert one.positions == pytest.approx(other.positions)
            assert one.numbers.tolist() == other.numbers.tolist()


def extended_xyz(tmp_path: Path) -> Path:
    names = ("A", "B", "C", "mu", "alpha", "HOMO", "LUMO", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
    frames = []
    for number in (1, 21, 22):
        molecule = parse_raw(raw(number, shift=number * 1e-3), "here")
        frames.append(Atoms(molecule.numbers, molecule.positions, info=dict(zip(names, VALUES, strict=True))))
    write(tmp_path / "qm9.extxyz", frames)
    return tmp_path / "qm9.extxyz"


SCHNETPACK = {
    "rotational_constant_A": "GHz",
    "rotational_constant_B": "GHz",
    "rotational_constant_C": "GHz",
    "dipole_moment": "D",
    "isotropic_polarizability": "a0^3",
    "homo": "Ha",
    "lumo": "Ha",
    "gap": "Ha",
    "electronic_spatial_extent": "a0^2",
    "zpve": "Ha",
    "energy_U0": "Ha",
    "energy_U": "Ha",
    "enthalpy_H": "Ha",
    "free_energy": "Ha",
    "heat_capacity": "cal/mol/K",
}
"""Names and units of SchNetPack's properties, in the order of the original files."""


def database(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "qm9.db"
    about = {"_property_unit_dict": SCHNETPACK, "_distance_unit": "Ang"}
    with connect(path) as rows:
        rows.metadata = {name: value for name, value in (about | changes).items() if value is not None}
        for number in (1, 21, 22):
            molecule = parse_raw(raw(number, shift=number * 1e-3), "here")
            data = {name: np.array([value]) for name, value in zip(SCHNETPACK, VALUES, strict=True)}
            rows.write(Atoms(molecule.numbers, molecule.positions), data=data)
    return path


def test_the_units_of_a_database_are_obeyed(tmp_path: Path) -> None:
    units = SCHNETPACK | {"isotropic_polarizability": "Ang^3", "heat_capacity": "kJ/mol/K"}
    sample = next(qm9.read(database(tmp_path, _property_unit_dict=units), "alpha"))
    assert float(sample.targets["alpha"]) == pytest.approx(13.21 / 0.529177**3, rel=1e-5)
    sample = next(qm9.read(tmp_path / "qm9.db", "Cv"))
    assert float(sample.targets["Cv"]) == pytest.approx(6469 / 4.184)
    assert float(next(qm9.read(tmp_path / "qm9.db", "H")).targets["H"]) == pytest.approx(VALUES[12] * HARTREE)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"_property_unit_dict": None}, "the units are not known"),
        ({"_distance_unit": "Bohr"}, "the positions are in Bohr"),
        ({"_property_unit_dict": dict.fromkeys(SCHNETPACK, "cows")}, "the unit 'cows' is not known"),
    ],
)
def test_a_database_without_units_is_refused(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    complaint(qm9.read(database(tmp_path, **changes)), "qm9.db", what)


def test_isolated_atoms_are_subtracted_on_request(folder: Path) -> None:
    totals, energies = next(qm9.read(folder)), next(qm9.read(folder, reference="atoms"))
    assert float(energies.targets["U0"]) == pytest.approx((-40.47893 + 37.846772 + 4 * 0.500273) * HARTREE, rel=1e-6)
    assert float(energies.targets["U0"]) == pytest.approx(-395.999594 / 23.060548, rel=1e-5)  # the csv's u0_atom
    assert float(energies.targets["Cv"]) == pytest.approx(6.469 - 5 * 2.981)
    assert energies.targets["homo"] == totals.targets["homo"]


def test_uncharacterised_molecules_are_left_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "uncharacterized.txt").write_text(
        "3054 molecules of GDB-9 that failed\n=====\n  Index  GDB17  B3LYP\n-----\n"
        "    21  C#N  N=C  C#N\n    58  CC=O  CC#O\n   133885 C  C\n3054 molecules\n"
    )
    assert uncharacterised(tmp_path / "uncharacterized.txt") == {21, 58, 133885}
    kept = list(qm9.read(folder, uncharacterised=tmp_path / "uncharacterized.txt"))
    assert [sample.group for sample in kept] == ["gdb_1", "gdb_22"]
    kept = list(qm9.read(sdf_and_csv(tmp_path), uncharacterised=tmp_path / "uncharacterized.txt"))
    assert [sample.group for sample in kept] == ["gdb_1", "gdb_22"]
    complaint(
        qm9.read(extended_xyz(tmp_path), uncharacterised=tmp_path / "uncharacterized.txt"), "has no molecule's number"
    )
    (tmp_path / "empty.txt").write_text("nothing\n")
    complaint(qm9.read(folder, uncharacterised=tmp_path / "empty.txt"), "empty.txt: lists no molecules")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda text: text[:0], "is not an original QM9 file"),
        (lambda text: text.replace("gdb", "gdx"), "is not an original QM9 file"),
        (lambda text: text.replace("\t6.469", ""), "is not an original QM9 file"),
        (lambda text: text.replace("-40.47893", "-40.4x"), "U0 is '-40.4x', which is not a number"),
        (lambda text: text.replace("-40.47893", "nan"), "U0 not finite"),
        (lambda text: text.replace("H\t0.63", "Q\t0.63"), "atom 1 is not an element with a position"),
        (lambda text: text.replace("\t0.63\t0.63\t0.63", "\t0.63"), "atom 1 is not an element with a position"),
        (lambda text: text.replace("\t0.63\t0.63\t0.63", "\t0.63\tx\t0"), "position of atom 1 is 'x'"),
        (lambda text: text.replace("\t0.63\t0.63\t0.63", "\t0.63\tnan\t0"), "positions (row 1) not finite"),
        (lambda text: "\n".join(text.splitlines()[:6]), "ends after 6 of 10 lines"),
        (lambda text: "\n".join(text.splitlines()[:8]), "ends after 8 of 10 lines"),
        (lambda text: text.replace("-40.4", "-1101.4"), 'energy_unit="eV"'),
    ],
)
def test_a_broken_original_file_is_named(change: Callable[[str], str], what: str, tmp_path: Path) -> None:
    file = tmp_path / "dsgdb9nsd_000001.xyz"
    file.write_text(change(raw()))
    if file.stat().st_size:
        assert complaint(qm9.read(file), what).startswith(f"{file}")
    complaint(qm9.read(tmp_path), f"{file}", what)


def test_a_cut_off_archive_is_named(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = {file.name: file.read_text() for file in sorted(folder.iterdir())}
    texts |= {f"{index}.xyz": raw(index).replace("1341.3", f"{rng.random()}") for index in range(100, 300)}
    for suffix in (".tar", ".tar.bz2", ".tar.gz"):
        path = archive(tmp_path / f"a{suffix}", texts)
        whole = path.read_bytes()
        for size in (0, 100, len(whole) // 2):
            path.write_bytes(whole[:size])
            complaint(qm9.read(path), f"{path}: cut off or damaged")


def test_an_archive_without_molecules_is_named(tmp_path: Path) -> None:
    complaint(qm9.read(archive(tmp_path / "a.tar", {"readme.txt": "hello"})), "a.tar: has no .xyz file in it")
    complaint(
        qm9.read(archive(tmp_path / "b.tar", {"x.xyz": "1\n\nH 0 0 0\n"})), "b.tar, x.xyz: is not an original QM9 file"
    )


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        ("gdb9.sdf", lambda text: text.replace("gdb_21", "gdb_20"), "record 1: is gdb_20, and its row"),
        ("gdb9.sdf", lambda text: text[: text.rindex("M  END")], "the last molecule has no end ($$$$)"),
        ("gdb9.sdf", lambda text: text[: text.rindex("gdb_22")], "has 2 molecules, and gdb9.sdf.csv more rows"),
        ("gdb9.sdf", lambda text: text.replace("V2000", "V3000"), "record 0: is not a molecule in the V2000 format"),
        ("gdb9.sdf", lambda text: text.replace("  5  4", " 50  4"), "record 0: ends before 50 atoms"),
        ("gdb9.sdf.csv", lambda text: text[: text.rindex("gdb_22")], "has 2 rows, and gdb9.sdf has more molecules"),
        ("gdb9.sdf.csv", lambda text: text.replace("-40.47893", ""), "record 0: U0 is '', which is not a number"),
        ("gdb9.sdf.csv", lambda text: text[:0] + "x,y,z\n1,2,3\n", "no column of a QM9 property"),
        ("gdb9.sdf.csv", lambda text: text.replace("-40.47893", "-1101.487"), 'energy_unit="eV"'),
    ],
)
def test_a_broken_sdf_or_csv_is_named(file: str, change: Callable[[str], str], what: str, tmp_path: Path) -> None:
    path = sdf_and_csv(tmp_path)
    (tmp_path / file).write_text(change((tmp_path / file).read_text()))
    complaint(qm9.read(path), f"{tmp_path / file.removesuffix('.csv')}", what)


def test_the_table_may_lie_elsewhere(tmp_path: Path) -> None:
    path = sdf_and_csv(tmp_path)
    (tmp_path / "gdb9.sdf.csv").rename(tmp_path / "other.csv")
    complaint(qm9.read(path), "gdb9.sdf.csv: there is no such file")
    assert len(list(qm9.read(path, table=tmp_path / "other.csv"))) == 3


def test_other_paths_are_refused(tmp_path: Path) -> None:
    complaint(qm9.read(tmp_path / "missing"), "there is no such file or folder")
    complaint(qm9.read(tmp_path), f"{tmp_path}: has no dsgdb9nsd_*.xyz")
    (tmp_path / "a.xyz").write_text("1\nenergy=3\nH 0 0 0\n")
    complaint(qm9.read(tmp_path), "a.xyz, record 0: has no QM9 property (there is: energy)")
    complaint(qm9.read(tmp_path, "homo"), "a.xyz, record 0: has no QM9 property")


def test_a_target_that_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", Atoms("H", info={"homo": -0.5}))
    complaint(qm9.read(tmp_path / "a.xyz", "U0"), "record 0: has no U0 (there is: homo)")
    assert float(next(qm9.read(tmp_path / "a.xyz")).targets["homo"]) == pytest.approx(-0.5 * HARTREE)
    assert float(next(qm9.read(tmp_path / "a.xyz", energy_unit="eV")).targets["homo"]) == -0.5


def test_the_real_raw_files_agree_with_the_csv(data_folder: Path) -> None:
    samples = list(qm9.read(data_folder / "qm9/dsgdb9nsd_xyz"))
    table = dict(read_table(data_folder / "qm9/gdb9_layout_97.csv"))
    assert len(samples) == len(table) == 97
    for sample in samples:
        row = {name: value * (HARTREE if name in qm9.ENERGIES else 1) for name, value in table[sample.group].items()}
        assert numbers(sample) == pytest.approx(row, rel=1e-8)


def test_the_real_database_agrees_with_the_raw_files(data_folder: Path) -> None:
    raw_samples = list(qm9.read(data_folder / "qm9/dsgdb9nsd_xyz"))[:20]
    for one, other in zip(qm9.read(data_folder / "qm9/schnetpack_test_qm9.db"), raw_samples, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-12)
        assert one.numbers.tolist() == other.numbers.tolist()
        assert one.positions == pytest.approx(other.positions, abs=1e-8)


def test_real_values(data_folder: Path) -> None:
    samples = {sample.group: sample for sample in qm9.read(data_folder / "qm9/dsgdb9nsd_xyz")}
    methane = samples["gdb_1"]
    assert float(methane.targets["U0"]) == pytest.approx(-40.47893 * HARTREE, rel=1e-8)
    assert float(methane.targets["gap"]) == pytest.approx(13.7363, abs=1e-3)
    assert np.linalg.norm(methane.positions[0] - methane.positions[1:], axis=1) == pytest.approx(1.0919, abs=1e-3)
    energies = list(qm9.read(data_folder / "qm9/dsgdb9nsd_xyz", "U0", reference="atoms"))
    per_atom = [float(sample.targets["U0"]) / len(sample) for sample in energies]
    assert -6 < min(per_atom) < max(per_atom) < -2.5  # atomisation energies of organic molecules, eV per atom
