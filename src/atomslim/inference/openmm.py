"""A model as a force of OpenMM, through its `PythonForce` (tested with OpenMM 8.6)."""

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from numpy.typing import NDArray

from atomslim.errors import ConfigError
from atomslim.inference.named_calculators import Named, calculator_of
from atomslim.inference.parity import expected_of, require_parity, structure_alone

try:
    import openmm
    from openmm import unit
except ImportError as error:
    raise ConfigError("OpenMM is not installed: pip install 'atomslim[openmm]'") from error

KJ_PER_MOL = ase.units.kJ / ase.units.mol
"""eV of 1 kJ/mol."""


class Compute:
    """What OpenMM calls with a state: energy in kJ/mol and forces (n, 3) in kJ/mol/nm of an ASE calculator."""

    def __init__(self, calculator: AseCalculator, atoms: Atoms) -> None:
        """Take over elements, periodicity and tags of ``atoms``; cell and positions are OpenMM's."""
        self.atoms = structure_alone(atoms)
        self.atoms.calc = calculator

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        """Return energy and forces of the positions in a state; raises ConfigError for another number of them."""
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        if len(positions) != len(self.atoms):
            raise ConfigError(
                f"OpenMM's System has {len(positions)} particles for a force of {len(self.atoms)} atoms: give it the "
                "atoms of all particles, or particles=[…]"
            )
        self.atoms.positions = positions
        if self.atoms.pbc.any():
            self.atoms.cell[:] = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
        energy, forces = self.atoms.get_potential_energy(), self.atoms.get_forces()
        return energy / KJ_PER_MOL, forces * (ase.units.nm / KJ_PER_MOL)


def force(
    model: Named,
    atoms: Atoms,
    *,
    task: str | None = None,
    device: str | None = None,
    particles: Sequence[int] | None = None,
    strict: bool = False,
) -> openmm.PythonForce:
    """Return a force for a System that has these atoms as its particles, or as those of its ``particles``.

    Before it is returned, a Context of OpenMM computes ``atoms`` with it, and the numbers are compared with those of
    the calculator.

    Args:
        model: a model, a model file, a package (``.pt2``), an ASE calculator or its import path.
        atoms: elements in the order of the particles, periodicity (all three vectors or none), and a structure to
            compare. OpenMM wants the vectors of a periodic cell in reduced form: see `atoms_of`.
        task: name of the task head; needed where the model has several.
        device: where the model runs; by default where it is.
        particles: indices of the particles, where the System has others, too: the model exerts no forces on them.
            OpenMM itself does not check that the System has so many.
        strict: as for `atomslim.Calculator`.

    Raises:
        ConfigError: a model or task without forces, a structure periodic along some vectors only, a wrong number of
            particles, or an OpenMM without `PythonForce`.
        AtomslimError: OpenMM gets other numbers than the calculator gives.

    """
    if not hasattr(openmm, "PythonForce"):
        raise ConfigError(f"OpenMM {openmm.__version__} has no PythonForce: pip install --upgrade openmm")
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ConfigError(f"{atoms.symbols}: periodic along some vectors only, OpenMM knows all or none: set atoms.pbc")
    if not len(atoms):
        raise ConfigError("a force of no atoms: give it those of the particles")
    if particles is not None and len(set(particles)) != len(atoms):
        raise ConfigError(f"{len(set(particles))} particles for {len(atoms)} atoms: give one for each")
    if particles is not None and min(particles) < 0:
        raise ConfigError(f"particle {min(particles)}: give indices from 0 on")
    calculator = calculator_of(model, task=task, device=device, strict=strict)
    expected = expected_of(calculator, structure_alone(atoms))
    made = _made(Compute(calculator, atoms))
    require_parity("OpenMM", _computed(made, atoms), {name: expected[name] for name in ("energy", "forces")})
    made = _made(Compute(calculator, atoms))  # a force belongs to the System that it was added to
    if particles is not None:
        made.setParticles(list(particles))
    return made


def system(model: Named, atoms: Atoms, **options: Any) -> openmm.System:
    """Return a System of only the atoms, with their masses and cell; its only force is `force`, with its options."""
    made = _particles(atoms)
    made.addForce(force(model, atoms, **options))
    return made


def atoms_of(topology: Any, positions: Any) -> Atoms:
    """Return the atoms of a Topology of OpenMM at these positions (n, 3; nm where they have no unit), with its cell.

    Raises ConfigError for particles that are not elements, such as virtual sites.
    """
    elements = [atom.element for atom in topology.atoms()]
    if None in elements:
        raise ConfigError(
            f"particle {elements.index(None)} is not an element: give the force its own particles and atoms"
        )
    vectors = topology.getPeriodicBoxVectors()
    quantity = unit.Quantity(positions, None if unit.is_quantity(positions) else unit.nanometer)
    cell = None if vectors is None else np.array(vectors.value_in_unit(unit.angstrom))
    numbers = [element.atomic_number for element in elements]
    return Atoms(numbers, np.array(quantity.value_in_unit(unit.angstrom)), cell=cell, pbc=cell is not None)


def _made(compute: Compute) -> openmm.PythonForce:
    made = openmm.PythonForce(compute, {})
    made.setUsesPeriodicBoundaryConditions(bool(compute.atoms.pbc.any()))
    return made


def _particles(atoms: Atoms) -> openmm.System:
    made = openmm.System()
    for mass in atoms.get_masses():
        made.addParticle(float(mass))
    if atoms.pbc.any():
        made.setDefaultPeriodicBoxVectors(*_box(atoms))
    return made


def _box(atoms: Atoms) -> list[Any]:
    """Return the vectors of a cell in nm; raises ConfigError where they are not in OpenMM's reduced form."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (atoms.cell.array / ase.units.nm).tolist()
    upper = max(abs(ay), abs(az), abs(bz))
    slack = 1e-9 * max(ax, 1e-9)
    if upper > slack or min(ax, by, cz) <= 0 or 2 * max(abs(bx), abs(cx)) > ax + slack or 2 * abs(cy) > by + slack:
        raise ConfigError(
            f"{atoms.symbols}: the cell's vectors are not in OpenMM's reduced form: use those of "
            "openmm.app.internal.unitcell.reducePeriodicBoxVectors, and rotate the atoms with them"
        )
    return [openmm.Vec3(ax, 0, 0), openmm.Vec3(bx, by, 0), openmm.Vec3(cx, cy, cz)]


def _computed(made: openmm.PythonForce, atoms: Atoms) -> dict[str, Any]:
    """Return the results of an OpenMM Context, in eV and eV/Å."""
    alone = _particles(atoms)
    alone.addForce(made)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(alone, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(atoms.positions / ase.units.nm)
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return {"energy": energy * KJ_PER_MOL, "forces": np.asarray(forces) * (KJ_PER_MOL / ase.units.nm)}
