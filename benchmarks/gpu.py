"""Everything that the documentation says of GPUs, measured in one go, in less than eight minutes.

    python benchmarks/gpu.py                       # writes benchmarks/results/gpu.md; needs a CUDA device
    python benchmarks/gpu.py --device cpu --tiny   # checks that the script runs

Sections, each a table; one that would begin after `--minutes` is left out, and said:

agreement    energies and forces on the device against float64 on the CPU, for each precision
step         ms of a step of dynamics through the calculator, 21 to 4096 atoms, each precision; CPU beside it
batches      structures per second of predictions and of training steps, and the memory that they take
limits       the largest cell of MgO whose forces fit into memory
package      compiled on the device: agreement and time (AOTInductor; the longest section, and the last)

The model is the embedded one, and one of JMP-L's size with random weights, on which times do not depend.
"""

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import cyclopts
import numpy as np
import torch
from ase import Atoms

import atomslim
from atomslim.atoms import from_ase
from atomslim.benchmarking.benchmark import benchmark
from atomslim.benchmarking.machine import machine
from atomslim.benchmarking.structures import aspirin, mof5, oxide, water
from atomslim.errors import AtomslimError
from atomslim.families.jmp import JMP, JMPConfig, jmp_l
from atomslim.files import atomic_write
from atomslim.models.block_model import BlockModel
from atomslim.models.precision import refusal

RESULT = Path(__file__).parent / "results" / "gpu.md"
POLICIES: tuple[Literal["highest", "high", "fast"], ...] = ("highest", "high", "fast")
TASK = "molecules"

Table = list[list[str]]


def large(device: str, *, tiny: bool) -> BlockModel:
    """Return a model of JMP-L's size (or one block of it), with the embedded model's tasks and random weights."""
    torch.manual_seed(0)
    config = JMPConfig.model_validate(jmp_l(num_blocks=1 if tiny else 6).model_dump())
    return JMP(config, tuple(atomslim.load("mini").tasks.values())).eval().to(device)


def moved(atoms: Atoms, turn: int) -> Atoms:
    """Return the atoms a little elsewhere."""
    other: Atoms = atoms.copy()
    other.positions += np.random.default_rng(turn).normal(scale=0.003, size=atoms.positions.shape)
    return other


