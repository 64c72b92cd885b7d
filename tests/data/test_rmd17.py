from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from atomslim.data.readers import rmd17
from atomslim.errors import ConfigError
from data.complaints import complaint

KCAL = 23.060547830619
"""kcal/mol in one eV: 96485.33212 J/mol over 4184 J."""

PUBLISHED_KCAL = 23.061
"""The factor behind the published means."""

CARBON_DIOXIDE = -188.58 * 27.2114 * KCAL
"""kcal/mol."""


def arrays(**changes: Any) -> dict[str, Any]:
    """CO2 in the layout of rMD17; None leaves an array out."""
    content = {
        "nuclear_charges": np.array([6, 8, 8], dtype=np.uint8),
        "coords": np.array([[[0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]]] * 4) * np.arange(1, 5).reshape(4, 1, 1),
        "energies": CARBON_DIOXIDE + np.arange(4) * KCAL,
        "forces": np.full((4, 3, 3), 2 * KCAL),
        "old_energies": np.zeros(4),
    }
    return {name: value for name, value in (content | changes).items() if value is not None}


def save(path: Path, content: dict[str, Any]) -> Path:
    np.savez(path, **content)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(tmp_path / "rmd17_dioxide.npz", arrays())


def test_kcal_per_mol_become_ev(file: Path) -> None:
    samples = list(rmd17.read(file))
    assert len(samples) == rmd17.count(file) == 4
    energies = [float(sample.targets["energy"]) for sample in samples]
    assert energies == pytest.approx([CARBON_DIOXIDE / KCAL + frame for frame in range(4)], rel=1e-7)
    assert samples[2].targets["forces"] == pytest.approx(2.0)
    assert samples[2].positions[1].tolist() == pytest.approx([0, 0, 3.48])
    assert samples[2].numbers.tolist() == [6, 8, 8]
    assert not samples[2].pbc.any()
    assert samples[2].group == "CO2"
    assert samples[2].name == f"{file}, record 2"


def test_the_layout_of_md17_reads_too(tmp_path: Path) -> None:
    old = arrays()
    new = {"z": old["nuclear_charges"], "R": old["coords"], "E": old["energies"].reshape(4, 1), "F": old["forces"]}
    path = save(tmp_path / "md17_dioxide.npz", new | {"name": np.array("dioxide")})
    for one, other in zip(rmd17.read(path), rmd17.read(save(tmp_path / "rmd17_dioxide.npz", old)), strict=True):
        assert one.targets["energy"] == other.targets["energy"]
        assert np.array_equal(one.targets["forces"], other.targets["forces"])
        assert np.array_equal(one.positions, other.positions)


@pytest.mark.parametrize(("unit", "text"), [("eV", np.array("eV")), ("eV", np.array([b"eV"])), ("", None)])
def test_units_in_the_file_are_obeyed(unit: str, text: Any, tmp_path: Path) -> None:
    content = {key: value for key, value in arrays().items() if key != "old_energies"}
    scale = KCAL if unit else 1.0
    content["energies"] /= scale
    content["forces"] /= scale
    content |= {} if text is None else {"e_unit": text, "r_unit": np.array("Ang")}
    sample = next(rmd17.read(save(tmp_path / "a.npz", content)))
    assert float(sample.targets["energy"]) == pytest.approx(CARBON_DIOXIDE / KCAL)
    assert sample.targets["forces"] == pytest.approx(2.0)


def test_bohr_become_angstrom(tmp_path: Path) -> None:
    sample = next(rmd17.read(save(tmp_path / "a.npz", arrays()), length_unit="bohr"))
    assert sample.positions[1, 2] == pytest.approx(1.16 * 0.529177)
    assert sample.targets["forces"] == pytest.approx(2.0 / 0.529177)


