"""Steps of dynamics with the embedded models, by this source and by another one, an earlier state of it say.

    git worktree add ../before v0.1.0
    python benchmarks/steps.py --other ../before/src
    python benchmarks/steps.py                          # this source alone
    python benchmarks/steps.py --models mini --conservative --other ../before/src
    python benchmarks/compiling.py mini mini-smooth -o packages
    python benchmarks/steps.py --other ../before/src --packages packages

Each source runs in a process of its own with one thread, and so does a package of the same model; they take turns at
every step, with the same positions, which move by a hundredth of an Å. Times are CPU times of the fastest step, so that
other jobs matter little. *products* are the matrix products of this source's step, done again and nothing else: what no
form of the same step can fall below. The last column is the largest difference between the forces of the two sources;
packages are compared with their models when they are made.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from itertools import combinations, product
from pathlib import Path

import cyclopts
import numpy as np

from atomslim.benchmarking.machine import machine

TASK = "molecules"
"""Of all structures, so that one package serves them; the tasks of these models have the same graphs."""

SAVER = """
import sys
import atomslim
from atomslim.models import Target

name, output, task, conservative = sys.argv[1:]
model = atomslim.load(name)
if conservative == "True":
    energies = tuple(target for target in model.task(task).targets if target.kind == "energy")
    forces = Target(name="forces", kind="conservative_forces")
    model.tasks[task] = model.task(task).model_copy(update={"targets": (*energies, forces)})
atomslim.save(model, output)
"""

WORKER = """
import json, sys, time, warnings
import numpy as np
import torch
import atomslim
from ase.build import bulk
from atomslim.benchmarking.structures import structure
from torch.utils._python_dispatch import TorchDispatchMode

warnings.simplefilter("ignore")
torch.set_num_threads(1)
name, wanted, task, products = json.loads(sys.stdin.readline())
PRODUCTS = {getattr(torch.ops.aten, name).default: getattr(torch.ops.aten, name).out for name in ("mm", "bmm", "addmm")}

class Products(TorchDispatchMode):
    calls = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        output = function(*arguments, **(keywords or {}))
        if function in PRODUCTS:
            self.calls.append((PRODUCTS[function], arguments, keywords or {}, torch.empty_like(output)))
        return output

@torch.inference_mode()
def again():
    for function, arguments, keywords, output in Products.calls:
        function(*arguments, **keywords, out=output)
if wanted.startswith("MgO"):
    size = round((int(wanted[3:]) / 8) ** (1 / 3))
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(size)
    atoms.rattle(0.05, seed=1)
else:
    atoms = structure(wanted)
if name.endswith(".pt2"):
    calculator = atomslim.PackagedCalculator(name)
else:
    calculator = atomslim.Calculator(atomslim.load(name), task=task)
for line in sys.stdin:
    moved = atoms.copy()
    moved.positions += np.random.default_rng(int(line)).uniform(-0.01, 0.01, moved.positions.shape)
    moved.calc = calculator
    if products and not Products.calls:
        with Products():
            forces = moved.get_forces()
    start = time.process_time()
    if products:
        again()
    else:
        forces = moved.get_forces()
    print(json.dumps([time.process_time() - start, len(atoms), forces.tolist()]), flush=True)
"""


def main(
    *,
    other: Path | None = None,
    packages: Path | None = None,
    models: Sequence[str] = ("mini", "mini-smooth"),
    conservative: bool = False,
    structures: Sequence[str] = ("aspirin", "MgO64", "MgO216"),
    repeats: int = 12,
) -> None:
    """Print a table in Markdown."""
    here = Path(__file__).parent.parent / "src"
    if other is not None and not (other / "atomslim").is_dir():
        sys.exit(
            f"{other}: no atomslim here, and this one would be timed in its place: give the folder src of a source"
        )
    given = {"before": other, "here": here, "compiled": here if packages else None, "products": here}
    ways = {way: source for way, source in given.items() if source is not None}
    print(f"{machine()}; one thread{', forces as the gradient of the energy' if conservative else ''}\n")
    ratios = [f"{before} / {after}" for before, after in _compared(ways)]
    head = ["model", "structure", "atoms", *(f"{way}, CPU ms" for way in ways), *ratios, "forces differ by eV/Å"]
    print(f"| {' | '.join(head)} |\n| {' | '.join(['---'] * len(head))} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for model, structure in product(models, structures):
            file = Path(folder) / f"{model}.safetensors"  # the same weights for both, in the earlier one's format
            wanted = [model, str(file), TASK, str(conservative)]
            subprocess.run([sys.executable, "-c", SAVER, *wanted], env=_environment(other or here), check=True)
            package = (packages or Path()) / f"{model}{'-conservative' if conservative else ''}.pt2"
            workers = {
                way: _worker(source, package if way == "compiled" else file, structure, products=way == "products")
                for way, source in ways.items()
            }
            turns = [{way: _step(worker, turn) for way, worker in workers.items()} for turn in range(repeats)]
            print(_row(model, structure, turns), flush=True)
            for worker in workers.values():
                worker.communicate()


def _compared(ways: Iterable[str]) -> list[tuple[str, str]]:
    return list(combinations([way for way in ways if way != "products"], 2))


def _worker(source: Path, model: Path, structure: str, *, products: bool) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER]
    worker = subprocess.Popen(
        command, env=_environment(source), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _say(worker, json.dumps([str(model), structure, TASK, products]))
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


def _row(model: str, structure: str, turns: list[dict[str, tuple[float, int, list[list[float]]]]]) -> str:
    times = {way: min(turn[way][0] for turn in turns) * 1000 for way in turns[0]}
    pairs = [(turn["here"][2], turn["before"][2]) for turn in turns if "before" in turn]
    largest = max((float(np.abs(np.array(one) - np.array(other)).max()) for one, other in pairs), default=0.0)
    ratios = [f"{times[before] / times[after]:.2f}" for before, after in _compared(times)]
    shown = [f"{each:.1f}" for each in times.values()]
    return f"| {' | '.join([model, structure, str(turns[0]['here'][1]), *shown, *ratios, f'{largest:.0e}'])} |"


if __name__ == "__main__":
    cyclopts.run(main)
