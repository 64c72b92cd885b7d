import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from numpy.typing import NDArray

from atomslim.atoms import from_ase
from atomslim.errors import AtomslimError, AtomslimWarning, ConfigError, StructureError
from atomslim.families.jmp import JMPGraphSettings
from atomslim.inference.calculator import Calculator
from atomslim.models import Target, Task
from atomslim.models.model_file import save
from samples import CAPPED, CONSERVATIVE, DIRECT, ethanol, moving, sheared_crystal, slab, small_model, strained

DIPOLE = Task(graph=JMPGraphSettings(), name="dipole", targets=(Target(name="dipole", kind="scalar", unit="D"),))
KCAL = Task(graph=JMPGraphSettings(), name="kcal", targets=(Target(name="energy", kind="energy", unit="kcal/mol"),))
MANY = Task(
    graph=JMPGraphSettings(),
    name="many",
    targets=(
        Target(name="U0", kind="energy"),
        Target(name="gap", kind="scalar", reduction="mean"),
        Target(name="r2", kind="r2", unit="Å²"),
        Target(name="dipole", kind="scalar", unit="D"),
    ),
)


def energy_after(atoms: Atoms, calculator: Calculator, change: Callable[[Atoms], None]) -> float:
    changed = atoms.copy()
    change(changed)
    changed.calc = calculator
    return changed.get_potential_energy()


def derivative(energy: Callable[[float], float], step: float = 2e-3) -> float:
    """Central difference of fourth order."""
    near = energy(step) - energy(-step)
    far = energy(2 * step) - energy(-2 * step)
    return (8 * near - far) / (12 * step)


# results


@pytest.mark.parametrize("structure", [ethanol, sheared_crystal, slab])
def test_gives_what_the_model_predicts(structure: Callable[[], Atoms]) -> None:
    atoms, given = structure(), small_model(DIRECT, CONSERVATIVE)
    for task in ("direct", "conservative"):
        atoms.calc = Calculator(given, task=task)
        predicted = given.predict(from_ase(atoms), task)
        energy = pytest.approx(predicted["energy"].item(), rel=1e-12)
        assert atoms.get_potential_energy() == energy
        assert atoms.get_potential_energy(force_consistent=True) == energy
        np.testing.assert_allclose(atoms.get_forces(), predicted["forces"].numpy(), rtol=1e-9, atol=1e-12)
        if "stress" in predicted and atoms.pbc.any():
            stress = predicted["stress"][0].numpy()
            np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_float64(dtype: torch.dtype) -> None:
    atoms = sheared_crystal()
    atoms.calc = Calculator(small_model(), dtype=dtype)
    assert type(atoms.get_potential_energy()) is float
    assert {atoms.get_forces().dtype, atoms.get_stress().dtype} == {np.dtype(np.float64)}
    assert next(atoms.calc.model.parameters()).dtype == dtype


def test_positions_are_not_rounded_to_the_models_precision() -> None:
    near, far = ethanol(), ethanol()
    far.positions += 2.0**20
    near.positions = far.positions - 2.0**20
    calculator = Calculator(small_model(), dtype=torch.float32)
    assert energy_after(near, calculator, lambda _: None) == energy_after(far, calculator, lambda _: None)


def test_stress_needs_conservative_forces_and_a_volume() -> None:
    calculator = Calculator(small_model(DIRECT, CONSERVATIVE), task="conservative")
    for atoms in (ethanol(), Atoms("Cu", cell=[2.5, 2.5, 0], pbc=[True, True, False])):
        atoms.calc = calculator
        with pytest.raises(NotImplementedError, match="stress"):
            atoms.get_stress()
    assert "stress" not in Calculator(small_model(DIRECT)).implemented_properties


def test_other_numbers_come_under_their_own_names(tmp_path: Path) -> None:
    atoms, given = ethanol(), small_model(MANY)
    atoms.calc = Calculator(given)
    predicted = given.predict(from_ase(atoms))
    assert atoms.get_potential_energy() == pytest.approx(predicted["U0"].item(), rel=1e-12)
    assert atoms.calc.get_property("gap", atoms) == pytest.approx(predicted["gap"].item(), rel=1e-12)
    assert atoms.calc.results.keys() == {"energy", "free_energy", "gap", "r2"}
    with pytest.raises(NotImplementedError):
        atoms.get_forces()
    for name in ("one.traj", "one.extxyz"):
        write(tmp_path / name, atoms)
        (result,) = read(tmp_path / name, ":")
        assert result.get_potential_energy() == pytest.approx(predicted["U0"].item(), abs=1e-7)


