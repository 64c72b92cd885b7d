"""Putting small molecules on surfaces, as the Open Catalyst datasets do: tags 0 below, 1 surface, 2 adsorbate."""

from functools import cache

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from numpy.random import Generator
from numpy.typing import NDArray

ADSORBATES = {
    "H": 0, "C": 0, "N": 0, "O": 0, "OH": 0, "H2O": 0, "CO": 1, "NO": 0, "N2": 0, "CO2": 1, "CH": 0, "CH2_s1A1d": 0,
    "CH3": 0, "CH4": 0, "NH": 0, "NH2": 0, "NH3": 0, "HCN": 1, "HCO": 0, "H2CO": 0, "CH3O": 1, "CH3OH": 1, "C2H2": 0,
    "C2H4": 0, "H2": 0, "H2O2": 0,
}  # fmt: skip
"""Adsorbates by ASE's name, and the atom that binds to the surface."""

CLOSED_SHELL = ("H2O", "CO", "N2", "CO2", "CH4", "NH3", "HCN", "H2CO", "CH3OH", "C2H2", "C2H4", "H2")
"""Those that leave an insulator insulating."""

NEAR, FAR = 0.95, 1.5
"""Distance of the nearest two atoms of surface and adsorbate, in units of the sum of their covalent radii."""

_TILT = 90.0


def adsorbed(surface: Atoms, names: tuple[str, ...], random: Generator) -> Atoms:
    """Put one of the named adsorbates anywhere on a surface (which lies at right angles to z), in any direction."""
    guest = _turned(_adsorbate(names[random.integers(len(names))]), random)
    result = surface.copy()
    guest.positions += random.random(2) @ surface.cell.array[:2]
    guest.positions[:, 2] += _height(surface, guest, random.uniform(NEAR, FAR))
    return result + guest


@cache
def _adsorbate(name: str) -> Atoms:
    """Give an adsorbate that binds at the origin and points upwards."""
    atoms = Atoms(name) if len(name) == 1 else molecule(name)
    atoms.positions -= atoms.positions[ADSORBATES[name]]
    upwards = atoms.positions.mean(axis=0)
    if np.linalg.norm(upwards) > 1e-6:
        atoms.rotate(upwards, "z")
    atoms.set_initial_magnetic_moments(None)
    atoms.set_tags(2)
    return atoms


def _turned(atoms: Atoms, random: Generator) -> Atoms:
    """Turn about z by any angle, and tilt a little."""
    result = atoms.copy()
    result.rotate(random.uniform(0, _TILT), "x")
    result.rotate(random.uniform(0, 360), "z")
    return result


def _height(surface: Atoms, guest: Atoms, factor: float) -> float:
    """Height (Å) at which the nearest pair is `factor` covalent radii apart, coming from above."""
    reach = factor * (covalent_radii[guest.numbers][:, None] + covalent_radii[surface.numbers])
    above = reach**2 - _lateral(surface, guest)
    raised = np.where(above > 0, np.sqrt(np.maximum(above, 0)), -np.inf)
    return float((surface.positions[:, 2] + raised - guest.positions[:, 2][:, None]).max())


def _lateral(surface: Atoms, guest: Atoms) -> NDArray[np.float64]:
    """Squared distances in the plane, (9, guest, surface), for the images all around."""
    cell = surface.cell.array[:2, :2]
    shifts = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ cell
    vectors = guest.positions[:, None, :2] - surface.positions[:, :2] - shifts[:, None, None]
    return np.asarray((vectors**2).sum(axis=-1))