@pytest.mark.parametrize(("unit", "factor"), [("eV", KCAL), ("Hartree", KCAL * 27.2114), ("kJ/mol", 1 / 4.184)])
def test_energies_in_another_unit_are_recognised(unit: str, factor: float, tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", arrays(energies=arrays()["energies"] / factor))
    complaint(rmd17.read(path), f"{path}, record 0", f'energy_unit="{unit}"', "CO2")
    assert len(list(rmd17.read(path, energy_unit=unit))) == 4


def test_energies_without_their_reference_are_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", arrays(energies=np.array([-388.0, -389.0, 0.0, 1.0])))
    assert len(list(rmd17.read(path))) == 4


def test_a_molecule_is_found_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "rmd17" / "npz_data"
    folder.mkdir(parents=True)
    benzene = arrays(nuclear_charges=np.array([6] * 6 + [1] * 6), coords=np.random.default_rng(0).random((4, 12, 3)))
    benzene |= {"forces": np.zeros((4, 12, 3)), "energies": np.full(4, -232.0 * 27.2114 * KCAL)}
    save(folder / "rmd17_benzene.npz", benzene)
    save(folder / "rmd17_azobenzene.npz", benzene)
    assert next(rmd17.read(tmp_path, "Benzene")).group == "benzene"
    assert rmd17.count(tmp_path, "benzene") == 4
    complaint(rmd17.read(tmp_path, "azobenzene"), "rmd17_azobenzene.npz: is C6H6, and azobenzene is C12H10N2")
    complaint(rmd17.read(tmp_path, "uracil"), tmp_path, "no .npz file of uracil")
    complaint(rmd17.read(tmp_path), "several files (rmd17_azobenzene.npz, rmd17_benzene.npz)")
    complaint(rmd17.read(tmp_path, "water"), "no molecule 'water'", "aspirin", kind=ConfigError)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"forces": None}, "has no forces (there is: coords, energies"),
        ({"forces": np.zeros((4, 2, 3))}, "forces has the shape (4, 2, 3) where (4, 3, 3)"),
        ({"coords": np.zeros((3, 3, 3))}, "coords has the shape (3, 3, 3)"),
        ({"nuclear_charges": np.array([[6, 8, 8]] * 4)}, "(frames, atoms, 3) is expected"),
        ({"energies": np.zeros(0), "coords": np.zeros((0, 3, 3)), "forces": np.zeros((0, 3, 3))}, "no frames"),
        ({"coords": np.array([1, "a", None], dtype=object)}, "damaged"),
        ({"nuclear_charges": np.array([6, 8, 0])}, "record 0: atom 2 has the atomic number 0"),
        ({"energies": np.array([CARBON_DIOXIDE, np.nan, 0, 0])}, "record 1: energy not finite"),
        ({"e_unit": np.array("cows")}, "the unit 'cows' is not known"),
    ],
)
def test_wrong_contents_are_named(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", arrays(**changes))
    assert complaint(rmd17.read(path), what).startswith(f"{path}")


def test_forces_that_are_not_finite_are_named(tmp_path: Path) -> None:
    forces = np.zeros((4, 3, 3))
    forces[2, 1, 0] = np.nan
    complaint(rmd17.read(save(tmp_path / "a.npz", arrays(forces=forces))), "a.npz, record 2: forces (row 1) not finite")


def test_a_cut_off_archive_is_named(file: Path) -> None:
    whole = file.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 10):
        file.write_bytes(whole[:size])
        complaint(rmd17.read(file), f"{file}: cut off or damaged")
    file.write_bytes(whole.replace(np.float64(2 * KCAL).tobytes(), np.float64(3).tobytes()))
    complaint(rmd17.read(file), f"{file}: cut off or damaged")


def test_other_files_are_named(tmp_path: Path) -> None:
    complaint(rmd17.read(tmp_path / "missing.npz"), "missing.npz: there is no such file")
    np.save(tmp_path / "a.npy", np.zeros(3))
    complaint(rmd17.read(tmp_path / "a.npy"), "a.npy: cut off or damaged")
    with ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    complaint(rmd17.read(tmp_path / "b.npz"), "b.npz: has no nuclear_charges")


def test_every_variant_says_where_it_comes_from() -> None:
    assert [variant.name for variant in rmd17.INFO.variants] == list(rmd17.FORMULAS)
    for variant in rmd17.INFO.variants:
        assert variant.files[0].filename == variant.path == f"rmd17_{variant.name}.npz"
    assert (rmd17.INFO.cutoff, rmd17.INFO.neighbours, rmd17.INFO.periodic) == (7.0, 100, False)


def test_aspirin_has_the_published_statistics(data_folder: Path) -> None:
    parts = [
        list(rmd17.read(data_folder / f"rmd17/rmd17_aspirin_{part}_01.npz", "aspirin")) for part in ("train", "test")
    ]
    samples = parts[0] + parts[1]
    assert len(parts[0]) == len(parts[1]) == 1000
    assert {sample.group for sample in samples} == {"aspirin"}
    assert samples[0].numbers.tolist() == [6] * 7 + [8] * 3 + [6] * 2 + [8] + [1] * 8
    energies = np.array([sample.targets["energy"] for sample in samples])
    forces = np.stack([sample.targets["forces"] for sample in samples])
    error = 0.2674 / np.sqrt(len(samples))
    assert energies.mean() == pytest.approx(-17617.3794 * PUBLISHED_KCAL / KCAL, abs=4 * error)
    assert energies.std() == pytest.approx(0.2674, rel=4 / np.sqrt(2 * len(samples)))
    assert forces.std() == pytest.approx(1.2733, rel=0.01)


def test_forces_of_aspirin_balance(data_folder: Path) -> None:
    for sample in list(rmd17.read(data_folder / "rmd17/rmd17_aspirin_test_01.npz"))[:50]:
        assert np.abs(sample.targets["forces"].sum(axis=0)).max() < 0.05
        assert np.linalg.norm(sample.positions[0] - sample.positions[1:], axis=1).min() == pytest.approx(1.4, abs=0.45)


def test_forces_of_aspirin_lead_downhill(data_folder: Path) -> None:
    """Forces have the right sign: along the line between two frames, the energy falls as they say, on average."""
    samples = list(rmd17.read(data_folder / "rmd17/rmd17_aspirin_train_01.npz"))
    stretch = [np.linalg.norm(sample.positions[0] - sample.positions[1]) for sample in samples]
    pull = [
        float((sample.targets["forces"][0] - sample.targets["forces"][1]) @ (sample.positions[0] - sample.positions[1]))
        for sample in samples
    ]
    assert np.corrcoef(stretch, pull)[0, 1] < -0.5  # a stretched bond pulls together
