"""Labels frames of one material with a model: rattled and strained cells, and dynamics at several temperatures.

    python studies/frames.py sevennet:7net-0 LiCl 5.14 -o train.xyz --rattled 300 --snapshots 100
    python studies/frames.py sevennet:7net-0 LiCl 5.14 -o test.xyz --rattled 0 --snapshots 50 --seed 1
    python studies/frames.py chgnet:0.3.0 MgO 4.25 -o hot.xyz --repeat 3 --temperatures 300 900 1500

Energies, forces and stress are those of the model.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin

import atomslim

STRAIN = 0.02
"""Standard deviation of each component."""
RATTLE = (0.02, 0.25)
"""Å: the standard deviations of displacements are evenly between these."""
STEP, FRICTION, EQUILIBRATION, APART = 2.0, 0.02, 100, 10
"""fs; 1/fs; steps before the first snapshot, and between two."""


def labelled(atoms: Atoms, calculator: Calculator) -> Atoms:
    """Return a copy with energy, forces and stress."""
    plain = atoms.copy()
    plain.set_constraint()
    plain.calc = calculator
    values = {
        "energy": plain.get_potential_energy(),
        "forces": plain.get_forces(),
        "stress": plain.get_stress(voigt=True),
    }
    plain.calc = SinglePointCalculator(plain, **values)
    plain.arrays.pop("momenta", None)
    return plain


def rattled(start: Atoms, count: int, seed: int) -> Iterator[Atoms]:
    """Give strained cells with displaced atoms."""
    for index in range(count):
        random = np.random.default_rng([seed, 0, index])
        atoms = strained(start, random)
        atoms.positions += random.normal(scale=random.uniform(*RATTLE), size=atoms.positions.shape)
        yield atoms


def strained(start: Atoms, random: np.random.Generator) -> Atoms:
    """Return a copy under a random symmetric strain."""
    strain = random.normal(scale=STRAIN, size=(3, 3))
    atoms = start.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    return atoms


def dynamics(start: Atoms, calculator: Calculator, temperature: float, count: int, seed: int) -> Iterator[Atoms]:
    """Give snapshots of Langevin dynamics in a strained cell."""
    random = np.random.default_rng([seed, 1, int(temperature)])
    atoms = strained(start, random)
    atoms.calc = calculator
    friction = FRICTION / units.fs  # so strong that it heats the lattice at rest within the first steps
    run = Langevin(atoms, STEP * units.fs, temperature_K=temperature, friction=friction, fixcm=False, rng=random)
    run.run(EQUILIBRATION)
    for _ in range(count):
        run.run(APART)
        yield atoms


def main() -> None:
    """Write the frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("formula", help="of a rock salt")
    parser.add_argument("length", type=float, help="lattice constant in Å")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=2, help="primitive cells along each vector")
    parser.add_argument("--rattled", type=int, default=300)
    parser.add_argument("--snapshots", type=int, default=100, help="of dynamics at each temperature")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[300.0, 600.0, 900.0], metavar="K")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    calculator = atomslim.Calculator(given.model)
    start = bulk(given.formula, "rocksalt", a=given.length) * ((given.repeat,) * 3)
    began = time.process_time()
    frames = [labelled(atoms, calculator) for atoms in rattled(start, given.rattled, given.seed)]
    for temperature in given.temperatures if given.snapshots else ():
        frames += [
            labelled(atoms, calculator)
            for atoms in dynamics(start, calculator, temperature, given.snapshots, given.seed)
        ]
    write(given.output, frames, format="extxyz")
    forces = np.concatenate([atoms.get_forces() for atoms in frames])
    print(
        f"{len(frames)} frames of {len(start)} atoms, {time.process_time() - began:.0f} CPU-seconds; "
        f"root mean square of the forces' components {1000 * np.sqrt(np.mean(forces**2)):.0f} meV/Å"
    )


if __name__ == "__main__":
    main()
