"""What labels are found, counted and named, whatever they are called; and what is said of stresses and energies."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from ase.stress import full_3x3_to_voigt_6_stress

from atomslim.atoms import Sample
from atomslim.data import open_dataset
from atomslim.data.check import check
from atomslim.data.dataset import RawDataset
from atomslim.data.prepare import prepare
from atomslim.data.readers import ase_files
from atomslim.data.registry import resolve
from atomslim.data.survey import survey
from atomslim.errors import AtomslimWarning, DataError
from data.complaints import complaint


def line(path: Path | str, **options: str) -> str:
    return survey(open_dataset(str(path), options=options)).line()


def frame(comment: str, columns: str = "", rows: str = "") -> str:
    return f"2\n{comment} Properties=species:S:1:pos:R:3{columns}\nC 0 0 0{rows}\nO 0 0 1.2{rows}\n"


FORCES = " 0.1 0.2 0.3"


def test_all_structures_are_counted_and_unused_fields_named(tmp_path: Path) -> None:
    text = "1\nREF_energy=-1.5\nC 0 0 0\n"
    text += 3 * frame(
        "REF_energy=-2.5 free_energy=-2.6 time=3.0 config_weight=1.0", ":REF_forces:R:3:F:R:3", FORCES * 2
    )
    (tmp_path / "a.xyz").write_text(text + frame("note=x", ":vel:R:3", FORCES))
    assert line(tmp_path / "a.xyz") == (
        "energy 4/5 (REF_energy), forces 3/5 (REF_forces), stress 0/5; not used: F (n,3), free_energy"
    )
    named = line(tmp_path / "a.xyz", energy_key="free_energy", forces_key="F")
    assert named == "energy 3/5 (free_energy), forces 3/5 (F), stress 0/5; not used: REF_energy, REF_forces (n,3)"


@pytest.mark.parametrize("name", ["MACE_forces", "F", "grad", "my_forces"])
def test_forces_under_any_other_name_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(frame("energy=-1", f":{name}:R:3", FORCES))
    assert line(tmp_path / "a.xyz").endswith(f"not used: {name} (n,3)")


@pytest.mark.parametrize("kind", ["db", "json"])
def test_databases_have_labels_in_all_their_fields(kind: str, tmp_path: Path) -> None:
    path, water = tmp_path / f"a.{kind}", molecule("H2O")
    with connect(path) as rows:
        water.calc = SinglePointCalculator(water, energy=-14.0)
        rows.write(water)
        rows.write(molecule("H2O"), key_value_pairs={"dft_energy": -14.5}, data={"DFT_Forces": np.ones((3, 3))})
        rows.write(molecule("H2O"), data={"grad": np.ones((3, 3))})
    assert line(path) == ("energy 2/3 (dft_energy), forces 1/3 (DFT_Forces), stress 0/3; not used: grad (n,3)")
    samples = list(ase_files.read(path))
    assert [float(sample.targets["energy"]) for sample in samples[:2]] == [-14.0, -14.5]
    assert samples[1].targets["forces"].tolist() == np.ones((3, 3)).tolist()


def test_a_container_knows_what_its_file_had(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(frame("DFT_energy=-1", ":F:R:3", FORCES) + frame("note=x"))
    expected = "energy 1/2 (DFT_energy), forces 0/2, stress 0/2; not used: F (n,3)"
    assert line(tmp_path / "a.xyz") == expected
    prepare(resolve(str(tmp_path / "a.xyz")), tmp_path / "a.samples")
    assert line(tmp_path / "a.samples") == expected


def test_datasets_too_large_for_memory_are_counted_in_one_pass(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(20 * frame("energy=-1"))
    found = survey(RawDataset(resolve(str(tmp_path / "a.xyz")), memory_limit=5000))
    assert (found.structures, found.counts["energy"]) == (20, 20)


def test_labels_of_nothing_but_nan_are_missing(tmp_path: Path) -> None:
    text = frame("energy=-1", ":forces:R:3", " nan nan nan") + frame("energy=-1", ":forces:R:3", FORCES)
    (tmp_path / "a.xyz").write_text(text)
    assert line(tmp_path / "a.xyz") == ("energy 2/2, forces 1/2, stress 0/2; left out: forces of nothing but NaN in 1")
    (tmp_path / "b.xyz").write_text(frame("energy=-1", ":forces:R:3", " nan 0 0"))
    complaint(ase_files.read(tmp_path / "b.xyz"), "record 0: forces (row 0) not finite")


VOIGT = "0.01 0.02 0.03 0.004 0.005 0.006"
FULL = np.array([[0.01, 0.006, 0.005], [0.006, 0.02, 0.004], [0.005, 0.004, 0.03]])
NINE = " ".join(map(str, FULL.ravel()))
CUBE = 'lattice="2 0 0 0 2 0 0 0 2" energy=-1'


@pytest.mark.parametrize("numbers", [VOIGT, NINE])
@pytest.mark.parametrize("name", ["stress", "Stress", "REF_stress", "virial", "virials", "REF_virial"])
def test_stress_and_virial_of_six_or_nine_numbers(name: str, numbers: str, tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(frame(f'{CUBE} {name}="{numbers}"'))
    factor = -1 / 8 if "virial" in name else 1.0
    assert next(ase_files.read(tmp_path / "a.xyz")).targets["stress"] == pytest.approx(FULL * factor)


def test_an_asymmetric_stress_is_said_and_made_symmetric(tmp_path: Path) -> None:
    text = frame(f'{CUBE} stress="1 0.5 0 0.1 1 0 0 0 1"')
    (tmp_path / "a.xyz").write_text(text + text)
    with pytest.warns(AtomslimWarning, match="record 0: the stress is not symmetric") as caught:
        samples = list(ase_files.read(tmp_path / "a.xyz"))
    assert len(caught) == 1
    assert samples[1].targets["stress"] == pytest.approx(np.array([[1, 0.3, 0], [0.3, 1, 0], [0, 0, 1]]))


@pytest.mark.parametrize(("sign", "text"), [(1.0, "opposite signs"), (-0.5, "do not agree"), (-1.0, "")])
def test_stress_and_virial_are_compared(sign: float, text: str, tmp_path: Path) -> None:
    virial = " ".join(str(sign * 8 * value) for value in FULL.ravel())
    (tmp_path / "a.xyz").write_text(frame(f'{CUBE} stress="{NINE}" virial="{virial}"'))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sample = next(ase_files.read(tmp_path / "a.xyz"))
    assert [text in str(one.message) for one in caught] == ([True] if text else [])
    assert sample.targets["stress"] == pytest.approx(FULL)


@pytest.mark.parametrize(("unit", "size"), [("GPa", units.GPa), ("kbar", units.GPa / 10)])
def test_stresses_may_have_a_unit_of_their_own(unit: str, size: float, tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(frame(f'{CUBE} stress="{NINE}"'))
    sample = next(ase_files.read(tmp_path / "a.xyz", stress_unit=unit, stress_factor=-1))
    assert sample.targets["stress"] == pytest.approx(-FULL * size)


def test_a_structure_without_a_volume_has_no_stress(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(frame(f'{CUBE} stress="{NINE}"') + frame(f'energy=-1 stress="{NINE}"'))
    assert line(tmp_path / "a.xyz").startswith("energy 2/2, forces 0/2, stress 1/2; left out: stress or virial without")
    bare = Sample.create([1], np.zeros((1, 3)), {"stress": np.zeros((3, 3))})
    assert bare.label("stress") is None


def strained(count: int = 8) -> list[Atoms]:
    """Copper in cells of different size, with labels by EMT."""
    made = []
    for number in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.02, seed=number)
        change = np.random.RandomState(number).uniform(-0.01, 0.01, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) * 1.01 + (change + change.T) / 2), scale_atoms=True)
        calculator = EMT()
        atoms.calc = calculator
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        made.append(atoms)
    return made


def stress_finding(frames: list[Atoms], factor: float) -> Any:
    samples = []
    for atoms in frames:
        targets = {name: atoms.calc.results[name] for name in ("energy", "forces")}
        samples.append(Sample.from_ase(atoms, {**targets, "stress": atoms.calc.results["stress"] * factor}))
    return next(found for found in check(samples).findings if found.what in {"stress", "unit of the stress"})


@pytest.mark.parametrize(
    ("factor", "level", "text"),
    [
        (1.0, "ok", "belongs to the energies: slope 1"),
        (-1.0, "problem", "give the options stress_factor=-1"),
        (1 / units.GPa, "problem", "give the options stress_unit=GPa"),
        (-10 / units.GPa, "problem", "give the options stress_unit=kbar and stress_factor=-1"),
        (5.0, "problem", "does not belong to the energies"),
    ],
)
def test_stress_is_compared_with_energies(factor: float, level: str, text: str) -> None:
    found = stress_finding(strained(), factor)
    assert found.level == level
    assert text in found.text


@pytest.mark.parametrize(("size", "level"), [(12.0, "problem"), (0.9, "note")])
def test_large_stresses_are_said(size: float, level: str) -> None:
    found = stress_finding(strained(2), size / np.abs(strained(1)[0].get_stress()).max())
    assert (found.what, found.level) == ("unit of the stress", level)
    assert "GPa" in found.text


def test_a_check_begins_with_labels_and_ends_with_a_verdict() -> None:
    atoms = strained(3)
    samples = [
        Sample.from_ase(one, {"energy": -1000.0 * len(one) - number, "forces": np.zeros((4, 3)) + (number > 0)})
        for number, one in enumerate(atoms)
    ]
    samples.append(Sample.create([29], np.zeros((1, 3)), {"energy": -1000.0, "forces": np.zeros((1, 3))}))
    lines = str(check(samples)).split("\n")
    assert lines[0] == f"{'ok':8} {'labels':22} energy 4/4, forces 4/4, stress 0/4"
    assert "all zero in 2 of 4 structures, 1 of them single atoms" in "\n".join(lines)
    assert "these look unreferenced" in "\n".join(lines)
    assert lines[-1].startswith("verdict  fit for training, with ")
    empty = check([Sample.create([29], np.zeros((1, 3)), {})])
    assert empty.verdict == "not fit for training: 1 problem: labels"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("md22_DHA.npz", "md22:DHA@"),
        ("rmd17_aspirin.npz", "rmd17:aspirin@"),
        ("SPICE.hdf5", "spice@"),
        ("Transition1x.h5", "transition1x@"),
        ("matbench_mp_gap.json", "matbench:mp_gap@"),
        ("MPtrj.json", "MPtrj's JSON is not read"),
        ("anything.zip", "unpack it"),
        ("train.tar.gz", "unpack it"),
        ("own.npz", "rmd17:VARIANT@"),
    ],
)
def test_archives_of_datasets_get_the_name_to_give(name: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"mp-1": {"a": 1}}')
    for given in (tmp_path / name, f"xyz:{tmp_path / name}"):
        with pytest.raises(DataError, match="is not a file of structures: ") as caught:
            open_dataset(str(given))
        assert hint in str(caught.value)


def test_folders_hold_any_files_of_structures(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    write(folder / "b.traj", strained(2))
    (folder / "a.xyz").write_text(frame("energy=-1"))
    (folder / "b.traj-lock").touch()
    assert line(folder) == "energy 3/3, forces 2/3, stress 2/3"
    (folder / "readme.txt").write_text("nothing to see")
    complaint(ase_files.read(folder), f"{folder / 'readme.txt'}: no format that ASE knows")


def test_voigts_order_is_ases() -> None:
    assert full_3x3_to_voigt_6_stress(FULL) == pytest.approx(np.array(VOIGT.split(), dtype=float))
    assert json.dumps(survey(open_dataset("mini:oxides")).remarks.plain())
