"""Every check finds the fault it is for, and no other; library and textbook values come out."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.vibrations import Vibrations

from atomslim.validation.checks import checks, judge
from atomslim.validation.consistency import dimers
from atomslim.validation.dynamics import conservation, stability, structure, structure_difference
from atomslim.validation.measurement import Measurement, NotDoneError
from atomslim.validation.molecules import geometry, geometry_difference, rotatable_bonds, torsions
from atomslim.validation.structures import built_in, kind_of
from pair_potential import PairPotential

CONSISTENCY = ("forces", "stress", "symmetry", "extensivity", "smoothness", "dimers")
COPPER = bulk("Cu", a=3.7)


def measured(name: str, calculator: object, atoms: Atoms, **changes: object) -> Measurement:
    check = checks()[name]
    return check.function()(calculator, atoms, check.settings_of("full") | changes)  # type: ignore[arg-type]


def failing(calculator: PairPotential, *, names: tuple[str, ...] = CONSISTENCY) -> set[str]:
    found = set()
    for name in names:
        points = {"points": 121} if name == "smoothness" else {}
        verdicts = judge(checks()[name], "copper", measured(name, calculator, COPPER, **points), None)
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
    assert elastic["C11"] == pytest.approx(elastic["C22"], rel=1e-3)
    assert (elastic["C11"] + 2 * elastic["C12"]) / 3 == pytest.approx(elastic["K"], rel=1e-3)
    assert elastic["K"] == pytest.approx(state["bulk modulus"], rel=0.03)
    assert elastic["C44"] == pytest.approx(90.4, rel=0.03)
    assert elastic["C14"] == pytest.approx(0, abs=0.5)


def test_phonons_of_copper_are_those_of_its_force_constants() -> None:
    pytest.importorskip("phonopy")
    found = measured("phonons", EMT(), bulk("Cu", a=3.6), length=7.0, mesh=4).numbers
    assert found["imaginary"] == 0
    assert found["highest"] == pytest.approx(8.1, abs=0.3)  # experiment: 7.5 THz at 49 K


def test_surfaces_are_those_of_the_conventional_cell() -> None:
    pytest.importorskip("spglib")
    found = measured("surfaces", EMT(), bulk("Cu", a=3.6)).numbers
    assert found["111"] < found["100"] < found["110"]  # the denser, the cheaper


def test_vibrations_are_those_of_ase(tmp_path: object) -> None:
    atoms = molecule("H2O")
    atoms.calc = EMT()
    found = measured("vibrations", EMT(), atoms).curves["frequencies"][1]
    from ase.optimize import FIRE

    FIRE(atoms, logfile=None).run(fmax=0.005)
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
        torsions(EMT(), molecule("H2O"), {"fmax": 0.1, "steps": 500})


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


def test_kinds() -> None:
    kinds = {name: kind_of(atoms) for name, atoms in built_in(None).items()}
    assert {kinds[name] for name in ("Si", "MgO", "NaCl", "Cu", "TiO2")} == {"crystal"}
    assert {kinds[name] for name in ("water molecule", "ammonia", "ethanol", "aspirin")} == {"molecule"}
    assert kinds["water"] == "liquid"
    assert kind_of(fcc111("Cu", (2, 2, 3), vacuum=8)) == "slab"
    boxed = molecule("H2O")
    boxed.center(vacuum=8)
    boxed.pbc = True
    assert kind_of(boxed) == "molecule"


def test_a_model_without_stress_is_said() -> None:
    class Silent(PairPotential):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, *args: object, **kwargs: object) -> None:
            super().calculate(*args, **kwargs)  # type: ignore[arg-type]
            self.results.pop("stress", None)

    with pytest.raises(NotDoneError, match="no stress"):
        measured("stress", Silent(), COPPER)


def test_the_wall_s_end_is_found() -> None:
    settings = checks()["dimers"].settings_of("full")
    whole = dimers(PairPotential(), COPPER, settings).numbers
    assert whole == {"minima": 1.0, "wall": 0.0}
    assert dimers(PairPotential("hole"), COPPER, settings).numbers["wall"] > 0.35


def test_the_page_has_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "validation.md").read_text(encoding="utf-8")
    assert [name for name in checks() if f"| {name} |" not in page] == []