def synchronised(device: str) -> float:
    """Return the time when the device has nothing left to do."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def step_ms(calculator: Any, atoms: Atoms, device: str, repeats: int) -> float:
    """Return the median milliseconds of a step."""
    times = []
    for turn in range(repeats + 2):
        other = moved(atoms, turn)
        start = synchronised(device)
        calculator.calculate(other, ["forces"])
        times.append(1e3 * (synchronised(device) - start))
    return median(times[2:])


def policies(model: BlockModel) -> list[Any]:
    """Return the precisions that the device has."""
    return [policy for policy in POLICIES if refusal(policy, next(model.parameters())) is None]


def agreement(device: str, *, tiny: bool) -> Table:
    """Compare the device with float64 on the CPU."""
    structures = [aspirin(), water(16)] if tiny else [aspirin(), water(64), mof5()]
    exact = atomslim.load("mini", dtype=torch.float64)
    model = atomslim.load("mini", device=device)
    table = [["precision", "structure", "|ΔE|, meV/atom", "|ΔF|, of the forces' length"]]
    for policy in policies(model):
        for atoms in structures:
            expected = exact.predict(from_ase(atoms), TASK)
            found = model.predict(from_ase(atoms).to(device), TASK, precision=policy)
            energy = 1e3 * abs(float(found["energy"].cpu() - expected["energy"])) / len(atoms)
            forces = found["forces"].cpu().double() - expected["forces"].double()
            share = float(forces.norm() / expected["forces"].norm())
            table.append([policy, f"{atoms.symbols} ({len(atoms)})", f"{energy:.4f}", f"{share:.1e}"])
    return table


def steps(device: str, *, tiny: bool) -> Table:
    """Time steps of dynamics on the device, beside the CPU for what it can do in seconds."""
    sizes = [21] if tiny else [21, 64, 216, 512, 1536, 4096]
    repeats = 2 if tiny else 10
    table = [["model", "atoms", *POLICIES, "cpu, highest"]]
    for name, model in {"mini": atomslim.load("mini", device=device), "JMP-L": large(device, tiny=tiny)}.items():
        on_cpu = atomslim.load("mini") if name == "mini" else None
        for size in sizes:
            atoms = aspirin() if size == 21 else water(round(size / 3))
            row = []
            for policy in POLICIES:
                usable = policy in policies(model)
                calculator = atomslim.Calculator(model, task=TASK, precision=policy) if usable else None
                row.append(f"{step_ms(calculator, atoms, device, repeats):.1f}" if calculator else "—")
            slow = on_cpu is None or size > 512
            beside = "—" if slow else f"{step_ms(atomslim.Calculator(on_cpu, task=TASK), atoms, 'cpu', 3):.1f}"
            table.append([name, str(len(atoms)), *row, beside])
    return table


def batches(device: str, *, tiny: bool) -> Table:
    """Time predictions and training steps of batches."""
    table = [["model", "mode", "precision", "batch", "structures/s", "GiB"]]
    for name, model in {"mini": atomslim.load("mini", device=device), "JMP-L": large(device, tiny=tiny)}.items():
        for batch in [2] if tiny else [1, 16, 128]:
            found = benchmark(
                model, ["aspirin"], task=TASK, modes=["forces", "train"], precisions=policies(model), batch_size=batch,
                repeats=1 if tiny else 5,
            )  # fmt: skip
            for row in found.rows:
                memory = "—" if row.speed.memory is None else f"{row.speed.memory / 2**30:.2f}"
                rate = f"{row.speed.throughput:.1f}"
                table.append([name, row.mode, str(row.precision), str(batch), rate, memory])
    return table


def limits(device: str, *, tiny: bool) -> Table:
    """Find the largest cell, by doubling, whose forces fit."""
    table = [["model", "atoms of MgO", "ms"]]
    for name, model in {"mini": atomslim.load("mini", device=device), "JMP-L": large(device, tiny=tiny)}.items():
        calculator = atomslim.Calculator(model, task=TASK)
        size, row = 64, ["none", "—"]
        while size <= (128 if tiny else 65536):
            atoms = oxide(size)
            try:
                row = [str(len(atoms)), f"{step_ms(calculator, atoms, device, 1):.0f}"]
            except (torch.OutOfMemoryError, AtomslimError):
                break
            size *= 2
        table.append([name, *row])
    return table


def package(device: str, *, tiny: bool) -> Table:
    """Compile the embedded model for the device; `package` compares it with the model."""
    if tiny:
        return [["left out"], ["minutes of compiling"]]
    table = [["atoms", "calculator ms", "package ms", "compiled in s", "|ΔE|, eV", "|ΔF|, eV/Å"]]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = atomslim.package("mini", Path(folder) / "mini.pt2", task=TASK, device=device)
        taken = time.perf_counter() - start
        packaged = atomslim.PackagedCalculator(Path(folder) / "mini.pt2")
        usual = atomslim.Calculator("mini", task=TASK, device=device)
        for atoms in (aspirin(), water(64)):
            times = [step_ms(calculator, atoms, device, 10) for calculator in (usual, packaged)]
            off = [f"{found.energy:.1e}", f"{found.forces:.1e}"]
            table.append([str(len(atoms)), *(f"{each:.1f}" for each in times), f"{taken:.0f}", *off])
    return table


SECTIONS: dict[str, Callable[..., Table]] = {
    "agreement": agreement,
    "step": steps,
    "batches": batches,
    "limits": limits,
    "package": package,
}


def sections(device: str, minutes: float, *, tiny: bool) -> Iterator[str]:
    """Give each section in Markdown."""
    begun = time.monotonic()
    for name, measure in SECTIONS.items():
        yield f"## {name}\n"
        if time.monotonic() - begun > 60 * minutes:
            yield f"Left out: {minutes:g} minutes are over.\n"
            continue
        try:
            head, *body = measure(device, tiny=tiny)
        except (AtomslimError, RuntimeError) as error:  # one section that fails leaves the others
            yield f"Failed: {str(error).splitlines()[0]}\n"
            continue
        rows = [head, ["---"] * len(head), *body]
        yield "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def main(
    *,
    device: Literal["cuda", "cpu"] = "cuda",
    tiny: bool = False,
    minutes: float = 4.0,
    output: Annotated[Path, cyclopts.Parameter(name=["--output", "-o"])] = RESULT,
) -> None:
    """Measure all sections, print them, and write the page."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is available to torch here: --device cpu --tiny checks the script")
    warnings.simplefilter("ignore")
    threads = os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads()))
    parts = ["# On a GPU\n", f"{datetime.now(UTC):%Y-%m-%d}, {machine(torch.device(device))}, {threads} threads.\n"]
    parts.append("Made with `python benchmarks/gpu.py`. Times are medians, in ms.\n")
    for part in sections(device, minutes, tiny=tiny):
        parts.append(part)
        print(part, flush=True)
    with atomic_write(output) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    cyclopts.run(main)
