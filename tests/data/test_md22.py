from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.formula import Formula
from numpy.typing import NDArray

from atomslim.data.readers import md22
from atomslim.errors import ConfigError
from data.complaints import complaint

KCAL = 23.060547830619
NUMBERS = np.array([6] * 12 + [1] * 22 + [7] * 4 + [8] * 4)
TOTAL = -990.8 * 27.2114 * KCAL  # kcal/mol


def archive(path: Path, **changes: Any) -> Path:
    """Three frames in the layout of MD22's archives."""
    content: dict[str, Any] = {
        "z": NUMBERS.astype(np.uint8),
        "R": np.random.default_rng(0).random((3, 42, 3)) * 10,
        "E": np.full((3, 1), TOTAL),
        "F": np.full((3, 42, 3), KCAL),
        "e_unit": np.array("kcal/mol"),
        "r_unit": np.array("Ang"),
        "name": np.array("Ac-Ala3-NHMe"),
        "type": np.array("d"),
    }
    np.savez(path, **{name: value for name, value in (content | changes).items() if value is not None})
    return path


def frame(numbers: NDArray[Any] = NUMBERS, comment: str = f"Energy={TOTAL}", force: str = "23.0605478") -> str:
    symbols = {1: "H", 6: "C", 7: "N", 8: "O"}
    atoms = "".join(f"{symbols[int(number)]} {atom}.0 0.5 0.25 {force} 0 0\n" for atom, number in enumerate(numbers))
    return f"{len(numbers)}\n{comment} Properties=species:S:1:pos:R:3:forces:R:3\n{atoms}"


def test_an_archive_becomes_ev(tmp_path: Path) -> None:
    path = archive(tmp_path / "md22_Ac-Ala3-NHMe.npz")
    samples = list(md22.read(path, "ac-ala3-nhme"))
    assert len(samples) == md22.count(path) == 3
    assert [float(sample.targets["energy"]) for sample in samples] == pytest.approx([TOTAL / KCAL] * 3)
    assert samples[1].targets["forces"] == pytest.approx(1.0)
    assert samples[1].group == "Ac-Ala3-NHMe"
    assert samples[1].name == f"{path}, record 1"


def test_units_of_an_archive_are_obeyed(tmp_path: Path) -> None:
    positions = np.random.default_rng(0).random((3, 42, 3))
    energies, forces = np.full((3, 1), TOTAL / KCAL / 27.211386), np.full((3, 42, 3), 0.01)
    units = {"e_unit": np.array("hartree"), "r_unit": np.array("bohr")}
    sample = next(md22.read(archive(tmp_path / "a.npz", R=positions, E=energies, F=forces, **units)))
    assert float(sample.targets["energy"]) == pytest.approx(TOTAL / KCAL, rel=1e-6)
    assert sample.targets["forces"] == pytest.approx(0.5142207)
    assert sample.positions == pytest.approx(positions[0] * 0.5291772)


def test_extended_xyz_becomes_ev(tmp_path: Path) -> None:
    path = tmp_path / "md22_Ac-Ala3-NHMe.xyz"
    path.write_text(frame() * 2)
    one, other = md22.read(tmp_path, "Ac-Ala3-NHMe")
    assert float(one.targets["energy"]) == pytest.approx(TOTAL / KCAL, rel=1e-7)
    assert other.targets["forces"][:, 0] == pytest.approx(1.0)
    assert other.name == f"{path}, record 1"
    assert other.group == "Ac-Ala3-NHMe"
    assert not other.pbc.any()
    assert md22.count(path) is None


def test_the_right_file_of_a_folder_is_chosen(tmp_path: Path) -> None:
    for name in ("AT-AT", "AT-AT-CG-CG", "Ac-Ala3-NHMe"):
        archive(tmp_path / f"md22_{name}.npz")
    assert next(md22.read(tmp_path, "Ac-Ala3-NHMe")).group == "Ac-Ala3-NHMe"
    complaint(md22.read(tmp_path, "AT-AT"), "md22_AT-AT.npz: is C12H22N4O4, and AT-AT is C20H22N14O4")
    complaint(md22.read(tmp_path, "aspirin"), "no molecule 'aspirin'", kind=ConfigError)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (frame() + frame(np.array([6, 8, 8])), "record 1: has other atoms than record 0"),
        (frame() + frame(comment="E=1"), "record 1: has no energy (it has: E, forces)"),
        (frame() + frame(force="nan"), "record 1: forces (row 0) not finite"),
        (frame() + frame()[:-300], "record 1: cannot be read"),
        ("\n", "holds no structures"),
        ("", "the file is empty"),
    ],
)
def test_wrong_contents_are_named(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(text)
    assert complaint(md22.read(path), what).startswith(f"{path}")


def test_a_wrong_unit_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(frame(comment=f"Energy={TOTAL / KCAL}"))
    complaint(md22.read(path), 'energy_unit="eV"')
    assert float(next(md22.read(path, energy_unit="eV")).targets["energy"]) == pytest.approx(TOTAL / KCAL)
    complaint(md22.read(path, energy_unit="cows"), "energy_unit: the unit 'cows' is not known", kind=ConfigError)


def test_every_molecule_has_the_published_number_of_atoms() -> None:
    atoms = [len(Formula(formula)) for formula in md22.FORMULAS.values()]
    assert atoms == [42, 56, 87, 60, 118, 148, 370]


def test_the_real_tetrapeptide(data_folder: Path) -> None:
    file = data_folder / "md22/md22_Ac-Ala3-NHMe_5frames.xyz"
    samples = list(md22.read(file, "Ac-Ala3-NHMe"))
    assert len(samples) == 5
    assert float(samples[0].targets["energy"]) == pytest.approx(-620726.002662 / KCAL, rel=1e-7)
    energies = np.array([sample.targets["energy"] for sample in samples])
    assert energies.mean() == pytest.approx(
        -26913.953 * 23.061 / KCAL, abs=10 * 0.3555
    )  # the first frames, before the molecule is warm
    assert samples[0].targets["forces"][0] == pytest.approx(np.array([1.07102, 1.79039, -3.86023]) / KCAL)
    assert 0.7 < np.std([sample.targets["forces"] for sample in samples]) < 1.1292
    assert np.abs(samples[0].targets["forces"].sum(axis=0)).max() < 0.05
    assert next(md22.read(data_folder / "md22", "Ac-Ala3-NHMe")).name == f"{file}, record 0"
