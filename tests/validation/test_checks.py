"""Every check finds the fault it is for, and no other; library and textbook values come out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.spacegroup import crystal
from ase.vibrations import Vibrations

from atomslim.inference.calculator import Calculator
from atomslim.validation.checks import checks, judge
from atomslim.validation.consistency import dimers, locality
from atomslim.validation.dynamics import conservation, stability, structure, structure_difference
from atomslim.validation.elasticity import independent, point_group
from atomslim.validation.measurement import Measurement, NotDoneError
from atomslim.validation.molecules import (
    conformer_differences,
    conformers,
    geometry,
    geometry_difference,
    rotatable_bonds,
    torsions,
)
from atomslim.validation.speed import gain, speed
from atomslim.validation.structures import built_in, kind_of
from pair_potential import NoStress, PairPotential
from samples import DIRECT
from small_models import jmp

CONSISTENCY = ("forces", "stress", "symmetry", "extensivity", "locality", "smoothness", "dimers")
FEWER = {"smoothness": {"points": 61}, "dimers": {"points": 20}}
COPPER = bulk("Cu", a=3.7)
TRIMER = Atoms("Cu3", [[0, 0, 0], [3, 0, 0], [1, 2.4, 0]])


def measured(name: str, calculator: object, atoms: Atoms, **changes: object) -> Measurement:
    check = checks()[name]
    return check.function()(calculator, atoms, check.settings_of("full") | changes)  # type: ignore[arg-type]


def failing(calculator: PairPotential, *, names: tuple[str, ...] = CONSISTENCY) -> set[str]:
    found = set()
    for name in names:
        found_here = measured(name, calculator, COPPER, **FEWER.get(name, {}))
        verdicts = judge(checks()[name], "copper", found_here, None)
        assert any(verdict.passed is not None for verdict in verdicts)
        found |= {verdict.check for verdict in verdicts if verdict.passed is False}
    return found


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("", set()),
        ("forces", {"forces"}),
        ("step", {"smoothness"}),
        ("direction", {"symmetry"}),
        ("hole", {"dimers"}),
        ("stress", {"stress"}),
        ("far", {"locality"}),
        ("cap", {"smoothness"}),
    ],
)
def test_a_fault_fails_its_check_and_no_other(fault: str, check: set[str]) -> None:
    assert failing(PairPotential(fault)) == check


def test_copper_by_emt_has_the_library_s_values() -> None:
    """ASE's own equation of state and stress give a₀ 3.590 Å, B 134 GPa, C₁₁ 173, C₁₂ 116, C₄₄ 90 GPa."""
    cell = measured("cell", EMT(), bulk("Cu", a=3.6)).numbers
    assert cell["a"] * np.sqrt(2) == pytest.approx(3.590, abs=0.002)
    state = measured("equation of state", EMT(), bulk("Cu", a=3.6)).numbers
    assert state["bulk modulus"] == pytest.approx(134.4, rel=0.02)
    elastic = measured("elastic constants", EMT(), bulk("Cu", a=3.6)).numbers
    assert set(elastic) == {"C11", "C12", "C44", "K", "G", "lowest eigenvalue", "off symmetry"}
    assert elastic["off symmetry"] < 0.5
    assert elastic["C11"] == pytest.approx(173, rel=0.03)
    assert elastic["C12"] == pytest.approx(116, rel=0.03)
    assert (elastic["C11"] + 2 * elastic["C12"]) / 3 == pytest.approx(elastic["K"], rel=1e-3)
    assert elastic["K"] == pytest.approx(state["bulk modulus"], rel=0.03)
    assert elastic["C44"] == pytest.approx(90.4, rel=0.03)


def test_phonons_of_copper_are_those_of_its_force_constants() -> None:
    pytest.importorskip("phonopy")
    found = measured("phonons", EMT(), bulk("Cu", a=3.6), length=7.0, mesh=4).numbers
    assert found["imaginary"] == 0
    assert found["highest"] == pytest.approx(8.1, abs=0.3)  # experiment: 7.5 THz at 49 K


def test_surfaces_are_those_of_the_conventional_cell() -> None:
    pytest.importorskip("spglib")
    found = measured("surfaces", EMT(), bulk("Cu", a=3.6)).numbers
    assert found["111"] < found["100"] < found["110"]  # the denser, the cheaper


def test_vibrations_are_those_of_ase(tmp_path: Path) -> None:
    calculator, settings = EMT(), {"fmax": 0.005, "steps": 500}
    found = measured("vibrations", calculator, molecule("H2O"), **settings).curves["frequencies"][1]
    atoms = molecule("H2O")
    atoms.positions = np.array(geometry(calculator, atoms, settings).curves["positions"][1]).reshape(-1, 3)
    atoms.calc = EMT()
    theirs = Vibrations(atoms, name=f"{tmp_path}/vibrations")
    theirs.run()
    expected = np.sort(np.real(theirs.get_frequencies()))[-3:]
    assert np.allclose(sorted(found)[-3:], expected, rtol=0.01)


