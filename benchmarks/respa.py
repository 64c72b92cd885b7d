"""Multiple time steps against the full model alone: steps, time and drift of the same dynamics.

    python benchmarks/respa.py                                             # mini-smooth and a cut of it; minutes
    python benchmarks/respa.py --full full.safetensors --small student.safetensors --task molecules
    python benchmarks/respa.py --full sevennet:7net-0 --small student.safetensors --structure MgO.xyz
    python benchmarks/respa.py --full "ase:sevenn.calculator:SevenNetCalculator?model=7net-0" --small student.pt2
    python benchmarks/respa.py --steps 200 -o respa.md                     # checks that the script runs
    python benchmarks/respa.py --steps 6000 --keep respa                   # goes on from what was ended, and is kept

A structure at constant energy, with conservative forces of both models: models and packages of ours, or any ASE
calculators. Each way runs the same physical time; all start from the same positions and velocities. Drift is the slope
of the total energy (of the full model), its spread the standard deviation about the slope. Times are processor time of
one thread, shortest of the pieces that each way is run in; ns/day is of that. A full model may be a package, too: then
the ratios are those of a compiled one. With `--keep`, positions, velocities and energies are written after each piece,
and the same command goes on from there. Without a small model, the first block of
the full one is kept and its readout fitted to the full model's energies and forces by least squares, in closed form, on
the sample that comes with it.
"""

import copy
import os
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cyclopts
import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator as AseCalculator
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet

import atomslim
from atomslim.benchmarking.machine import machine
from atomslim.benchmarking.structures import structure as named_structure
from atomslim.data.in_memory import opened
from atomslim.files import atomic_write
from atomslim.inference.named_calculators import calculator_of
from atomslim.inference.respa import Respa
from atomslim.models import Target
from atomslim.models.block_model import BlockModel
from atomslim.models.elsewhere import CALCULATOR

RESULT = Path(__file__).parent / "results" / "respa.md"
LIMIT = 48
"""Structures that the cut is fitted to."""
PIECES = 10
"""Times are the shortest of so many pieces of a run."""


def conservative(model: BlockModel, task: str) -> tuple[BlockModel, str]:
    """Return a model whose task has the gradient of its energy as forces, and the task's name: its only one if so."""
    found = model.task(task if task in model.tasks else None)
    energies = tuple(target for target in found.targets if target.kind == "energy")
    changed = copy.deepcopy(model)
    forces = Target(name="forces", kind="conservative_forces")
    changed.tasks[found.name] = found.model_copy(update={"targets": (*energies, forces)})
    return changed, found.name


def first_blocks(full: str, task: str, data: str, blocks: int) -> tuple[AseCalculator, str]:
    """Return the first blocks of a model, the readout fitted to its energies and forces, and what that is called."""
    model, name = conservative(atomslim.load(full), task)
    calibration = {name: opened(data)}
    cut = atomslim.keep_blocks(model, blocks, realign="least-squares-forces", calibration=calibration, limit=LIMIT)
    return atomslim.Calculator(cut, task=name), f"its first {blocks} of {model.num_blocks} blocks, fitted"


def calculator(source: BlockModel | str, task: str) -> AseCalculator:
    """Return the calculator of a model, its forces made conservative, of a package or of what ASE imports."""
    if isinstance(source, str) and (source.endswith(".pt2") or source.startswith(CALCULATOR)):
        return calculator_of(source)
    model, name = conservative(atomslim.load(source) if isinstance(source, str) else source, task)
    return atomslim.Calculator(model, task=name)


def start(name: str, kelvin: float) -> Atoms:
    """Return a structure with velocities, at rest as a whole."""
    atoms = named_structure(name)
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=np.random.default_rng(0))
    Stationary(atoms)
    if not atoms.pbc.any():
        ZeroRotation(atoms)
    return atoms


