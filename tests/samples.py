"""A model with a smooth energy that is quick enough for dynamics, and small structures of every periodicity."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from numpy.typing import NDArray

from atomslim.families.jmp import JMP, JMPGraphSettings
from atomslim.models import Task, energy_and_forces
from small_models import jmp

CUTOFF = 4.5
"""Å: here the radial basis of the test model ends, too, so that its energy is smooth."""

ALL_NEIGHBOURS = JMPGraphSettings.from_neighbours(CUTOFF, 300)
FEW_NEIGHBOURS = JMPGraphSettings.from_neighbours(CUTOFF, 5)
CONSERVATIVE = energy_and_forces("conservative", forces="conservative", graph=ALL_NEIGHBOURS)
DIRECT = energy_and_forces("direct", forces="direct", graph=ALL_NEIGHBOURS)
CAPPED = energy_and_forces("capped", forces="direct", graph=FEW_NEIGHBOURS)


def small_model(*tasks: Task, dropout: float = 0.0) -> JMP:
    """Make a model that computes in milliseconds, in float64, with the same weights each time."""
    direct = any(task.direct for task in tasks)
    sizes: dict[str, Any] = {"num_blocks": 1, "num_spherical": 3, "basis_cutoff": CUTOFF, "direct_forces": direct}
    return jmp(*(tasks or [CONSERVATIVE]), sum_scale=0.3, dropout=dropout, **sizes)


def ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=3)
    return atoms


def sheared_crystal() -> Atoms:
    atoms = bulk("GaAs", "zincblende", a=4.6)
    strained(np.array([[0.03, 0.1, 0.0], [0.0, -0.02, 0.05], [0.04, 0.0, 0.01]]))(atoms)
    atoms.rattle(0.1, seed=4)
    return atoms


def slab() -> Atoms:
    atoms = fcc111("Cu", (1, 2, 3), vacuum=3.0)
    atoms.rattle(0.1, seed=5)
    atoms.positions[:, 2] -= 20.0  # outside the cell, which is periodic in the plane only
    return atoms


def strained(strain: NDArray[np.float64]) -> Callable[[Atoms], None]:
    """Deform cell and positions by 1 + strain (3, 3)."""
    deformation = np.eye(3) + strain

    def change(atoms: Atoms) -> None:
        positions = atoms.positions @ deformation
        atoms.set_cell(atoms.cell.array @ deformation)
        atoms.positions = positions

    return change


def moving(atoms: Atoms, temperature: float = 300.0) -> Atoms:
    """Give atoms the velocities of a temperature in K."""
    velocities = np.random.default_rng(6).normal(size=(len(atoms), 3))
    atoms.set_velocities(velocities * np.sqrt(units.kB * temperature / atoms.get_masses()[:, None]))
    return atoms
