"""The region covered by a student's labels, and how to notice that dynamics leave it, without asking the teacher.

| sign | what |
|---|---|
| distance | two atoms closer than `NEAR` times the shortest distance of their elements in the labelled structures |
| force | longer than `FAR` times the longest of all labels, or changed by more than the longest within a step |
| energy | of an atom, outside the labelled range of its composition by more than `BEYOND` times the range and kT |
| temperature | hotter than `HOT` times the thermostat's, and 500 K |
| disagreement | forces that differ from those of the last round's student by more than `APART` of their rms |
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.labelling.dynamics import HOT

NEAR, FAR, BEYOND, APART = 0.8, 1.5, 1.0, 0.3

SLACK = 0.1
"""eV/atom by which energies may always lie outside: relaxations end below what is labelled."""

REACH = 4.0
"""Å: range of the search for nearest atoms."""

Pair = tuple[int, int]
"""Atomic numbers, the smaller first."""

Composition = tuple[tuple[int, float], ...]
"""Atomic numbers and their shares."""


@dataclass(frozen=True)
class Known:
    """The bounds of the labelled structures."""

    nearest: dict[Pair, float]
    """Å."""
    force: float
    """eV/Å: the longest."""
    energies: dict[Composition, tuple[float, float]]
    """eV/atom: least and most."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Known":
        """Find the bounds of labelled structures."""
        nearest: dict[Pair, float] = {}
        energies: dict[Composition, tuple[float, float]] = {}
        for sample in samples:
            for pair, distance in nearest_of(sample.to_ase()).items():
                nearest[pair] = min(distance, nearest.get(pair, np.inf))
            key, energy = composition(sample.numbers), float(sample.targets["energy"]) / len(sample)
            low, high = energies.get(key, (energy, energy))
            energies[key] = min(low, energy), max(high, energy)
        longest = max(float(np.linalg.norm(sample.targets["forces"], axis=1).max()) for sample in samples)
        return cls(nearest, longest, energies)

    def leaves(self, atoms: Atoms, forces: NDArray[np.float64], energy: float, temperature: float) -> str | None:
        """Say why a frame is outside, or None.

        Args:
            atoms: the frame, with momenta.
            forces: the student's (n, 3) (eV/Å).
            energy: the student's (eV).
            temperature: of the thermostat (K).

        """
        if not (np.isfinite(forces).all() and np.isfinite(atoms.positions).all()):
            return "not finite"
        if float(np.linalg.norm(forces, axis=1).max()) > FAR * self.force:
            return "force"
        if atoms.get_temperature() > HOT * temperature + 500:
            return "temperature"
        if self._is_beyond(composition(atoms.numbers), energy / len(atoms), temperature):
            return "energy"
        return "distance" if self.too_near(atoms) else None

    def too_near(self, atoms: Atoms, share: float = NEAR) -> bool:
        """Say whether two atoms are closer than a fraction of the shortest labelled distance of their elements."""
        return any(distance < share * self.nearest.get(pair, 0.0) for pair, distance in nearest_of(atoms).items())

    def _is_beyond(self, key: Composition, energy: float, temperature: float) -> bool:
        low, high = self.energies.get(key, (-np.inf, np.inf))
        margin = SLACK + BEYOND * (high - low) + 1.5 * units.kB * temperature
        return not low - margin <= energy <= high + margin


def composition(numbers: NDArray[np.int64]) -> Composition:
    """Return the elements of a structure and their fractions."""
    elements, counts = np.unique(numbers, return_counts=True)
    return tuple(
        (int(number), round(float(count) / len(numbers), 4)) for number, count in zip(elements, counts, strict=True)
    )


def nearest_of(atoms: Atoms) -> dict[Pair, float]:
    """Return the shortest distance (Å) within `REACH` of each pair of elements."""
    first, second, distances = neighbor_list("ijd", atoms, REACH)
    found: dict[Pair, float] = {}
    for a, b, distance in zip(atoms.numbers[first], atoms.numbers[second], distances, strict=True):
        pair = (int(min(a, b)), int(max(a, b)))
        found[pair] = min(float(distance), found.get(pair, np.inf))
    return found


def apart(forces: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return by how much two students differ: rms of the difference over rms of the forces (n, 3)."""
    return float(np.sqrt(((forces - others) ** 2).mean()) / max(np.sqrt((forces**2).mean()), 1e-9))
