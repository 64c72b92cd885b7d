"""Water molecules held together by three springs: quick to make and to learn."""

from typing import Any

import numpy as np
from ase.build import molecule
from numpy.typing import NDArray

from atomslim.atoms import Sample

STIFFNESS = 20.0
"""eV/Å²."""


def waters(count: int, *, seed: int = 0, **changes: Any) -> list[Sample]:
    """Distorted molecules with energy −14 + Σ_{i<j} k (r_ij − r⁰_ij)²/2 eV, and its forces."""
    generator = np.random.default_rng(seed)
    rest = molecule("H2O").positions
    made = []
    for number in range(count):
        atoms = molecule("H2O")
        atoms.positions += generator.normal(size=(3, 3)) * 0.05
        energy, forces = springs(atoms.positions, rest)
        targets: dict[str, Any] = {"energy": -14 + energy, "forces": forces} | changes
        made.append(Sample.from_ase(atoms, targets, name=f"water, record {number}", group=f"group {number % 4}"))
    return made


def springs(positions: NDArray[np.float64], rest: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Energy in eV and forces (n, 3) in eV/Å of springs between all atoms."""
    energy, forces = 0.0, np.zeros_like(positions)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        bond = positions[j] - positions[i]
        length = float(np.linalg.norm(bond))
        stretch = length - float(np.linalg.norm(rest[j] - rest[i]))
        energy += STIFFNESS * stretch**2 / 2
        pull = STIFFNESS * stretch * bond / length
        forces[i] += pull
        forces[j] -= pull
    return energy, forces
