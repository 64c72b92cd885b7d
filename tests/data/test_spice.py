from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atomslim.data.readers import spice
from data.complaints import complaint

h5py = pytest.importorskip("h5py", reason="needs the data extra")

HARTREE, BOHR = 27.211386246, 0.529177210903
METHANE = -40.5
UNITS = {
    "conformations": "bohr",
    "dft_total_energy": "hartree",
    "formation_energy": "hartree",
    "dft_total_gradient": "hartree/bohr",
}
SUBSETS = {
    "a": "SPICE Dipeptides Single Points Dataset v1.2",
    "b": "SPICE Solvated Amino Acids Single Points Dataset v1.1",
}


def molecule(**changes: Any) -> dict[str, Any]:
    """Two conformations of methane; None leaves a dataset out."""
    columns = {
        "atomic_numbers": np.array([6, 1, 1, 1, 1], dtype=np.int16),
        "conformations": np.arange(30, dtype=np.float32).reshape(2, 5, 3),
        "dft_total_energy": np.array([METHANE, METHANE + 0.1]),
        "formation_energy": np.array([-0.6, -0.5]),
        "dft_total_gradient": np.full((2, 5, 3), 0.01, dtype=np.float32),
    }
    return {name: value for name, value in (columns | changes).items() if value is not None}


def save(path: Path, units: dict[str, str] = UNITS, **changes: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, subset in SUBSETS.items():
            group = file.create_group(name)
            for column, values in molecule(**(changes if name == "b" else {})).items():
                dataset = group.create_dataset(column, data=values)
                if column in units:
                    dataset.attrs["units"] = units[column]
            group.create_dataset("subset", data=[subset], dtype=h5py.string_dtype())
            group.create_dataset("smiles", data=["C"], dtype=h5py.string_dtype())
    return path


def test_gradients_become_forces_and_units_ours(tmp_path: Path) -> None:
    path = save(tmp_path / "SPICE.hdf5")
    samples = list(spice.read(path))
    assert len(samples) == spice.count(path) == 4
    assert [float(sample.targets["energy"]) for sample in samples[:2]] == pytest.approx(
        [METHANE * HARTREE, (METHANE + 0.1) * HARTREE], rel=1e-8
    )
    assert samples[1].targets["forces"] == pytest.approx(-0.01 * HARTREE / BOHR)
    assert samples[1].positions[0] == pytest.approx(np.array([15, 16, 17]) * BOHR)
    assert samples[1].numbers.tolist() == [6, 1, 1, 1, 1]
    assert samples[1].name == f"{path}, a, conformation 1"
    assert [sample.group for sample in samples] == ["a", "a", "b", "b"]


def test_other_units_are_obeyed(tmp_path: Path) -> None:
    ours = {"conformations": "angstrom", "dft_total_energy": "kcal/mol", "dft_total_gradient": "eV Å^-1"}
    energies = np.array([METHANE, METHANE]) * HARTREE * 23.0605478
    path = save(tmp_path / "SPICE.hdf5", UNITS | ours, dft_total_energy=energies)
    sample = list(spice.read(path, "solvated"))[1]
    assert float(sample.targets["energy"]) == pytest.approx(METHANE * HARTREE)
    assert sample.targets["forces"] == pytest.approx(-0.01)
    assert sample.positions[0].tolist() == [15, 16, 17]
    complaint(spice.read(path, "dipeptides"), "a: the energy -40.5 kcal/mol would be right for CH4 in Hartree")
    complaint(spice.read(save(path, {"dft_total_energy": "cows"})), "a, dft_total_energy: the unit 'cows' is not known")
    assert list(spice.read(save(path, {})))[1].positions[0] == pytest.approx(np.array([15, 16, 17]) * BOHR)


def test_formation_energies_on_request(tmp_path: Path) -> None:
    sample = next(spice.read(save(tmp_path / "SPICE.hdf5"), energy="formation"))
    assert float(sample.targets["energy"]) == pytest.approx(-0.6 * HARTREE)


@pytest.mark.parametrize("name", ["solvated_amino_acids", "Solvated Amino Acids", "solvated-amino", "amino"])
def test_a_subset_is_found_by_a_part_of_its_name(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "SPICE.hdf5")
    assert {sample.group for sample in spice.read(path, name)} == {"b"}
    assert spice.count(path, name) == 2


def test_an_unknown_subset_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "SPICE.hdf5")
    complaint(spice.read(path, "pubchem"), path, "no molecule of the subset 'pubchem'", "Dipeptides", "Solvated")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"dft_total_gradient": None}, "b: has no dft_total_gradient (there is: atomic_numbers, conformations"),
        ({"dft_total_gradient": np.zeros((2, 4, 3))}, "b: dft_total_gradient has the shape (2, 4, 3)"),
        ({"conformations": np.zeros((1, 5, 3))}, "b: conformations has the shape (1, 5, 3)"),
        ({"dft_total_gradient": np.full((2, 5, 3), np.nan)}, "b, conformation 0: forces (row 0) not finite"),
        ({"dft_total_energy": np.array([METHANE, np.nan])}, "b, conformation 1: energy not finite"),
        ({"dft_total_energy": np.array([METHANE, METHANE]) * HARTREE}, "would be right for CH4 in eV"),
        ({"atomic_numbers": np.array([6, 1, 1, 1, 0])}, "b, conformation 0: atom 4 has the atomic number 0"),
    ],
)
def test_wrong_contents_are_named(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    path = save(tmp_path / "SPICE.hdf5", **changes)
    assert complaint(spice.read(path), what).startswith(f"{path}, b")


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "SPICE.hdf5")
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        complaint(spice.read(path), f"{path}: cut off or damaged")
    complaint(spice.read(tmp_path / "missing.hdf5"), "missing.hdf5: there is no such file")
    with h5py.File(path, "w"):
        pass
    complaint(spice.read(path), f"{path}: is empty")


