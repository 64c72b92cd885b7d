"""Pools: what is made of given structures, which of it is kept, and that it is the same every time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import CalculationFailed
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import write

from atomslim.atoms.sample import Sample
from atomslim.cli.main import main
from atomslim.data.bins import edges
from atomslim.data.container import Container
from atomslim.data.dataset import open_dataset
from atomslim.errors import AtomslimWarning, ConfigError, DataError, StructureError
from atomslim.labelling.changes import Counts, Substitution, changes, rattled, repeated
from atomslim.labelling.dynamics import Asked, trajectory
from atomslim.labelling.pool import pool
from atomslim.labelling.select import by_distances, by_model, distinct, farthest
from atomslim.labelling.surfaces import facets, is_bulk
from atomslim.labelling.teachers import teacher_of
from atomslim.labelling.unlabelled import Unlabelled
from odd_calculators import Springs
from small_models import CONSERVATIVE, jmp

FEW: dict[str, Any] = {
    "features": "distances",
    "frames": 3,
    "every": 2,
    "temperatures": (300.0, 900.0),
    "rattled": 3,
    "strained": 3,
}


def copper(folder: Path) -> Path:
    write(folder / "cu.xyz", [bulk("Cu", cubic=True), bulk("Cu", cubic=True, a=3.7)])
    return folder / "cu.xyz"


def contents(folder: Path) -> list[bytes]:
    return [sample.positions.tobytes() + sample.cell.tobytes() for sample in Container(folder / "pool.samples")]


def test_a_pool_holds_what_was_asked_for_without_labels(tmp_path: Path) -> None:
    more: dict[str, Any] = {"vacancies": 2, "substitutions": ("Cu=Au",), "surfaces": 2, "pressures": (5.0,)}
    made = pool(copper(tmp_path), tmp_path / "pool", EMT, size=30, **more, **FEW)
    expected = {"given": 2, "rattled": 6, "strained": 6, "volumes": 14, "vacancies": 4, "substitutions": 10}
    count = {kind: found["made"] for kind, found in made.kinds.items()}
    dynamics = {"dynamics 300 K": 6, "dynamics 300 K, 5 GPa": 6, "dynamics 900 K": 6}
    assert count == expected | dynamics | {"surfaces": 4}
    assert list(count) == [*expected, *dynamics, "surfaces"]
    data = list(open_dataset(str(tmp_path / "pool")))
    assert len(data) == 30
    assert all(not sample.targets for sample in data)
    assert sorted(sample.group for sample in data[:2]) == ["given", "given"]
    assert data[0].name.endswith("cu.xyz: record 0 (counting from 0)")
    note = json.loads((tmp_path / "pool/pool.json").read_text())
    assert sum(found["kept"] for found in note["kinds"].values()) == 30
    left = {path.name for path in (tmp_path / "pool").iterdir()}
    assert left == {"pool.samples", "pool.extxyz", "pool.json", "pool.png"}
    assert "30 of 64 structures" in str(made)


class Counted(EMT):
    """Counts what it is asked, and is interrupted at a count; says that it is EMT."""

    asked, end = 0, 0

    def calculate(self, *args: Any, **more: Any) -> None:
        Counted.asked += 1
        if Counted.asked == Counted.end:
            raise KeyboardInterrupt
        super().calculate(*args, **more)  # type: ignore[no-untyped-call]


def test_an_interrupted_pool_goes_on_and_is_the_same(tmp_path: Path) -> None:
    source = copper(tmp_path)
    pool(source, tmp_path / "straight", Counted, size=20, **FEW)
    whole, Counted.asked, Counted.end = Counted.asked, 0, 20
    with pytest.raises(KeyboardInterrupt):
        pool(source, tmp_path / "pool", Counted, size=20, **FEW)
    with pytest.raises(DataError, match="is not finished"):
        open_dataset(str(tmp_path / "pool"))
    Counted.asked, Counted.end = 0, 0
    pool(source, tmp_path / "pool", Counted, size=20, **FEW)
    assert contents(tmp_path / "pool") == contents(tmp_path / "straight")
    assert 0 < Counted.asked < whole - 10  # trajectories that were finished are not run again
    done = (tmp_path / "pool/pool.samples").stat().st_mtime_ns
    pool(source, tmp_path / "pool", Counted, size=20, **FEW)
    assert (tmp_path / "pool/pool.samples").stat().st_mtime_ns == done
    with pytest.raises(ConfigError, match="other options"):
        pool(source, tmp_path / "pool", Counted, size=10, **FEW)


def test_fixed_atoms_stay_and_cells_are_needed_for_strain() -> None:
    atoms = Atoms("CO2", [(0, 0, 0), (0, 0, 1.2), (0, 0, -1.2)], constraint=FixAtoms([0]))
    makers = changes(atoms, Counts(vacancies=2, substitutions=("O=S",)))
    assert {kind: len(found) for kind, found in makers.items()} == {
        "rattled": 10, "strained": 0, "volumes": 0, "vacancies": 2, "substitutions": 5, "surfaces": 0,
    }  # fmt: skip
    for make in makers["rattled"]:
        moved = make(np.random.default_rng(0))
        assert (moved.positions[0] == 0).all()
        assert (moved.positions[1:] != atoms.positions[1:]).all()
    assert all(len(make(np.random.default_rng(0))) == 2 for make in makers["vacancies"])
    assert all("S" in make(np.random.default_rng(0)).symbols for make in makers["substitutions"])


def test_copies_with_hydrogen_are_rattled_less() -> None:
    spread = {"CH3OH": 0.08, "CO2": 0.2}
    for name, most in spread.items():
        atoms = molecule(name)
        noise = [rattled(atoms, np.random.default_rng(seed)).positions - atoms.positions for seed in range(40)]
        assert 0.9 * most < max(float(np.sqrt((one**2).mean())) for one in noise) < 1.5 * most


def test_slabs_are_cut_of_bulk_and_of_nothing_else() -> None:
    rocksalt = bulk("MgO", "rocksalt", a=4.21)
    made = [make(np.random.default_rng(1)) for make in changes(rocksalt, Counts(surfaces=4), width=5.0)["surfaces"]]
    for found in made:
        composition = found.symbols.formula.count()
        assert composition["Mg"] == composition["O"]
        heights = np.sort(found.positions @ np.cross(*found.cell[:2]) / np.linalg.norm(np.cross(*found.cell[:2])))
        assert heights[-1] - heights[0] > 3
        depth = found.get_volume() / np.linalg.norm(np.cross(*found.cell[:2]))
        assert depth - (heights[-1] - heights[0]) > 9  # vacuum
        assert min(np.linalg.norm(found.cell[:2], axis=1)) > 4
    areas = [np.linalg.norm(np.cross(*found.cell[:2])) / len(found) for found in made]
    assert len({round(area, 2) for area in areas[:3]}) == 3
    conventional = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    assert facets(conventional)[:3] == [(1, 0, 0), (1, 1, 0), (1, 1, 1)]
    assert [is_bulk(one) for one in (rocksalt, bulk("Cu"), made[0], Atoms("CO", cell=(9, 9, 9), pbc=True))] == [
        True, True, False, False,
    ]  # fmt: skip
    assert changes(made[0], Counts(surfaces=2))["surfaces"] == []


def test_a_pressure_presses_and_needs_stress(tmp_path: Path) -> None:
    atoms = bulk("Cu", cubic=True)
    session = teacher_of(EMT).begin()
    volumes = [
        list(trajectory(atoms, 300.0, 2, 10, session, np.random.default_rng(0), pressure=pressure))[-1].get_volume()
        for pressure in (-20.0, 100.0)
    ]
    assert volumes[1] < 0.9 * atoms.get_volume() < atoms.get_volume() < volumes[0]
    with pytest.warns(AtomslimWarning, match="no dynamics in 2 of 4 trajectories; .*there is no stress"):
        pool(
            copper(tmp_path), tmp_path / "pool", Springs, size=9, **{**FEW, "temperatures": (9.0,), "pressures": (1.0,)}
        )


def test_volumes_are_scanned_and_cells_repeated() -> None:
    atoms = repeated(bulk("Cu"), 5.0)
    assert len(atoms) == 27
    found = [make(np.random.default_rng(0)).get_volume() for make in changes(atoms, Counts())["volumes"]]
    np.testing.assert_allclose(np.array(found) / atoms.get_volume(), np.linspace(0.8, 1.25, 7))
    for width in (500.0, 1e20):
        with pytest.raises(ConfigError, match="give less"):
            repeated(bulk("Cu"), width)
    with pytest.raises(ConfigError, match="as in Mg=Ca"):
        Substitution.parse("Mg->Ca")


def test_figures_have_bins_for_numbers_that_differ_by_rounding_only() -> None:
    for values in ([], [12.3], [12.3, 12.3], [12.3, 12.300000000000002], [-4e5, -4e5 + 1e-9], [0.0, 1e-18]):
        bins = edges(values, 40)
        assert len(bins) == 41
        assert min(np.diff(bins)) > 0
        assert np.histogram(values, bins)[0].sum() == len(values)
    assert edges([1, 3], 2) == [1.0, 2.0, 3.0]


def test_those_farthest_from_the_others_are_chosen_and_no_two_alike() -> None:
    columns = np.array([[0.0, 0], [0.1, 0], [9, 0], [5, 4], [9, 0], [0.2, 0.1]])
    kept = distinct(columns)
    assert kept.tolist() == [0, 1, 2, 3, 5]
    chosen, distances = farthest(columns[kept], 3)
    assert kept[chosen].tolist() == [0, 2, 3]
    assert np.isinf(distances[0])
    assert distances[1] > distances[2] > 0
    moving = np.array([True, True, False, False, True])
    assert farthest(columns[kept], 4, 1, moving)[0].tolist() == [0, 4, 2, 3]
    first, _ = farthest(columns[kept], 3, given=2)
    assert kept[first].tolist() == [0, 1, 2]


def test_features_do_not_depend_on_order_position_or_direction() -> None:
    atoms = Atoms("COH2", [(0, 0, 0), (0, 0, 1.2), (0.9, 0, -0.5), (-0.9, 0.1, -0.5)])
    turned = atoms[[2, 0, 3, 1]]
    turned.rotate(37, (1, 2, 3))
    turned.translate((1, 2, 3))
    other = atoms.copy()
    other.positions[1, 2] += 0.1
    for features in (by_distances([1, 6, 8]), by_model(jmp(CONSERVATIVE))):
        one, same, different = (features(Sample.from_ase(one, {})) for one in (atoms, turned, other))
        np.testing.assert_allclose(same, one, atol=1e-9)
        assert np.abs(different - one).max() > 1e-4


def test_dynamics_that_fail_are_noted(tmp_path: Path) -> None:
    with pytest.warns(AtomslimWarning, match="no dynamics in 4 of 4 trajectories; .*SCF did not converge"):
        made = pool(copper(tmp_path), tmp_path / "pool", lambda: Springs("raises", at=-9.0), size=9, **FEW)
    assert made.kinds["dynamics 300 K"] == {"made": 0, "dropped": 6, "kept": 0}
    failed = json.loads((tmp_path / "pool/pool.json").read_text())["failed"]
    assert len(failed) == 4
    assert failed[0].endswith("RuntimeError: SCF did not converge")


def test_given_atoms_on_top_of_each_other_are_named(tmp_path: Path) -> None:
    write(tmp_path / "two.xyz", [bulk("Cu"), Atoms("Cu2", [(0, 0, 0), (0, 0, 1e-4)])])
    with pytest.raises(StructureError, match=r"two.xyz: record 1 .*: atoms 0 and 1 are 0.0001 Å apart"):
        pool(tmp_path / "two.xyz", tmp_path / "pool", features="distances")
    assert not (tmp_path / "pool").exists()


def test_a_teacher_without_an_answer_fails_as_calculators_of_ase_do() -> None:
    class Silent:
        def ask(self, *_: object, **__: object) -> None:
            raise Unlabelled("SCF did not converge")

    atoms = bulk("Cu")
    atoms.calc = Asked(Silent())  # type: ignore[arg-type]
    with pytest.raises(CalculationFailed, match="SCF did not converge"):
        atoms.get_forces()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--substitute", "Mg"], "as in Mg=Ca"),
        (["--temperatures", "hot"], "as in 300,600"),
        (["--temperatures", "-5"], "above 0"),
        (["--pressures", "1,nan"], "pressure nan GPa"),
        (["--rattled", "-1"], "give 0 or more"),
        (["--features", "none.pt"], "none.pt"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--features" not in arguments:
        arguments = ["--features", "distances", *arguments]
    assert main(["pool", str(copper(tmp_path)), "-o", str(tmp_path / "pool"), *arguments]) == 1
    seen = capsys.readouterr().err
    assert said in seen
    assert seen.count("\n") == 1
    assert not (tmp_path / "pool").exists()
