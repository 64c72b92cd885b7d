"""OpenMM runs our models; skips where it is not installed."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT

from atomslim.errors import AtomslimError, ConfigError
from atomslim.inference.calculator import Calculator
from samples import CONSERVATIVE, ethanol, sheared_crystal, slab, small_model

installed = importlib.util.find_spec("openmm") is not None
needed = pytest.mark.skipif(not installed, reason="needs OpenMM")
pytestmark = pytest.mark.filterwarnings("ignore:.*(was not trained on|ignores charges)")


def rocksalt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=4.6, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.skipif(installed, reason="OpenMM is installed")
def test_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"not installed: pip install 'atomslim\[openmm\]'"):
        import atomslim.inference.openmm  # noqa: F401


def moved(made: Any, atoms: Atoms, steps: int) -> tuple[Any, Any]:
    """Let OpenMM make so many steps of 0.5 fs; returns its context and its state."""
    import openmm

    context = openmm.Context(made, openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions / units.nm)
    context.setVelocitiesToTemperature(200.0, 1)
    context.getIntegrator().step(steps)
    return context, context.getState(getPositions=True, getEnergy=True, getForces=True)


@needed
@pytest.mark.parametrize("structure", [ethanol, rocksalt])
def test_moves_with_the_calculators_energies_and_forces(structure: Any) -> None:
    from openmm import unit

    from atomslim.inference.openmm import system

    atoms, calculator = structure(), Calculator(small_model(CONSERVATIVE))
    _, first = moved(system(calculator, atoms), atoms, 1)
    _, state = moved(system(calculator, atoms), atoms, 10)
    atoms.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    atoms.calc = calculator
    per_mol = units.kJ / units.mol
    energies = [at.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) * per_mol for at in (first, state)]
    assert energies[1] == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    np.testing.assert_allclose(np.array(forces) * per_mol / units.nm, atoms.get_forces(), atol=1e-9)
    totals = [
        at.getKineticEnergy() / unit.kilojoule_per_mole * per_mol + e
        for at, e in zip((first, state), energies, strict=True)
    ]
    assert abs(totals[1] - totals[0]) < 1e-4


@needed
def test_a_part_of_the_particles_is_the_models() -> None:
    import openmm

    from atomslim.inference.openmm import force, system

    atoms, calculator = ethanol(), Calculator(small_model(CONSERVATIVE))
    whole = openmm.System()
    for mass in [40.0, *atoms.get_masses(), 40.0]:
        whole.addParticle(mass)
    whole.addForce(force(calculator, atoms, particles=range(1, 10)))
    around = Atoms("Ar", positions=[[50, 0, 0]]) + atoms + Atoms("Ar", positions=[[-50, 0, 0]])
    alone, part = moved(system(calculator, atoms), atoms, 0)[1], moved(whole, around, 0)[1]
    assert part.getPotentialEnergy()._value == pytest.approx(alone.getPotentialEnergy()._value, rel=1e-12)
    forces = part.getForces(asNumpy=True)._value
    assert not forces[[0, -1]].any()
    np.testing.assert_allclose(forces[1:-1], alone.getForces(asNumpy=True)._value, atol=1e-9)


@needed
def test_a_system_of_another_size_is_refused() -> None:
    import openmm

    from atomslim.inference.openmm import force

    other = openmm.System()
    for _ in range(5):
        other.addParticle(1.0)
    other.addForce(force(EMT(), bulk("Cu", cubic=True)))
    context = openmm.Context(other, openmm.VerletIntegrator(0.001))
    context.setPositions(np.zeros((5, 3)))
    with pytest.raises(Exception, match="OpenMM's System has 5 particles for a force of 4 atoms"):
        context.getState(getEnergy=True)


@needed
def test_atoms_of_a_topology() -> None:
    from openmm import app, unit

    from atomslim.inference.openmm import atoms_of

    topology = app.Topology()
    residue = topology.addResidue("WAT", topology.addChain())
    for name in "OHH":
        topology.addAtom(name, app.Element.getBySymbol(name), residue)
    positions = np.arange(9.0).reshape(3, 3)
    assert not atoms_of(topology, positions * unit.angstrom).pbc.any()
    topology.setUnitCellDimensions((2.0, 2.5, 3.0))
    found = atoms_of(topology, positions)
    assert (str(found.symbols), found.pbc.all(), *found.cell.lengths()) == ("OH2", True, 20.0, 25.0, 30.0)
    np.testing.assert_allclose(found.positions, 10 * positions)
    topology.addAtom("M", None, residue)
    with pytest.raises(ConfigError, match="particle 3 is not an element"):
        atoms_of(topology, np.zeros((4, 3)))


@needed
@pytest.mark.parametrize(
    ("structure", "options", "words"),
    [
        (slab, {}, "periodic along some vectors only"),
        (sheared_crystal, {}, "not in OpenMM's reduced form"),
        (ethanol, {"particles": [0, 1]}, "2 particles for 9 atoms"),
        (ethanol, {"particles": range(-1, 8)}, "particle -1: give indices from 0 on"),
        (Atoms, {}, "a force of no atoms"),
    ],
)
def test_what_is_refused(structure: Any, options: dict[str, Any], words: str) -> None:
    from atomslim.inference.openmm import force

    with pytest.raises(ConfigError, match=words):
        force(Calculator(small_model(CONSERVATIVE)), structure(), **options)


@needed
def test_other_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from atomslim.inference import openmm

    monkeypatch.setattr(openmm, "_computed", lambda _, atoms: {"energy": 0.0, "forces": 0 * atoms.positions})
    with pytest.raises(AtomslimError, match="OpenMM gets another energy than the calculator gives"):
        openmm.force(Calculator(small_model(CONSERVATIVE)), ethanol())
