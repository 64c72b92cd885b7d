"""Checks of labels: sizes, units and signs of stresses, forces that are all zero, total energies.

A stress belongs to the energies as E(b) − E(a) = −∫ F · du + ∫ V σ : dε for two neighbouring frames a and b of one
crystal, ε the strain from one cell to the other and u the displacements beyond it (trapezoidal rule). The slope of the
rest of the energy against the work of the stress is 1; −1 where compression counts as positive, and 1/160 or 1/1602
where stresses are in GPa or kbar.

Energies are compared with the work of forces, too, over neighbouring frames.

Energies and forces belong together as E(b) − E(a) = −∫ F · dr ≈ −½ (F_a + F_b) · (r_b − r_a) for two neighbouring
frames a and b of one molecule (trapezoidal rule, exact up to third order in the displacement). Over many such pairs the
slope of the left side against the right is 1; −1 means that gradients were taken for forces, and 23, 27, 0.5… that they
are in other units.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from ase import units
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.data.normalise import Compositions
from atomslim.errors import DataError

Level = Literal["ok", "note", "problem"]

FEWEST_PAIRS = 4

_LARGE, _RATHER_LARGE = 1.0, 0.2
"""eV/Å³: root mean square of stresses, 160 and 32 GPa."""

_STRAINS = 1e-6, 0.1
"""Least and largest strain between frames that are compared."""

_UNITS = {1.0: "eV/Å³", float(units.GPa): "GPa", float(units.GPa) / 10: "kbar"}
"""Slope → unit that stresses are in."""

_TOLERANCE = 0.3
_TOTAL_ENERGY = 15.0
"""eV per atom: larger than any binding energy, even relative to pseudo-atoms."""

_FITTED = 5000
"""Structures on which references are fitted."""


@dataclass
class StressSeen:
    """Stresses of one pass over a dataset."""

    squares: float = 0.0
    numbers: int = 0
    largest: float = 0.0
    pairs: list[tuple[float, float]] = field(default_factory=list)
    """Rest of the energy and work of the stress (eV), for neighbouring frames."""
    last: Sample | None = None

    def look(self, sample: Sample) -> None:
        """Add one structure."""
        stress = sample.label("stress")
        if stress is None or not np.isfinite(stress).all():
            return
        self.squares += float((stress**2).sum())
        self.numbers += stress.size
        self.largest = max(self.largest, float(np.abs(stress).max()))
        if {"energy", "forces"} <= sample.targets.keys():
            pair = None if self.last is None else _work(self.last, sample)
            self.pairs += [] if pair is None else [pair]
            self.last = sample

    def finding(self) -> tuple[Level, str, str]:
        """Return ok, note or problem, what was checked, and a message."""
        size = float(np.sqrt(self.squares / self.numbers))
        text = f"root mean square {size:.3g}, largest component {self.largest:.3g} eV/Å³"
        if (compared := self._compared()) is not None:
            return compared[0], "stress", f"{text}; {compared[1]}"
        gpa = size / units.GPa
        if size > _LARGE:
            remedy = "this looks like GPa or kbar: give the option stress_unit=GPa or stress_unit=kbar"
            return "problem", "unit of the stress", f"{text} ({gpa:.3g} GPa): {remedy}"
        if size > _RATHER_LARGE:
            return (
                "note",
                "unit of the stress",
                f"{text} ({gpa:.3g} GPa): much, unless it is under high pressure: check the unit",
            )
        return "ok", "size of the stress", text

    def _compared(self) -> tuple[Level, str] | None:
        """Judge by the energies of strained frames, if there are enough of them."""
        if len(self.pairs) < FEWEST_PAIRS:
            return None
        energy, work = np.array(self.pairs).T
        norm = float(np.sqrt((energy @ energy) * (work @ work)))
        if not norm or abs(float(energy @ work)) < 0.8 * norm:
            return None
        slope = float(energy @ work / (work @ work))
        text = (
            f"slope {slope:.3g} of energy against its work over {len(self.pairs)} pairs of strained frames (1 is right)"
        )
        nearest = min(_UNITS, key=lambda known: abs(np.log(abs(slope) / known)))
        if abs(abs(slope) / nearest - 1) > _TOLERANCE:
            return "problem", f"does not belong to the energies: {text}"
        options = [] if nearest == 1.0 else [f"stress_unit={_UNITS[nearest]}"]
        options += ["stress_factor=-1"] if slope < 0 else []
        if not options:
            return "ok", f"belongs to the energies: {text}"
        meaning = ([] if nearest == 1.0 else [f"it is in {_UNITS[nearest]}"]) + (
            ["compression counts as positive"] if slope < 0 else []
        )
        return "problem", f"{' and '.join(meaning)}: {text}: give the options {' and '.join(options)}"


@dataclass
class ForcesSeen:
    """Structures whose forces are all zero."""

    structures: int = 0
    zero: int = 0
    single: int = 0
    """Single atoms among them, whose forces are zero by symmetry."""

    def look(self, sample: Sample) -> None:
        """Add one structure."""
        if "forces" in sample.targets:
            self.structures += 1
            zero = not sample.targets["forces"].any()
            self.zero += zero
            self.single += zero and len(sample) == 1

    def finding(self) -> str:
        """Say how many there are."""
        single = f", {self.single} of them single atoms" if self.single else ""
        return f"all zero in {self.zero} of {self.structures} structures{single}"


@dataclass
class EnergySeen:
    """Energies with compositions."""

    by_atom: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    numbers: list[NDArray[np.int64]] = field(default_factory=list)

    def look(self, sample: Sample) -> None:
        """Add one structure."""
        known = "energy" in sample.targets and np.isfinite(sample.targets["energy"])
        if known and len(sample) and len(self.values) < _FITTED:
            self.values.append(float(sample.targets["energy"]))
            self.by_atom.append(self.values[-1] / len(sample))
            self.numbers.append(sample.numbers)

    def finding(self) -> str | None:
        """Report energies that look like totals, without references subtracted."""
        if not self.values:
            return None
        middle = float(np.median(self.by_atom))
        if abs(middle) < _TOTAL_ENERGY:
            return None
        text = f"{middle:.6g} eV per atom (median): these look unreferenced, like total energies"
        left = self._left_by_references()
        spread = float(np.std(self.values))
        if left is not None and left < 0.1 * spread:
            text += f"; references per element take their spread from {spread:.3g} to {left:.3g} eV"
        return text

    def _left_by_references(self) -> float | None:
        compositions = Compositions()
        for numbers, value in zip(self.numbers, self.values, strict=True):
            compositions.add(numbers, value)
        try:
            return compositions.scale("energy").std
        except DataError:  # nothing is left at all
            return 0.0


def _work(a: Sample, b: Sample) -> tuple[float, float] | None:
    """Return E_b − E_a + ½ (F_a + F_b) · u and ½ (V_a σ_a + V_b σ_b) : ε in eV; None for frames that are not close."""
    if not (a.has_volume and b.has_volume and a.group == b.group and np.array_equal(a.numbers, b.numbers)):
        return None
    deformation = np.linalg.solve(a.cell, b.cell)
    strain = (deformation + deformation.T) / 2 - np.eye(3)
    if not _STRAINS[0] < np.abs(strain).max() < _STRAINS[1]:
        return None
    shift = b.positions - a.positions @ deformation
    shift -= np.rint(np.linalg.solve(b.cell.T, shift.T).T) @ b.cell
    if np.abs(shift).max() > 0.3:
        return None
    forces = -0.5 * float(((a.targets["forces"] + b.targets["forces"]) * shift).sum())
    volumes = [abs(float(np.linalg.det(sample.cell))) for sample in (a, b)]
    mean = 0.5 * (volumes[0] * a.targets["stress"] + volumes[1] * b.targets["stress"])
    return float(b.targets["energy"] - a.targets["energy"]) - forces, float((mean * strain).sum())


FARTHEST, CLOSE = 0.3, 0.15
"""Å: between frames with an atom displaced further, forces say little about the difference in energy; and with none as
far as this they say it all, so that such pairs count alone where there are enough."""

FEWEST_PAIRS = 4

_SLOPES = {
    -1.0: "the forces have the wrong sign (gradients?)",
    float(units.mol / units.kcal): "energies in kcal/mol and forces in eV/Å, or similar",
    float(units.kcal / units.mol): "energies in eV and forces in kcal/mol/Å, or similar",
    float(units.Hartree): "forces in Hartree/Å but energies in eV",
    float(1 / units.Hartree): "energies in Hartree but forces in eV/Å",
    float(units.Bohr): "forces in eV/Å but positions in bohr, or similar",
    float(1 / units.Bohr): "forces in eV/bohr but positions in Å",
    float(units.Hartree / units.Bohr): "forces in Hartree/bohr but energies and positions in eV and Å",
}
TOLERANCE = 0.3
"""Relative: pairs of frames are not infinitely close."""


def slope(pairs: Sequence[tuple[Sample, Sample]]) -> tuple[int, float, float]:
    """Compare differences in energy with the work of the forces, over pairs of neighbouring frames.

    Returns:
        The number of close pairs, the slope of energy against work, and their correlation.

    """
    near = np.array([found for found in map(_work_of_forces, pairs) if 0 < found[0] < FARTHEST])
    if not len(near):
        return 0, 0.0, 0.0
    close = near[near[:, 0] < CLOSE]
    _, energy, work = (close if len(close) >= FEWEST_PAIRS else near).T
    cross, squared = float(energy @ work), float(work @ work)
    norm = np.sqrt(float(energy @ energy) * squared)
    return len(energy), cross / squared if squared else 0.0, cross / norm if norm else 0.0


def _work_of_forces(pair: tuple[Sample, Sample]) -> tuple[float, float, float]:
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
    """Each frame with its nearest one."""
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
    """The likely cause of a slope other than 1, if it is close to a known one."""
    factor = min((known for known in _SLOPES if known * value > 0), key=lambda known: abs(np.log(value / known)))
    return f": {_SLOPES[factor]}" if abs(value / factor - 1) < TOLERANCE else ""