def test_geometry_difference_is_none_after_a_turn() -> None:
    first = geometry(EMT(), molecule("CH3CH2OH"), {"fmax": 0.05, "steps": 500})
    turned = molecule("CH3CH2OH")
    turned.rotate(40, (1, 2, 3))
    second = geometry(EMT(), turned, {"fmax": 0.05, "steps": 500})
    assert geometry_difference(first, second)["RMSD"] < 0.02
    assert geometry_difference(first, first)["RMSD"] == pytest.approx(0, abs=1e-6)


def test_rotatable_bonds() -> None:
    assert {tuple(sorted(bond[:2])) for bond in rotatable_bonds(molecule("CH3CH2OH"))} == {(0, 1), (1, 2)}
    assert rotatable_bonds(molecule("C6H6")) == []
    assert rotatable_bonds(molecule("C2H2")) == []
    with pytest.raises(NotDoneError, match="no rotatable bond"):
        torsions(EMT(), molecule("H2O"), {"bonds": 1, "fmax": 0.1, "steps": 500})


def test_energy_is_conserved_and_a_rough_surface_is_noticed() -> None:
    settings = {"temperature": 300, "length": 5.0, "time_steps": [1.0], "picoseconds": 0.2, "every": 5}
    assert conservation(PairPotential(), COPPER, settings).numbers["drift at 1 fs"] < 1.0
    hot = {"temperature": 300, "length": 5.0, "time_step": 1.0, "picoseconds": 0.05, "every": 5, "starts": 2}
    assert stability(PairPotential(), COPPER, hot).numbers["broken"] == 0


def test_equal_runs_have_equal_distributions() -> None:
    settings = {
        "temperature": 300,
        "length": 5.0,
        "time_step": 2.0,
        "picoseconds": 0.2,
        "equilibration": 0.05,
        "every": 5,
        "reach": 6.0,
    }
    first = structure(PairPotential(), COPPER, settings)
    numbers = structure_difference(first, first)
    assert numbers["radial distribution, L1"] == 0
    assert numbers["radial distribution, Jensen–Shannon"] == pytest.approx(0, abs=1e-12)
    other = structure(PairPotential(), bulk("Cu", a=4.0), settings)
    assert structure_difference(first, other)["radial distribution, L1"] > 0.1


class Counted(PairPotential):
    """Counts what it is asked; forces with a curl have no zero."""

    calls, curl = 0, 0.0

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        self.calls += 1
        assert self.atoms is not None
        self.results["forces"] = self.results["forces"] + self.curl * np.roll(self.atoms.positions, 1, axis=1)


def test_a_relaxation_is_made_once_for_all_checks() -> None:
    calculator, settings = Counted(), {"fmax": 0.02, "steps": 100}
    first = geometry(calculator, TRIMER, settings)
    before = calculator.calls
    assert geometry(calculator, TRIMER, settings) == first
    assert calculator.calls == before


def test_a_relaxation_that_leads_nowhere_ends_early() -> None:
    calculator = Counted()
    calculator.curl = 0.5
    with pytest.raises(NotDoneError, match="makes no progress: forces stay above"):
        geometry(calculator, TRIMER, {"fmax": 0.001, "steps": 500})
    assert calculator.calls < 200


def test_constants_that_symmetry_leaves_independent() -> None:
    """Nye's tables: cubic 3, hexagonal 5, tetragonal 6, trigonal 6, none 21."""
    pytest.importorskip("spglib")
    quartz = crystal("Si", [(0.47, 0, 1 / 3)], spacegroup=152, cellpar=[4.91, 4.91, 5.4, 90, 90, 120])
    found = {
        name: ["".join(str(axis + 1) for axis in pair) for pair in independent(point_group(atoms))]
        for name, atoms in {"cubic": bulk("Si"), "hexagonal": bulk("Mg"), "trigonal": quartz}.items()
    }
    assert found == {
        "cubic": ["11", "12", "44"],
        "hexagonal": ["11", "12", "13", "33", "44"],
        "trigonal": ["11", "12", "13", "14", "33", "44"],
    }
    assert len(independent([np.eye(3)])) == 21


