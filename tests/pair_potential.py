"""A cheap crystal: pairs with a Morse potential that ends smoothly, and ways to break it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray
from vesin import ase_neighbor_list as neighbor_list

END = 6.0
"""Å."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class PairPotential(Calculator):
    """E = ½ Σ_ij D (e^(−2a(r − r₀)) − 2 e^(−a(r − r₀))) (1 − (r/6 Å)²)³, for copper-like atoms.

    ``break_`` is one of: forces (2 % too large), step (5 meV per pair inside 4 Å), direction (bonds along x are
    stronger), hole (atoms inside 1.7 Å attract), stress (of the wrong sign), far (atoms 9 to 13 Å away are felt), cap
    (only the 15 nearest neighbours of an atom count).
    """

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self, break_: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.break_ = break_

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        assert self.atoms is not None
        pairs = neighbor_list("ijdD", self.atoms, 13.0 if self.break_ == "far" else END)
        first, second, distance, vector = nearest(pairs, 15) if self.break_ == "cap" else pairs
        energy, slope = pair_energy(np.minimum(distance, END))
        extra = np.zeros_like(vector)
        if self.break_ == "step":
            energy = energy + 0.005 * (distance < 4.0)
        if self.break_ == "far":
            offset = np.clip((distance - 11) / 2, -1, 1)
            energy, slope = energy + 0.05 * (1 - offset**2) ** 3, slope - 0.15 * offset * (1 - offset**2) ** 2
        if self.break_ == "hole":
            inside = np.minimum(distance - 1.7, 0.0)
            energy, slope = energy - 1e3 * inside**2, slope - 2e3 * inside
        if self.break_ == "direction":
            share = (vector[:, 0] / distance) ** 2
            along = np.zeros_like(vector)
            along[:, 0] = 2 * vector[:, 0] / distance**2
            extra = 0.1 * energy[:, None] * (along - 2 * (share / distance)[:, None] * vector / distance[:, None])
            energy, slope = energy * (1 + 0.1 * share), slope * (1 + 0.1 * share)
        pull = slope[:, None] * vector / distance[:, None] + extra  # dE_pair/d(vector)
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, first, pull / 2)
        np.add.at(forces, second, -pull / 2)
        if self.break_ == "forces":
            forces *= 1.02
        self.results = {"energy": 0.5 * energy.sum(), "forces": forces}
        if self.atoms.cell.rank == 3:
            virial = 0.5 * np.einsum("ki,kj->ij", pull, vector) / self.atoms.get_volume()
            sign = -1.0 if self.break_ == "stress" else 1.0
            self.results["stress"] = sign * full_3x3_to_voigt_6_stress((virial + virial.T) / 2)


class NoStress(PairPotential):
    """Gives energies and forces only."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as ASE has it


def nearest(pairs: Sequence[Any], most: int) -> tuple[Ints, Ints, Floats, Floats]:
    """Keep so many pairs of each atom, the shortest."""
    first, second, distance, vector = pairs
    order = np.lexsort((distance, first))
    begin = np.searchsorted(first[order], first[order])
    kept = order[np.arange(len(order)) - begin < most]
    return first[kept], second[kept], distance[kept], vector[kept]


def pair_energy(distance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    depth, width, rest = 0.34, 1.36, 2.87
    decay = np.exp(-width * (distance - rest))
    morse, morse_slope = depth * (decay**2 - 2 * decay), -2 * depth * width * (decay**2 - decay)
    fade = 1 - (distance / END) ** 2
    return morse * fade**3, morse_slope * fade**3 - morse * 6 * fade**2 * distance / END**2
