"""Multiple time stepping: it is velocity Verlet where both models agree, and keeps the full model's energy."""

from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms, FixBondLength
from ase.md.verlet import VelocityVerlet

from atomslim.errors import ConfigError
from atomslim.inference.respa import Respa
from samples import CONSERVATIVE, moving, small_model

FS = units.fs


MORSE: Any = MorsePotential  # ASE has no types for it


class Counted(MORSE):  # type: ignore[misc]
    """Counts how often it is asked."""

    calls = 0

    def calculate(self, *arguments: Any, **named: Any) -> None:
        self.calls += 1
        super().calculate(*arguments, **named)


def full() -> Any:
    return Counted(epsilon=0.2, rho0=6.0, r0=2.5, rcut1=7.0, rcut2=8.0)


def small() -> Any:
    return MORSE(epsilon=0.25, rho0=5.5, r0=2.55, rcut1=7.0, rcut2=8.0)


def respa(atoms: Atoms, inner_steps: int, inside: Any = None) -> Any:
    return Respa(atoms, FS, inside or small(), inner_steps=inner_steps)


def verlet(atoms: Atoms) -> Any:
    return VelocityVerlet(atoms, FS)


def cluster() -> Atoms:
    atoms = moving(Atoms("Ar4", [[0, 0, 0], [2.6, 0, 0], [0, 2.6, 0], [0, 0, 2.6]]), 200.0)
    atoms.calc = full()
    return atoms


def drift(inner_steps: int, outer_steps: int) -> float:
    """Return the root mean square deviation of the total energy over a run."""
    atoms = cluster()
    dynamics, energies = respa(atoms, inner_steps), []
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(outer_steps)
    return float(np.std(energies))


def test_is_velocity_verlet_where_the_models_agree() -> None:
    one, other = cluster(), cluster()
    respa(one, 5, full()).run(8)
    verlet(other).run(40)
    np.testing.assert_allclose(one.positions, other.positions, atol=1e-12)
    np.testing.assert_allclose(one.get_momenta(), other.get_momenta(), atol=1e-12)


def test_one_inner_step_is_velocity_verlet_of_the_full_model() -> None:
    one, other = cluster(), cluster()
    respa(one, 1).run(40)
    verlet(other).run(40)
    np.testing.assert_allclose(one.positions, other.positions, atol=1e-12)


def test_the_full_model_is_asked_once_in_an_outer_step() -> None:
    atoms = cluster()
    respa(atoms, 4).run(10)
    assert atoms.calc.calls == 11


def test_keeps_the_full_models_energy_to_second_order() -> None:
    coarse, fine = drift(8, 40), drift(4, 80)
    assert coarse < 2e-3
    assert 2.5 < coarse / fine < 6.0  # 4, to leading order


def test_goes_back_where_it_came_from() -> None:
    atoms = cluster()
    start = atoms.positions.copy()
    respa(atoms, 4).run(20)
    assert np.abs(atoms.positions - start).max() > 0.01
    atoms.set_momenta(-atoms.get_momenta())
    respa(atoms, 4).run(20)
    np.testing.assert_allclose(atoms.positions, start, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.*was not trained on")
def test_fixed_atoms_stay_and_a_model_can_be_inside() -> None:
    atoms = moving(bulk("Cu", cubic=True), 100.0)
    atoms.set_constraint(FixAtoms([1]))
    atoms.set_momenta(atoms.get_momenta())
    atoms.calc = EMT()
    before = atoms.positions.copy()
    respa(atoms, 2, small_model(CONSERVATIVE)).run(2)
    np.testing.assert_array_equal(atoms.positions[1], before[1])
    assert np.abs(atoms.positions - before).max() > 1e-3


def test_atoms_that_somebody_moved_between_steps() -> None:
    one, other = cluster(), cluster()
    dynamics = respa(one, 2)
    dynamics.run(1)
    one.positions[0] += 0.01
    dynamics.run(1)
    other.positions, other.cell = one.positions, one.cell
    assert one.get_forces() == pytest.approx(other.get_forces(), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda atoms: setattr(atoms, "calc", None), {}, "no calculator: give them the full model"),
        (lambda atoms: atoms.set_constraint(FixBondLength(0, 1)), {}, "constraints other than fixed atoms"),
        (lambda _: None, {"inner_steps": 0}, "0 inner steps"),
        (lambda _: None, {"timestep": 0.0}, "4 inner steps of 0.0"),
    ],
)
def test_what_is_refused(change: Any, options: dict[str, Any], words: str) -> None:
    atoms = cluster()
    change(atoms)
    given: dict[str, Any] = {"timestep": FS, "small": small(), **options}
    with pytest.raises(ConfigError, match=words):
        Respa(atoms, **given)
