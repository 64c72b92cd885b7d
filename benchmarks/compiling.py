"""What it takes to compile packages, of models and of their cuts: processor time, size, deviations.

    python benchmarks/compiling.py mini -o packages                            # minutes each
    python benchmarks/compiling.py mini --conservative -o packages             # forces as the gradient of its energy
    python benchmarks/compiling.py mini mini-4.safetensors -o packages         # a model, and what `prune` made of it

Each is compiled in a process of its own, with one thread and an empty cache of the compiler's; processor time is that
of this process and of the compilers that it starts. Packages stay in the folder, under the model's name, for
`benchmarks/packages.py`, `benchmarks/steps.py` and `benchmarks/respa.py`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import cyclopts

from atomslim.benchmarking.machine import machine

WORKER = """
import json, resource, sys, warnings
import torch
import atomslim
from atomslim.models import Target

warnings.simplefilter("ignore")
name, output, task, conservative = json.loads(sys.argv[1])
model = atomslim.load(name)
task = task if task in model.tasks else None
if conservative:
    found = model.task(task)
    energies = tuple(target for target in found.targets if target.kind == "energy")
    forces = Target(name="forces", kind="conservative_forces")
    model.tasks[found.name] = found.model_copy(update={"targets": (*energies, forces)})
off = atomslim.package(model, output, task=task)
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
seconds = [one.ru_utime + one.ru_stime for one in used]
weights = sum(parameter.numel() for parameter in model.parameters())
forces = "conservative" if model.task(task).conservative else "direct"
print(json.dumps([model.num_blocks, weights, forces, *seconds, off.energy, off.forces]))
"""

HEAD = ["model", "blocks", "million weights", "forces", "compiling, CPU s", "of it g++", "MB", "off by eV", "by eV/Å"]


def compiled(model: str, package: Path, task: str, *, conservative: bool) -> list[str]:
    """Compile a model in a process of its own, and return its row."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": folder}
        wanted = json.dumps([model, str(package), task, conservative])
        command = [sys.executable, "-c", WORKER, wanted]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    blocks, weights, forces, python, compiler, energy, force = json.loads(done.stdout.splitlines()[-1])
    seconds = [f"{python + compiler:.0f}", f"{compiler:.0f}"]
    size = f"{package.stat().st_size / 2**20:.1f}"
    return [package.stem, str(blocks), f"{weights / 1e6:.2f}", forces, *seconds, size, f"{energy:.0e}", f"{force:.0e}"]


def main(
    models: list[str],
    /,
    *,
    output: Annotated[Path, cyclopts.Parameter(name=["--output", "-o"])],
    task: str = "molecules",
    conservative: bool = False,
) -> None:
    """Print a table in Markdown."""
    output.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; one thread\n")
    print(f"| {' | '.join(HEAD)} |\n| {' | '.join(['---'] * len(HEAD))} |", flush=True)
    for model in models:
        name = Path(model).stem + ("-conservative" if conservative else "")
        row = compiled(model, output / f"{name}.pt2", task, conservative=conservative)
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    cyclopts.run(main)
