"""Methanol in dynamics of `mini-smooth` at 500 K: what studies/slim/methanol.yaml begins with.

    python studies/slim/methanol.py OUTPUT.xyz

A droplet of 27 molecules; the liquid, 24 frames with 8 molecules in a cell and 8 with 4; four droplets of 8, four pairs
and four single molecules. GFN2-xTB takes 2.6 s for a cell of 8 molecules, and 12 s for one of 27. Four minutes of one
core.
"""

import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.optimize import FIRE

import atomslim

KELVIN, APART = 500, 4.0

VOLUME = 74.0
"""Å³ of a molecule in the liquid: 27 of them fill a cell of 12.6 Å."""


def droplet(count: int, seed: int) -> Atoms:
    """Put molecules, turned at random, on the sites of a close packing that are nearest to its centre."""
    positions = np.indices((15, 15, 15)).reshape(3, -1).T - 7
    positions = positions[positions.sum(axis=1) % 2 == 0] * APART / 2**0.5
    return _turned(positions[np.argsort(np.linalg.norm(positions + 0.1, axis=1))][:count], seed)


def liquid(count: int, seed: int) -> Atoms:
    """Put molecules, turned at random, on the sites of a simple lattice (4: a face-centred one) in a cubic cell."""
    side = (count * VOLUME) ** (1 / 3)
    edge = round(count ** (1 / 3) + 0.2)
    positions = np.indices((edge, edge, edge)).reshape(3, -1).T
    if count == 4:
        positions = positions[positions.sum(axis=1) % 2 == 0]
    atoms = _turned((positions + 0.5) * side / edge, seed)
    atoms.set_cell([side] * 3)
    atoms.pbc = True
    return atoms


def _turned(positions: np.ndarray, seed: int) -> Atoms:
    random, atoms = np.random.default_rng(seed), Atoms()
    for position in positions:
        one = molecule("CH3OH")
        one.rotate(random.uniform(0, 360), random.normal(size=3))
        one.positions += position - one.positions.mean(axis=0)
        atoms += one
    return atoms


def snapshots(atoms: Atoms, frames: int, seed: int, calculator: atomslim.Calculator) -> list[Atoms]:
    """Relax a structure, and take frames of its dynamics 40 fs apart, the first after 90 fs."""
    random, found = np.random.default_rng(seed), []
    atoms.calc = calculator
    FIRE(atoms, logfile=None).run(fmax=1.0, steps=30)
    thermalize_momenta(atoms, 2 * KELVIN, rng=random)
    dynamics = Langevin(atoms, units.fs, temperature_K=KELVIN, friction=0.02 / units.fs, fixcm=False, rng=random)
    dynamics.run(50)
    for _ in range(frames):
        dynamics.run(40)
        found.append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
    return found


def main() -> None:
    """Write the structures, the largest first."""
    calculator = atomslim.Calculator("mini-smooth", task="molecules")
    wanted = [(droplet, 27, 1, 1), (liquid, 8, 4, 6), (liquid, 4, 2, 4), (droplet, 8, 1, 4), (droplet, 2, 1, 4)]
    found = [
        frame
        for make, count, starts, frames in [*wanted, (droplet, 1, 1, 4)]
        for seed in range(starts)
        for frame in snapshots(make(count, seed), frames, seed, calculator)
    ]
    write(Path(sys.argv[1]), found)


if __name__ == "__main__":
    main()
