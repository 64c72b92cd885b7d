"""Steps of dynamics with the embedded models, by this source and by another one, an earlier state of it say.

    git worktree add ../before v0.1.0
    python benchmarks/steps.py --other ../before/src
    python benchmarks/steps.py                          # this source alone

Each source runs in a process of its own with one thread; the two take turns at every step, with the same positions,
which move by a hundredth of an Å. Times are CPU times of the fastest step, so that other jobs matter little. The last
column is the largest difference between the forces of the two.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import cyclopts

from atomslim.benchmarking.machine import machine

SAVER = "import sys, atomslim; atomslim.save(atomslim.load(sys.argv[1]), sys.argv[2])"

WORKER = """
import inspect, json, sys, time, warnings
import numpy as np
import torch
import atomslim
from ase.build import bulk
from atomslim.benchmarking.structures import structure

warnings.simplefilter("ignore")
torch.set_num_threads(1)
name, wanted = json.loads(sys.stdin.readline())
model = atomslim.load(name)
options = {"compiled": "off"} if "compiled" in inspect.signature(atomslim.Calculator).parameters else {}
if wanted.startswith("MgO"):
    size, task = round((int(wanted[3:]) / 8) ** (1 / 3)), "oxides"
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(size)
    atoms.rattle(0.05, seed=1)
else:
    atoms, task = structure(wanted), "molecules"
calculator = atomslim.Calculator(model, task=task, **options)
for line in sys.stdin:
    moved = atoms.copy()
    moved.positions += np.random.default_rng(int(line)).uniform(-0.01, 0.01, moved.positions.shape)
    moved.calc = calculator
    start = time.process_time()
    forces = moved.get_forces()
    print(json.dumps([time.process_time() - start, len(atoms), forces.tolist()]), flush=True)
"""


def main(
    *,
    other: Path | None = None,
    models: Sequence[str] = ("mini", "mini-smooth"),
    structures: Sequence[str] = ("aspirin", "MgO64", "MgO216"),
    repeats: int = 12,
) -> None:
    """Print a table in Markdown."""
    here = Path(__file__).parent.parent / "src"
    print(f"{machine()}; one thread\n")
    print("| model | structure | atoms | before, CPU ms | now, CPU ms | before / now | forces differ by eV/Å |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for model, structure in product(models, structures):
            file = Path(folder) / f"{model}.safetensors"  # the same weights for both
            sources = [here] if other is None else [other, here]
            subprocess.run([sys.executable, "-c", SAVER, model, file], env=_environment(sources[0]), check=True)
            workers = [_worker(source, file, structure) for source in sources]
            turns = [[_step(worker, turn) for worker in workers] for turn in range(repeats)]
            print(_row(model, structure, turns), flush=True)
            for worker in workers:
                worker.communicate()


def _worker(source: Path, model: Path, structure: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER]
    worker = subprocess.Popen(
        command, env=_environment(source), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _say(worker, json.dumps([str(model), structure]))
    return worker


def _environment(source: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}


def _step(worker: "subprocess.Popen[str]", turn: int) -> tuple[float, int, list[list[float]]]:
    _say(worker, str(turn))
    if worker.stdout is None or not (line := worker.stdout.readline()):
        sys.exit("a source does not run: its own message is above")
    seconds, atoms, forces = json.loads(line)
    return seconds, atoms, forces


def _say(worker: "subprocess.Popen[str]", line: str) -> None:
    if worker.stdin is not None:
        worker.stdin.write(f"{line}\n")
        worker.stdin.flush()


def _row(model: str, structure: str, turns: list[list[tuple[float, int, list[list[float]]]]]) -> str:
    times = [min(turn[place][0] for turn in turns) * 1000 for place in range(len(turns[0]))]
    atoms = turns[0][0][1]
    before, ratio, difference = "", "", ""
    if len(times) == 2:
        pairs = [zip(turn[0][2], turn[1][2], strict=True) for turn in turns]
        largest = max(abs(a - b) for turn in pairs for one, two in turn for a, b in zip(one, two, strict=True))
        before, ratio, difference = f"{times[0]:.1f}", f"{times[0] / times[1]:.2f}", f"{largest:.0e}"
    return f"| {model} | {structure} | {atoms} | {before} | {times[-1]:.1f} | {ratio} | {difference} |"


if __name__ == "__main__":
    cyclopts.run(main)
