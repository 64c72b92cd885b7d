from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import iread, write
from numpy.typing import NDArray

from atomslim.data.readers import ase_files
from atomslim.data.remarks import Remarks
from atomslim.errors import ConfigError
from data.complaints import complaint
from data.made_samples import STRESS, crystal


def xyz(
    path: Path, comment: str, atoms: str = "C 0 0 0 1 2 3\nO 0 0 1.2 -1 -2 -3\n", columns: str = "forces:R:3"
) -> Path:
    path.write_text(f"{atoms.count(chr(10))}\n{comment} Properties=species:S:1:pos:R:3:{columns}\n{atoms}")
    return path


@pytest.mark.parametrize(
    "name", ["a.extxyz", "a.xyz", "a.extxyz.gz", "a.extxyz.xz", "a.traj", "a.db", "a.json", "a@1.xyz"]
)
def test_every_format_gives_every_frame_with_its_labels(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path, [crystal(-3.5), crystal(-4.5), crystal(-5.5)], format="extxyz" if "xyz" in name else None)
    samples = list(ase_files.read(path))
    assert [float(sample.targets["energy"]) for sample in samples] == [-3.5, -4.5, -5.5]
    assert samples[1].targets["forces"] == pytest.approx(np.arange(6.0).reshape(2, 3) + 0.5)
    assert samples[1].targets["stress"] == pytest.approx(STRESS)
    assert samples[1].cell == pytest.approx(crystal().cell.array)
    assert samples[1].pbc.all()
    assert samples[1].numbers.tolist() == [11, 17]
    assert samples[1].name == f"{path}, record 1"
    assert ase_files.count(path) == (3 if name == "a.db" else None)


@pytest.mark.parametrize("name", ["a.traj", "a.db", "a.json"])
def test_forces_of_fixed_atoms_are_kept(name: str, tmp_path: Path) -> None:
    atoms = crystal()
    atoms.set_constraint(FixAtoms([0]))
    write(tmp_path / name, atoms)
    sample = next(ase_files.read(tmp_path / name))
    assert sample.targets["forces"][0] == pytest.approx([0.5, 1.5, 2.5])
    assert sample.fixed.tolist() == [True, False]


def test_move_mask_does_not_zero_forces(tmp_path: Path) -> None:
    rows = "C 0 0 0 1 2 3 F\nO 0 0 1.2 -1 -2 -3 T\n"
    sample = next(ase_files.read(xyz(tmp_path / "a.xyz", "energy=-1", rows, "forces:R:3:move_mask:L:1")))
    assert sample.targets["forces"].tolist() == [[1, 2, 3], [-1, -2, -3]]
    assert sample.fixed.tolist() == [True, False]


@pytest.mark.parametrize("name", ["energy", "Energy", "REF_energy", "dft_energy", "total_energy"])
@pytest.mark.parametrize("forces", ["forces", "Forces", "force", "REF_forces"])
def test_labels_are_found_under_many_names(name: str, forces: str, tmp_path: Path) -> None:
    sample = next(ase_files.read(xyz(tmp_path / "a.xyz", f"{name}=-1.25", columns=f"{forces}:R:3")))
    assert float(sample.targets["energy"]) == -1.25
    assert sample.targets["forces"].tolist() == [[1, 2, 3], [-1, -2, -3]]