def test_conformers_are_held_against_each_other_by_their_starts() -> None:
    ours = Measurement({}, {"conformers": ([0, 1, 2], [0.0, 0.1, 0.3])})
    theirs = Measurement({}, {"conformers": ([0, 2, 3], [0.05, 0.0, 0.9])})
    assert conformer_differences(ours, ours) == {"mean difference": 0.0, "order": 1.0}
    assert conformer_differences(ours, theirs) == {"mean difference": pytest.approx(175.0), "order": 0.0}
    with pytest.raises(NotDoneError, match="no rotatable bond"):
        conformers(EMT(), molecule("NH3"), {"bonds": 1, "fmax": 0.1, "steps": 10})


def test_speed_of_a_calculator() -> None:
    numbers = speed(EMT(), bulk("Cu"), {"time_step": 2.0, "repeats": 2}).numbers
    assert numbers["a day"] == pytest.approx(numbers["steps per second"] * 86400 * 2e-6)


def test_speed_of_a_model_is_that_of_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atomslim.validation.speed._largest", lambda _job, limit: limit / 1e6)
    calculator = Calculator(jmp(DIRECT, num_blocks=1))
    settings = {"time_step": 1.0, "repeats": 1, "memory": 2e9}
    found = speed(calculator, molecule("H2O"), settings)
    assert found.numbers["steps per second"] > 0
    assert found.numbers["largest"] == 2000
    assert gain(found, found) == {"times as fast": 1.0}


def test_what_is_far_away_is_felt_by_a_molecule_too() -> None:
    settings = checks()["locality"].settings_of("quick") | {"distances": [5, 11]}
    assert locality(PairPotential(), TRIMER, settings).numbers == {"forces": 0.0, "reach": 5.0}
    assert locality(PairPotential("far"), TRIMER, settings).numbers["forces"] > 0.005


def test_ethanol_by_tblite_has_the_textbook_s_bonds_and_frequencies() -> None:
    """Bonds by microwaves: C–C 1.512, C–O 1.431 Å; stretch of O–H 3653, of C–H 2888 to 2989, mode of C–O 1028 1/cm."""
    tblite = pytest.importorskip("tblite.ase")
    calculator = tblite.TBLite(method="GFN2-xTB", verbosity=0)
    ethanol = molecule("CH3CH2OH")
    settings = {"fmax": 0.005, "steps": 100, "displacement": 0.01}
    found = measured("geometry", calculator, ethanol, **settings).curves["positions"][1]
    carbon, oxygen = ethanol.symbols.search("C"), ethanol.symbols.search("O")[0]
    positions = np.array(found).reshape(-1, 3)
    middle = min(carbon, key=lambda atom: np.linalg.norm(positions[atom] - positions[oxygen]))
    assert np.linalg.norm(positions[carbon[0]] - positions[carbon[1]]) == pytest.approx(1.512, abs=0.03)
    assert np.linalg.norm(positions[middle] - positions[oxygen]) == pytest.approx(1.431, abs=0.03)
    modes = measured("vibrations", calculator, ethanol, **settings)
    frequencies = np.array(modes.curves["frequencies"][1])
    assert modes.numbers["imaginary"] == 0
    assert len(frequencies) == 21
    assert modes.numbers["highest"] == pytest.approx(3653, rel=0.04)
    assert ((frequencies > 2700) & (frequencies < 3200)).sum() == 5
    assert np.abs(frequencies - 1028).min() < 40


def test_kinds() -> None:
    kinds = {name: kind_of(atoms) for name, atoms in built_in(None).items()}
    assert {kinds[name] for name in ("Si", "MgO", "NaCl", "Cu", "TiO2")} == {"crystal"}
    assert {kinds[name] for name in ("water molecule", "ammonia", "ethanol", "aspirin")} == {"molecule"}
    assert kinds["water"] == "liquid"
    assert kind_of(fcc111("Cu", (2, 2, 3), vacuum=8)) == "slab"
    assert kind_of(Atoms("Cu", cell=[2.5, 2.5, 0], pbc=[True, True, False])) == "slab"
    assert kind_of(Atoms("Cu", cell=[2.5, 0, 0], pbc=[True, False, False])) == "slab"
    boxed = molecule("H2O")
    boxed.center(vacuum=8)
    boxed.pbc = True
    assert kind_of(boxed) == "molecule"


def test_a_model_without_stress_is_said() -> None:
    with pytest.raises(NotDoneError, match="no stress"):
        measured("stress", NoStress(), COPPER)


def test_the_wall_s_end_is_found() -> None:
    settings = checks()["dimers"].settings_of("full")
    whole = dimers(PairPotential(), COPPER, settings).numbers
    assert whole == {"minima": 1.0, "wall": 0.0}
    assert dimers(PairPotential("hole"), COPPER, settings).numbers["wall"] > 0.35


def test_the_page_has_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "validation.md").read_text(encoding="utf-8")
    assert [name for name in checks() if f"| {name} |" not in page] == []