def test_the_real_file(data_folder: Path) -> None:
    path = data_folder / "spice/SPICE-1.1.4_n2.hdf5"
    samples = list(spice.read(path))
    assert len(samples) == spice.count(path) == 55
    assert [len(list(spice.read(path, name))) for name in ("pubchem", "des370k")] == [50, 5]
    with h5py.File(path) as file:
        group = file["103147721"]
        assert samples[7].targets["energy"] == pytest.approx(group["dft_total_energy"][7] * HARTREE, rel=1e-8)
        assert samples[7].targets["forces"] == pytest.approx(-group["dft_total_gradient"][7] * HARTREE / BOHR, rel=1e-6)
        formation = float(next(spice.read(path, energy="formation")).targets["energy"])
        assert formation == pytest.approx(group["formation_energy"][0] * HARTREE, rel=1e-8)
    assert samples[0].group == "103147721"
    assert np.isin(samples[0].numbers, [1, 6, 7]).all()
    assert sorted(set(samples[-1].numbers.tolist())) == [1, 6, 11]


def test_real_forces_lead_downhill(data_folder: Path) -> None:
    """Bonds of C to H (1.1 Å) that are stretched pull together: the sign is that of forces."""
    stretch, pull = [], []
    for sample in spice.read(data_folder / "spice/SPICE-1.1.4_n2.hdf5", "pubchem"):
        carbon, hydrogen = np.flatnonzero(sample.numbers == 6), np.flatnonzero(sample.numbers == 1)
        line = sample.positions[hydrogen][:, None] - sample.positions[carbon][None]
        length = np.linalg.norm(line, axis=2)
        for near in np.argwhere(length < 1.4):
            one, other = tuple(near)
            force = sample.targets["forces"][hydrogen[one]] - sample.targets["forces"][carbon[other]]
            stretch.append(length[one, other])
            pull.append(float(force @ line[one, other]))
    assert len(stretch) > 100
    assert np.mean(stretch) == pytest.approx(1.1, abs=0.03)
    assert np.corrcoef(stretch, pull)[0, 1] < -0.9
