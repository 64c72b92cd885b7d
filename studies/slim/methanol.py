"""Droplets of methanol in dynamics of `mini-smooth` at 500 K: what studies/slim/methanol.yaml begins with.

    python studies/slim/methanol.py OUTPUT.xyz

Two droplets of 27 molecules, ten of 8, six pairs and six single molecules; three minutes of one core.
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


def droplet(count: int) -> Atoms:
    """Put molecules, turned at random, on the places of a close packing that are nearest to its centre."""
    random, atoms = np.random.default_rng(count), Atoms()
    places = np.indices((15, 15, 15)).reshape(3, -1).T - 7
    places = places[places.sum(axis=1) % 2 == 0] * APART / 2**0.5
    for place in places[np.argsort(np.linalg.norm(places + 0.1, axis=1))][:count]:
        one = molecule("CH3OH")
        one.rotate(random.uniform(0, 360), random.normal(size=3))
        one.positions += place - one.positions.mean(axis=0)
        atoms += one
    return atoms


def snapshots(count: int, frames: int, calculator: atomslim.Calculator) -> list[Atoms]:
    """Relax a droplet, and take frames of its dynamics 100 fs apart, the first after 200 fs."""
    atoms, random, found = droplet(count), np.random.default_rng(count), []
    atoms.calc = calculator
    FIRE(atoms, logfile=None).run(fmax=0.5, steps=50)
    thermalize_momenta(atoms, 2 * KELVIN, rng=random)
    dynamics = Langevin(atoms, units.fs, temperature_K=KELVIN, friction=0.02 / units.fs, fixcm=False, rng=random)
    dynamics.run(100)
    for _ in range(frames):
        dynamics.run(100)
        found.append(Atoms(atoms.numbers, atoms.positions))
    return found


def main() -> None:
    """Write the structures, the largest first."""
    calculator = atomslim.Calculator("mini-smooth", task="molecules")
    wanted = {27: 2, 8: 10, 2: 6, 1: 6}
    write(
        Path(sys.argv[1]), [atoms for count, frames in wanted.items() for atoms in snapshots(count, frames, calculator)]
    )


if __name__ == "__main__":
    main()
