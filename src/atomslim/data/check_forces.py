"""Energies against the work of forces, over neighbouring frames.

Energies and forces belong together as E(b) − E(a) = −∫ F · dr ≈ −½ (F_a + F_b) · (r_b − r_a) for two neighbouring
frames a and b of one molecule (trapezoidal rule, exact up to third order in the displacement). Over many such pairs the
slope of the left side against the right is 1; −1 means that gradients were taken for forces, and 23, 27, 0.5… that they
are in other units.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from ase import units
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample

FARTHEST = 0.3
"""Å: between frames with an atom displaced further, forces say little about the difference in energy."""

_SLOPES = {
    -1.0: "the forces have the wrong sign (gradients?)",
    float(units.mol / units.kcal): "energies in kcal/mol and forces in eV/Å, or the like",
    float(units.kcal / units.mol): "energies in eV and forces in kcal/mol/Å, or the like",
    float(units.Hartree): "forces in Hartree/Å where the energies are in eV",
    float(1 / units.Hartree): "energies in Hartree where the forces are in eV/Å",
    float(units.Bohr): "forces in eV/Å where positions are in bohr, or the like",
    float(1 / units.Bohr): "forces in eV/bohr where positions are in Å",
    float(units.Hartree / units.Bohr): "forces in Hartree/bohr where energies and positions are in eV and Å",
}
TOLERANCE = 0.3
"""Relative: pairs of frames are not infinitely close."""


def slope(pairs: Sequence[tuple[Sample, Sample]]) -> tuple[int, float, float]:
    """Compare differences in energy with the work of the forces, over pairs of neighbouring frames.

    Returns:
        How many pairs are near enough, the slope of energy against work, and their correlation.

    """
    near = [(energy, work) for far, energy, work in map(_work, pairs) if 0 < far < FARTHEST]
    if not near:
        return 0, 0.0, 0.0
    energy, work = np.array(near).T
    cross, squared = float(energy @ work), float(work @ work)
    norm = np.sqrt(float(energy @ energy) * squared)
    return len(near), cross / squared if squared else 0.0, cross / norm if norm else 0.0


def _work(pair: tuple[Sample, Sample]) -> tuple[float, float, float]:
    """Largest displacement of an atom (Å), difference in energy and work of the mean force (eV)."""
    a, b = pair
    shift = _displacement(a, b)
    work = -0.5 * float(((a.targets["forces"] + b.targets["forces"]) * shift).sum())
    return float(np.abs(shift).max()), float(b.targets["energy"] - a.targets["energy"]), work


def _displacement(a: Sample, b: Sample) -> NDArray[np.float64]:
    """From a to b, to the nearest image."""
    shift = b.positions - a.positions
    if not a.pbc.all() or abs(np.linalg.det(a.cell)) < 1e-6:
        return shift
    return shift - np.rint(np.linalg.solve(a.cell.T, shift.T).T) @ a.cell


def nearest_pairs(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Each frame with the one that is nearest to it."""
    if len(samples) < 2:
        return []
    flat = np.stack([sample.positions.ravel() for sample in samples])
    return [(samples[i], samples[j]) for i, j in _nearest(flat)]


def _nearest(flat: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    for i, row in enumerate(flat):
        distance = ((flat - row) ** 2).sum(axis=1)
        distance[i] = np.inf
        yield i, int(distance.argmin())


def meaning(value: float) -> str:
    """What a slope other than 1 hints at: the nearest of the known ones, if any is near."""
    factor = min((known for known in _SLOPES if known * value > 0), key=lambda known: abs(np.log(value / known)))
    return f": {_SLOPES[factor]}" if abs(value / factor - 1) < TOLERANCE else ""