def run(make: Callable[[Atoms], Any], atoms: Atoms, outer: int, each: float, kept: Path | None) -> dict[str, float]:
    """Run so many outer steps of `each` fs; return drift and spread in meV/atom(/ps), and ms of CPU for each fs."""
    energies, times = restored(atoms, kept)
    dynamics, piece = make(atoms), max(outer // PIECES, 1)
    dynamics.run(0)
    while len(times) < PIECES:
        begun = time.process_time()
        for _ in range(piece):
            dynamics.run(1)
            energies.append(atoms.get_total_energy())
        times.append((time.process_time() - begun) / (piece * each))
        if kept is not None:
            with atomic_write(kept) as temporary, temporary.open("wb") as file:
                moving = {"positions": atoms.positions, "momenta": atoms.get_momenta()}
                np.savez(file, energies=energies, times=times, **moving)
    shortest = min(times)
    at = each * (1 + np.arange(len(energies))) / 1000
    per_atom = 1000 * np.array(energies) / len(atoms)
    slope, offset = np.polyfit(at, per_atom, 1)
    return {"drift": slope, "spread": float(np.std(per_atom - slope * at - offset)), "ms per fs": 1e3 * shortest}


def restored(atoms: Atoms, kept: Path | None) -> tuple[list[float], list[float]]:
    """Put atoms where a run was left, and return its energies (eV) so far and the seconds per fs of its pieces."""
    if kept is None or not kept.is_file():
        return [], []
    with np.load(kept) as found:
        atoms.positions = found["positions"]
        atoms.set_momenta(found["momenta"])
        return list(found["energies"]), list(found["times"])


def main(  # noqa: PLR0913 - what is compared, and how
    *,
    full: str = "mini-smooth",
    small: str | None = None,
    task: str = "molecules",
    structure: str = "aspirin",
    kelvin: float = 300.0,
    data: str = "mini:molecules",
    blocks: int = 1,
    timestep: float = 0.5,
    steps: int = 2000,
    inner: str = "2,4,8",
    keep: Path | None = None,
    output: Annotated[Path, cyclopts.Parameter(name=["--output", "-o"])] = RESULT,
) -> None:
    """Compare, print and write a table; `steps` are those of the full model alone."""
    torch.set_num_threads(1)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    whole = calculator(full, task)
    inside, within = (calculator(small, task), small) if small else first_blocks(full, task, data, blocks)
    ways: dict[str, Callable[[Atoms], Any]] = {
        "full model alone": lambda atoms: VelocityVerlet(atoms, timestep * units.fs),
    }
    for count in map(int, inner.split(",")):
        ways[f"n = {count}"] = lambda atoms, count=count: Respa(atoms, timestep * units.fs, inside, inner_steps=count)
    ways["small model alone"] = lambda atoms: VelocityVerlet(atoms, timestep * units.fs)
    head = ["way", "outer step, fs", "drift, meV/atom/ps", "spread, meV/atom", "CPU ms per fs", "ns/day", "times"]
    table, before = [head, ["---"] * len(head)], 0.0
    for way, make in ways.items():
        atoms = start(structure, kelvin)
        atoms.calc = inside if way.startswith("small") else whole
        count = int(way[4:]) if way.startswith("n") else 1
        kept = None if keep is None else keep / f"{way}.npz"
        found = run(make, atoms, steps // count, count * timestep, kept)
        before = before or found["ms per fs"]
        numbers = [f"{count * timestep:g}", f"{found['drift']:+.3f}", f"{found['spread']:.3f}"]
        speed = [
            f"{found['ms per fs']:.1f}",
            f"{86.4 / found['ms per fs']:.3f}",
            f"{before / found['ms per fs']:.2f} ×",
        ]
        table.append([way, *numbers, *speed])
        print(" | ".join(table[-1]), flush=True)
    made = (
        f"Made with `python benchmarks/respa.py`: {Path(structure).stem} from {kelvin:g} K, constant energy, "
        f"{steps * timestep / 1000:g} ps, {timestep:g} fs, {full} and inside {Path(within).name}. Drift and spread are "
        "of the full model's total energy at outer steps; times are processor time, shortest of ten pieces."
    )
    lines = [f"| {' | '.join(row)} |" for row in table]
    date = f"{datetime.now(UTC):%Y-%m-%d}, {machine(torch.device('cpu'))}."
    with atomic_write(output) as temporary:
        temporary.write_text("\n".join(["# Multiple time steps", "", date, "", made, "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    cyclopts.run(main)