def test_takes_a_path(tmp_path: Path) -> None:
    atoms, given = ethanol(), small_model(DIRECT, CONSERVATIVE)
    save(given, tmp_path / "model.safetensors")
    atoms.calc = Calculator(given, task="conservative")
    expected = atoms.get_forces()
    for path in (tmp_path / "model.safetensors", str(tmp_path / "model.safetensors")):
        atoms.calc = Calculator(path, task="conservative", dtype=torch.float64)
        np.testing.assert_allclose(atoms.get_forces(), expected, rtol=0, atol=1e-12)


# choice of the task, options


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"task": "oc21"}, r"unknown task 'oc21': the model has direct, conservative, dipole, kcal"),
        ({}, "choose one of direct, conservative"),
        ({"task": "dipole"}, "task dipole has no energy"),
        ({"task": "kcal"}, "task kcal has energies in kcal/mol, not eV"),
        ({"task": "direct", "skin": -0.1}, "skin -0.1"),
        ({"task": "direct", "skin": float("nan")}, "skin nan"),
        ({"task": "direct", "device": "cuda:99"}, "device cuda:99"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        Calculator(small_model(DIRECT, CONSERVATIVE, DIPOLE, KCAL), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


# the model is left alone


def test_the_model_is_not_changed() -> None:
    given = small_model(dropout=0.5).train()
    given.embedding.requires_grad_(False)
    before = copy.deepcopy(given)
    atoms = ethanol()
    atoms.calc = Calculator(given)
    first = atoms.get_forces()
    atoms.calc = Calculator(given)
    np.testing.assert_array_equal(first, atoms.get_forces())  # no dropout
    Calculator(given, dtype=torch.float32)
    assert all(module.training for module in given.modules())
    for (name, now), then in zip(given.named_parameters(), before.parameters(), strict=True):
        assert now.requires_grad == then.requires_grad == (name != "embedding.weight")
        assert now.grad is None
        assert now.dtype == torch.float64


def test_uses_the_given_model_itself() -> None:
    given = small_model()
    assert Calculator(given, device="cpu", dtype=torch.float64).model is given


# derivatives


def test_forces_are_the_gradient_of_the_energy() -> None:
    atoms, calculator = ethanol(), Calculator(small_model())
    atoms.calc = calculator
    forces = atoms.get_forces()
    scale = np.abs(forces).max()
    assert scale > 0.01
    for atom, axis in [(0, 0), (2, 1), (8, 2)]:

        def energy(step: float, index: tuple[int, int] = (atom, axis)) -> float:
            def move(changed: Atoms) -> None:
                changed.positions[index] += step

            return energy_after(atoms, calculator, move)

        assert -derivative(energy) == pytest.approx(forces[atom, axis], abs=1e-7 * scale)


@pytest.mark.parametrize(
    ("structure", "components"),
    [(sheared_crystal, [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]), (slab, [(0, 0), (0, 1)])],
)
def test_stress_is_the_derivative_by_strain(structure: Callable[[], Atoms], components: list[tuple[int, int]]) -> None:
    atoms, calculator = structure(), Calculator(small_model())
    atoms.calc = calculator
    stress = atoms.get_stress(voigt=False)
    scale = np.abs(stress).max()
    for first, second in components:
        direction = np.zeros((3, 3))
        direction[first, second] += 0.5
        direction[second, first] += 0.5

        def energy(step: float, direction: NDArray[np.float64] = direction) -> float:
            return energy_after(atoms, calculator, strained(step * direction))

        expected = derivative(energy, 5e-4) / atoms.get_volume()
        assert stress[first, second] == pytest.approx(expected, abs=1e-6 * scale)


@pytest.mark.parametrize("structure", [ethanol, sheared_crystal, slab])
def test_translations_change_nothing(structure: Callable[[], Atoms]) -> None:
    atoms = structure()
    atoms.calc = Calculator(small_model())
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.positions += [10.0, -7.0, 3.0]
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-10)
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-10)


# dynamics and relaxation


