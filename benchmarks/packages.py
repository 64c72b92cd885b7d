"""Steps of dynamics with a compiled package against the usual calculator: what AOTInductor's machine code gives.

    python benchmarks/packages.py                     # compiles the embedded model first: minutes
    python benchmarks/packages.py --package mini.pt2  # one made before with `atomslim package mini --task molecules`
    python benchmarks/packages.py --conservative      # forces as the gradient of its energy
    python benchmarks/packages.py --model mini-smooth --threads 1 --structures aspirin,MgO64.xyz --clock processor
    python benchmarks/packages.py --model jmp-l.pt --task oc20 --package jmp-l.pt2 --structures mof5

Energies and forces of the same weights, with neighbours kept from step to step: what a step of dynamics costs. The two
take turns, and ratios are medians over repeats, so that a machine whose speed drifts changes little. On a busy machine,
`--clock processor` takes processor time, of one thread only, and shows the shortest.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import cyclopts
import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator

import atomslim
from atomslim.benchmarking.machine import machine
from atomslim.benchmarking.structures import structure
from atomslim.models import Target


def main(
    *,
    model: str = "mini",
    task: str = "molecules",
    package: Path | None = None,
    conservative: bool = False,
    structures: Sequence[str] = ("aspirin", "water"),
    repeats: int = 20,
    threads: int = 2,
    clock: Literal["wall", "processor"] = "wall",
) -> None:
    """Print a table in Markdown."""
    if clock == "processor" and threads != 1:
        raise SystemExit("--clock processor adds up the time of all threads: give --threads 1")
    ticking = time.perf_counter if clock == "wall" else time.process_time
    shown: Callable[[Sequence[float]], float] = median if clock == "wall" else min
    torch.set_num_threads(threads)
    loaded = atomslim.load(model)
    if conservative:
        energies = [target for target in loaded.task(task).targets if target.kind == "energy"]
        targets = (*energies, Target(name="forces", kind="conservative_forces"))
        loaded.tasks[task] = loaded.task(task).model_copy(update={"targets": targets})
    forces = "conservative" if loaded.task(task).conservative else "direct"
    print(f"{machine()}; {model}, task {task}, {forces} forces\n")
    print("| structure | atoms | calculator ms | package ms | calculator / package |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        made = package or Path(folder) / "model.pt2"
        if package is None:
            start = time.perf_counter()
            atomslim.package(loaded, made, task=task)
            compiling = time.perf_counter() - start
        calculators = [atomslim.Calculator(loaded, task=task), atomslim.PackagedCalculator(made)]
        for name in structures:
            atoms = structure(name)
            pairs = [
                [step(atoms, calculator, turn, ticking) for calculator in calculators] for turn in range(repeats + 3)
            ][3:]
            usual, packaged = (shown(times) for times in zip(*pairs, strict=True))
            ratio = median(first / second for first, second in pairs)
            print(
                f"| {Path(name).stem} | {len(atoms)} | {1000 * usual:.1f} | {1000 * packaged:.1f} | {ratio:.2f} |",
                flush=True,
            )
    if package is None:
        print(f"\nCompiled in {compiling:.0f} s.")


def step(atoms: Atoms, calculator: AseCalculator, turn: int, clock: Callable[[], float]) -> float:
    """Move the atoms by a hundredth of an Å at most and return the seconds that their forces take."""
    moved = atoms.copy()
    moved.positions += np.random.default_rng(turn).uniform(-0.01, 0.01, moved.positions.shape)
    moved.calc = calculator
    calculator.reset()
    start = clock()
    moved.get_forces()
    return clock() - start


if __name__ == "__main__":
    cyclopts.run(main)