def test_labels_may_be_named(tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", "energy=-1 E0=-2 gap=0.5 family=oxides", columns="push:R:3")
    sample = next(ase_files.read(path, energy_key="e0", forces_key="push", properties=("gap",), group_key="family"))
    assert float(sample.targets["energy"]) == -2
    assert float(sample.targets["gap"]) == 0.5
    assert sample.targets["forces"][0].tolist() == [1, 2, 3]
    assert sample.group == "oxides"
    assert list(next(ase_files.read(path, properties="gap, E0")).targets) == ["energy", "gap", "E0"]
    complaint(
        ase_files.read(path, energy_key="E1"), f"{path}: no structure has E1 (there is: E0, energy, family, gap, push)"
    )
    complaint(ase_files.read(path, properties="family"), f"{path}, record 0: family is not a number")


def test_contradicting_labels_are_refused(tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", "energy=-1 REF_energy=-2")
    complaint(ase_files.read(path), "energy and REF_energy differ: say with the option energy_key")
    assert float(next(ase_files.read(path, energy_key="REF_energy")).targets["energy"]) == -2
    assert float(next(ase_files.read(xyz(path, "energy=-1 REF_energy=-1"))).targets["energy"]) == -1


def test_forces_may_be_absent(tmp_path: Path) -> None:
    sample = next(ase_files.read(xyz(tmp_path / "a.xyz", "energy=-1", columns="velo:R:3")))
    assert list(sample.targets) == ["energy"]


def test_structures_without_labels_are_read(tmp_path: Path) -> None:
    assert next(ase_files.read(xyz(tmp_path / "a.xyz", "bandgap=1", columns="velo:R:3"))).targets == {}


def test_labels_may_be_missing_in_some_structures_only(tmp_path: Path) -> None:
    first = "1\nenergy=-1 Properties=species:S:1:pos:R:3\nC 0 0 0\n"
    (tmp_path / "a.xyz").write_text(first + "1\nE=-2 gap=0.5 Properties=species:S:1:pos:R:3:F:R:3\nC 0 0 0 1 2 3\n")
    samples = list(ase_files.read(tmp_path / "a.xyz", energy_key="E", forces_key="F", properties="gap"))
    assert [sorted(sample.targets) for sample in samples] == [[], ["energy", "forces", "gap"]]
    assert samples[1].targets["forces"].tolist() == [[1, 2, 3]]
    complaint(ase_files.read(tmp_path / "a.xyz", forces_key="G"), f"{tmp_path / 'a.xyz'}: no structure has G")


@pytest.mark.parametrize("value", ["T", "F", "true"])
def test_a_truth_value_is_no_energy(value: str, tmp_path: Path) -> None:
    complaint(ase_files.read(xyz(tmp_path / "a.xyz", f"energy={value}")), "record 0: the energy is true or false")
    remark = next(ase_files.read(xyz(tmp_path / "a.xyz", "water, its energy and stress")))
    assert list(remark.targets) == ["forces"]


def test_a_lattice_without_periodicity_is_a_molecule(tmp_path: Path) -> None:
    lattice = 'Lattice="9 0 0 0 9 0 0 0 9" energy=-1'
    assert not next(ase_files.read(xyz(tmp_path / "a.xyz", f'{lattice} pbc="F F F"'))).pbc.any()
    assert next(ase_files.read(xyz(tmp_path / "a.xyz", f'{lattice} pbc="T T F"'))).pbc.tolist() == [True, True, False]
    assert next(ase_files.read(xyz(tmp_path / "a.xyz", lattice))).pbc.all()
    assert not next(ase_files.read(xyz(tmp_path / "a.xyz", "energy=-1"))).pbc.any()


def test_tags_are_kept(tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", "energy=-1", "C 0 0 0 1\nO 0 0 1.2 0\n", "tags:I:1")
    assert next(ase_files.read(path)).tags.tolist() == [1, 0]
    path = xyz(tmp_path / "a.xyz", "energy=-1")
    assert next(ase_files.read(path)).tags.tolist() == [2, 2]


def test_units_are_converted(tmp_path: Path) -> None:
    path = tmp_path / "a.traj"
    write(path, crystal())
    hartree, bohr = 27.211386, 0.52917721
    sample = next(ase_files.read(path, energy_unit="Hartree", length_unit="bohr"))
    assert float(sample.targets["energy"]) == pytest.approx(-3.5 * hartree)
    assert sample.targets["forces"][0, 0] == pytest.approx(0.5 * hartree / bohr)
    assert sample.targets["stress"] == pytest.approx(STRESS * hartree / bohr**3)
    assert sample.positions == pytest.approx(crystal().positions * bohr)
    assert sample.cell == pytest.approx(crystal().cell.array * bohr)
    sample = next(ase_files.read(path, stress_factor=-1 / 160.21766))
    assert sample.targets["stress"] == pytest.approx(-STRESS / 160.21766)
    complaint(ase_files.read(path, energy_unit="cows"), "energy_unit: the unit 'cows' is not known", kind=ConfigError)
    complaint(ase_files.read(path, "part"), "no variants", kind=ConfigError)


def test_a_virial_becomes_stress(tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", 'Lattice="2 0 0 0 3 0 0 0 4" energy=-1 virial="24 0 0 0 48 0 0 0 72"')
    assert next(ase_files.read(path)).targets["stress"] == pytest.approx(np.diag([-1.0, -2.0, -3.0]))
    path = xyz(tmp_path / "b.xyz", 'energy=-1 virial="24 0 0 0 48 0 0 0 72"')
    assert list(next(ase_files.read(path)).targets) == ["energy", "forces"]


def test_stress_is_energy_per_strain_and_volume(tmp_path: Path) -> None:
    """The sign: stretching a stretched crystal costs energy, so its stress is positive."""
    from ase.calculators.lj import LennardJones

    def stretched(strain: float) -> Atoms:
        atoms = bulk("Ar", "fcc", a=1.6 * (1 + strain))
        atoms.calc = LennardJones(sigma=1.0, epsilon=1.0, rc=3.0)
        return atoms

    atoms = stretched(0.02)
    atoms.get_stress()
    write(tmp_path / "a.extxyz", atoms)
    stress = next(ase_files.read(tmp_path / "a.extxyz")).targets["stress"]
    slope = (stretched(0.021).get_potential_energy() - stretched(0.019).get_potential_energy()) / 0.002
    assert np.trace(stress) * atoms.get_volume() == pytest.approx(slope * 1.02, rel=1e-3)
    assert np.trace(stress) > 0


@pytest.mark.parametrize(("unit", "energy"), [("Hartree", -113.3), ("kcal/mol", -71097.0)])
def test_total_energies_in_another_unit_are_recognised(unit: str, energy: float, tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", f"energy={energy}")
    complaint(ase_files.read(path), f"{path}, record 0", f'energy_unit="{unit}"')
    assert float(next(ase_files.read(path, energy_unit=unit)).targets["energy"]) == pytest.approx(-3083.0, rel=1e-3)
    assert float(next(ase_files.read(path, energy_unit="eV")).targets["energy"]) == energy


_WHOLE = "2\nenergy=-1\nC 0 0 0\nO 0 0 1.2\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the file is empty"),
        ("\n\n", "holds no structures"),
        (f"{_WHOLE}2\nenergy=-1\nC 0 0 0\n", "record 1: cannot be read: the file ends after 1 of 2 atoms"),
        (f"{_WHOLE}2\n", "record 1: cannot be read"),
        (f"{_WHOLE}C 0 0 0\n", "record 1: cannot be read: expected the number of atoms"),
        (f"{_WHOLE}1\nenergy=-1\nXy 0 0 0\n", "record 1: cannot be read: unknown element or name 'Xy'"),
        (f"{_WHOLE}1\nenergy=-1\nC 0 zero 0\n", "record 1: cannot be read"),
        (f"{_WHOLE}1\nenergy=nan\nC 0 0 0\n", "record 1: energy not finite"),
        (f"{_WHOLE}1\nenergy=-1\nC 0 0 inf\n", "record 1: positions (row 0) not finite"),
        (f"{_WHOLE}0\nenergy=-1\n", "record 1: "),
        (f"{_WHOLE}1\nenergy=low\nC 0 0 0\n", "record 1: "),
    ],
)
def test_broken_xyz_is_named(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(text)
    assert complaint(ase_files.read(tmp_path / "a.xyz"), what).startswith(f"{tmp_path / 'a.xyz'}")


@pytest.mark.parametrize("name", ["a.traj", "a.db", "a.json", "a.extxyz.gz", "a.extxyz.xz"])
def test_cut_off_files_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path, [crystal(energy) for energy in range(60)], format="extxyz" if "xyz" in name else None)
    whole = path.read_bytes()
    for size in (0, len(whole) // 5, len(whole) // 2):
        broken = tmp_path / f"{size}{name}"
        broken.write_bytes(whole[:size])
        complaint(ase_files.read(broken), broken)


def test_a_database_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"hello" * 100)
    complaint(ase_files.read(tmp_path / "a.db"), f"{tmp_path / 'a.db'}")
    with pytest.raises(Exception, match=r"a\.db"):
        ase_files.count(tmp_path / "a.db")
    with connect(tmp_path / "b.db") as rows:
        rows.delete([rows.write(molecule("H2O"))])
    complaint(ase_files.read(tmp_path / "b.db"), "the database holds no structures")


def test_labels_in_a_database_are_found(tmp_path: Path) -> None:
    with connect(tmp_path / "a.db") as rows:
        rows.write(
            molecule("H2O"),
            key_value_pairs={"gap": 1.5, "source": "mine"},
            data={"REF_energy": -1.0, "force": np.ones((3, 3))},
        )
    sample = next(ase_files.read(tmp_path / "a.db", properties="gap", group_key="source"))
    assert float(sample.targets["energy"]) == -1
    assert sample.targets["forces"].tolist() == np.ones((3, 3)).tolist()
    assert float(sample.targets["gap"]) == 1.5
    assert sample.group == "mine"


def test_reading_is_lazy(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(f"{_WHOLE}nonsense")
    assert len(next(ase_files.read(tmp_path / "a.xyz"))) == 2


def test_no_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.qqq").write_text("hello")
    complaint(ase_files.read(tmp_path / "a.qqq"), "no format that ASE knows")


def test_real_mptrj_as_aselmdb_agrees_with_extended_xyz(data_folder: Path) -> None:
    folder = data_folder / "materials"
    text = ase_files.read(folder / "mptrj-random-1k.xyz", group_key="mptrj_snapshot_id")
    rows = list(ase_files.read(folder / "mptrj_200.aselmdb", group_key="source_id"))
    assert len(rows) == ase_files.count(folder / "mptrj_200.aselmdb") == 200
    for row, frame in zip(rows, text, strict=False):
        assert row.numbers.tolist() == frame.numbers.tolist()
        assert row.pbc.all()
        assert frame.pbc.all()
        assert row.group == frame.group
        for one, other in zip(everything(row), everything(frame), strict=True):
            assert one == pytest.approx(other, abs=1e-7)


def everything(sample: Any) -> list[NDArray[np.float64]]:
    return [sample.positions, sample.cell, *(sample.targets[name] for name in ("energy", "forces", "stress"))]


def test_real_mptrj_values(data_folder: Path) -> None:
    samples = list(ase_files.read(data_folder / "materials/mptrj-random-1k.xyz"))
    assert len(samples) == 1000
    assert float(samples[0].targets["energy"]) == -28.75765745
    assert samples[0].targets["stress"][0, 2] == pytest.approx(0.0007746200973649859)
    largest = [np.abs(sample.targets["forces"]).max() for sample in samples]
    assert sum(value > 10 for value in largest) == 7
    calm = np.concatenate([sample.targets["forces"] for sample, top in zip(samples, largest, strict=True) if top <= 10])
    assert calm.std() == pytest.approx(0.32, abs=0.01)


def test_real_band_gaps(data_folder: Path) -> None:
    file = data_folder / "materials/mp_gap_sample_1000.xyz"
    samples = list(islice(ase_files.read(file, properties=("band_gap",)), 200))
    assert all(sample.targets["band_gap"] >= 0 for sample in samples)
    remarks = Remarks()
    assert not any(sample.targets for sample in islice(ase_files.read_noting(remarks, file), 5))
    assert remarks.unused == {"band_gap": ""}


def test_real_databases(data_folder: Path) -> None:
    samples = list(ase_files.read(data_folder / "materials/orb_10_mptraj_systems.db"))
    assert [set(sample.targets) for sample in samples] == [{"energy", "forces", "stress"}] * 10
    oxides = list(ase_files.read(data_folder / "oc22/oxides.db"))
    assert len(oxides) == ase_files.count(data_folder / "oc22/oxides.db") == 295
    assert max(np.abs(sample.targets["forces"]).max() for sample in oxides) < 0.2


def test_real_molecules_in_a_box_are_not_periodic(data_folder: Path) -> None:
    samples = list(ase_files.read(data_folder / "3bpa/iso_atoms.xyz"))
    assert [float(sample.targets["energy"]) for sample in samples][1] == -13.587222780835477
    first = next(ase_files.read(data_folder / "3bpa/train_300K.xyz"))
    assert not first.pbc.any()
    assert first.cell[0, 0] == 50.0
    assert float(first.targets["energy"]) == -17660.461737861464
    assert first.targets["forces"][0].tolist() == [0.17092934, 0.13274200, 0.79555789]


def test_real_trajectories_keep_the_forces_of_fixed_atoms(data_folder: Path) -> None:
    file = data_folder / "oc20/traj/random1000156.traj"
    sample = next(ase_files.read(file))
    atoms = next(iread(file, 0))
    assert sample.fixed.any()
    assert np.abs(sample.targets["forces"][sample.fixed]).max() > 0.01
    assert sample.targets["forces"] == pytest.approx(atoms.get_forces(apply_constraint=False))
    assert float(sample.targets["energy"]) == pytest.approx(atoms.get_potential_energy())


def test_real_md22_is_refused_as_a_plain_file(data_folder: Path) -> None:
    complaint(ase_files.read(data_folder / "md22/md22_Ac-Ala3-NHMe_5frames.xyz"), 'energy_unit="kcal/mol"')
