"""Steps of dynamics with a compiled package against the usual calculator: what AOTInductor's machine code gives.

    python benchmarks/packages.py                     # compiles the embedded model first: a quarter of an hour
    python benchmarks/packages.py --package mini.pt2  # one made before with `atomslim package mini --task molecules`

Energies and forces of the same weights, with neighbours kept from step to step: what a step of dynamics costs. The two
take turns, and ratios are medians over repeats, so that a machine whose speed drifts changes little.
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import cyclopts
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator

import atomslim
from atomslim.measure.machine import machine
from atomslim.measure.structures import aspirin, water


def main(*, model: str = "mini", task: str = "molecules", package: Path | None = None, repeats: int = 20) -> None:
    """Print a table in Markdown."""
    print(f"{machine()}; {model}, task {task}\n")
    print("| structure | atoms | calculator ms | package ms | calculator / package |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        made = package or Path(folder) / "model.pt2"
        if package is None:
            start = time.perf_counter()
            atomslim.package(atomslim.load(model), made, task=task)
            compiling = time.perf_counter() - start
        calculators = [atomslim.Calculator(model, task=task), atomslim.PackagedCalculator(made)]
        for name, atoms in (("aspirin", aspirin()), ("water", water())):
            pairs = [[step(atoms, calculator) for calculator in calculators] for _ in range(repeats + 3)][3:]
            usual, packaged = (median(times) for times in zip(*pairs, strict=True))
            ratio = median(first / second for first, second in pairs)
            print(f"| {name} | {len(atoms)} | {1000 * usual:.1f} | {1000 * packaged:.1f} | {ratio:.2f} |", flush=True)
    if package is None:
        print(f"\nCompiled in {compiling:.0f} s.")


def step(atoms: Atoms, calculator: AseCalculator) -> float:
    """Move the atoms by a hundredth of an Å at most and return the seconds that their forces take."""
    moved = atoms.copy()
    moved.positions += np.random.default_rng(len(atoms)).uniform(-0.01, 0.01, moved.positions.shape)
    moved.calc = calculator
    calculator.reset()
    start = time.perf_counter()
    moved.get_forces()
    return time.perf_counter() - start


if __name__ == "__main__":
    cyclopts.run(main)