def energy_error(step: float, duration: float) -> float:
    """Largest deviation of the total energy (eV) from its first value; times in fs."""
    atoms = moving(ethanol(), 100.0)
    atoms.calc = Calculator(small_model())
    energies: list[float] = []
    dynamics = VelocityVerlet(atoms, timestep=step * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(round(duration / step))
    return float(np.abs(np.array(energies) - energies[0]).max())


def test_conserves_energy_in_nve_to_second_order_of_the_time_step() -> None:
    coarse, fine = energy_error(2.0, 40.0), energy_error(1.0, 40.0)
    assert fine < 2e-3
    assert coarse / fine == pytest.approx(4.0, abs=0.2)


def test_warns_once_of_dynamics_with_direct_forces() -> None:
    atoms = moving(ethanol())
    atoms.calc = Calculator(small_model(DIRECT))
    with pytest.warns(AtomslimWarning, match="task direct are direct.*conserves no energy") as caught:
        VelocityVerlet(atoms, timestep=0.1 * units.fs).run(3)
    assert len(caught) == 1


def test_dynamics_that_start_cold_are_noticed_too() -> None:
    atoms = ethanol()
    atoms.calc = Calculator(small_model(DIRECT))
    with pytest.warns(AtomslimWarning, match="direct"):
        VelocityVerlet(atoms, timestep=0.1 * units.fs).run(1)


def test_relaxation_converges() -> None:
    atoms = sheared_crystal()
    atoms.calc = Calculator(small_model())
    energy, force = atoms.get_potential_energy(), np.linalg.norm(atoms.get_forces(), axis=1).max()
    optimiser = BFGS(atoms, logfile=None)
    assert optimiser.run(fmax=force / 20, steps=100)
    assert atoms.get_potential_energy() < energy
    assert atoms.calc.neighbour_searches < optimiser.nsteps


def test_relaxation_with_direct_forces_gives_no_warning() -> None:
    atoms = ethanol()
    atoms.calc = Calculator(small_model(DIRECT))
    BFGS(atoms, logfile=None).run(fmax=0.0, steps=2)


# neighbours left out


def test_warns_once_where_neighbours_are_left_out() -> None:
    atoms = ethanol()
    atoms.calc = Calculator(small_model(CAPPED))
    share = small_model(CAPPED).topology(from_ase(atoms)).capped_fraction.item()
    with pytest.warns(AtomslimWarning, match=f"{share:.1%} of the pairs within 4.5 Å") as caught:
        BFGS(atoms, logfile=None).run(fmax=0.0, steps=3)
    assert len(caught) == 1


def test_strict_refuses_left_out_neighbours_and_keeps_no_results() -> None:
    water, atoms = molecule("H2O"), ethanol()
    water.calc = atoms.calc = calculator = Calculator(small_model(CAPPED), strict=True)
    water.get_forces()
    for _ in range(2):
        with pytest.raises(StructureError, match=r"task capped keeps the 5 nearest .*strict=False"):
            calculator.calculate(atoms)
        assert not calculator.results
        with pytest.raises(StructureError):
            atoms.get_potential_energy()
    water.get_potential_energy()


# structures no model can take


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_refused_at_any_step(value: float) -> None:
    atoms = ethanol()
    atoms.calc = Calculator(small_model())
    atoms.get_forces()
    good = atoms.positions.copy()
    atoms.positions[4, 1] = value
    with pytest.raises(StructureError, match="atom 4: position") as caught:
        atoms.get_forces()
    assert "\n" not in str(caught.value)
    atoms.positions = good
    atoms.get_forces()


def test_structures_are_checked_when_they_change() -> None:
    atoms = sheared_crystal()
    atoms.calc = Calculator(small_model())
    atoms.get_forces()
    cell, positions = atoms.cell.array, atoms.positions
    for changed, what in [
        (Atoms([31, 0], positions, cell=cell, pbc=True), "not an element"),
        (Atoms("GaAs", positions, cell=cell * [1, 1, 0], pbc=True), "no volume"),
        (Atoms("GaAs", positions, cell=cell * np.nan, pbc=True), "cell is not finite"),
        (Atoms("GaAs", positions[[0, 0]], cell=cell, pbc=True), "atoms 0 and 1"),
    ]:
        changed.calc = atoms.calc
        with pytest.raises(StructureError, match=what):
            changed.get_forces()


def test_a_result_that_is_not_finite_is_an_error() -> None:
    given = small_model()
    torch.nn.init.constant_(given.embedding.weight, torch.nan)
    atoms = ethanol()
    atoms.calc = Calculator(given)
    with pytest.raises(AtomslimError, match="not finite"):
        atoms.get_potential_energy()


def test_needs_atoms() -> None:
    with pytest.raises(StructureError, match="no atoms"):
        Calculator(small_model()).calculate()


def test_tags_count_as_a_change_and_velocities_do_not() -> None:
    atoms = slab()
    atoms.calc = Calculator(small_model())
    energy = atoms.get_potential_energy()
    assert not atoms.calc.calculation_required(moving(atoms), ["energy", "forces"])
    atoms.set_tags([0] * 5 + [1])
    fresh = Calculator(small_model())
    fresh.calculate(atoms)
    assert fresh.results["energy"] == atoms.get_potential_energy() != energy


def test_one_calculator_serves_many_structures_without_warnings() -> None:
    calculator = Calculator(small_model())
    for atoms in (ethanol(), sheared_crystal(), molecule("CH4"), slab()):
        fresh = Calculator(small_model())
        for one in (calculator, fresh):
            one.calculate(atoms)
        np.testing.assert_array_equal(calculator.results["forces"], fresh.results["forces"])
