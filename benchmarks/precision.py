"""What the precision policies cost in accuracy, on the embedded model, and what they gain in time on this machine.

    python benchmarks/precision.py                        # writes benchmarks/results/precision.md; minutes on one core
    python benchmarks/precision.py --structures 2 --steps 10 -o precision.md      # checks that the script runs
    python benchmarks/precision.py --device cuda

Two parts:

errors      energies, direct forces and conservative forces (the gradient of the same energy) of the sample of every
            domain, against float64: mean |ΔE| per atom, and (Σ|ΔF|² / Σ|F|²)^½
dynamics    paracetamol with conservative forces, NVE, velocity Verlet, from a minimum and 300 K: the slope of the
            total energy and its spread about the slope. The neighbours are those of the first frame, so that no energy
            jumps where atoms change ranks; one more run chooses them anew at every step, as a yardstick. Times are
            medians, on the CPU of processor time, so that other work on the machine does not count

TF32 is a format of CUDA devices. On the CPU its row is emulated: the operands of the products that would run in it,
forward and backward, are rounded to its 10 bits.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, cast

import cyclopts
import numpy as np
import torch
from ase import units
from ase.data import atomic_masses
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from atomslim.atoms import AtomsBatch
from atomslim.benchmarking.machine import machine
from atomslim.data.in_memory import opened
from atomslim.data.loader import collate
from atomslim.evaluation.batches import spread_out
from atomslim.families.jmp import JMP
from atomslim.files import atomic_write
from atomslim.models import Target
from atomslim.models.model_file import load
from atomslim.models.precision import Format, computing

RESULT = Path(__file__).parent / "results" / "precision.md"
DOMAINS = ("molecules", "reactions", "adsorbates", "oxides")
TASK = "molecules"
TEMPERATURE = 300.0
STEP = 0.5
"""fs."""
RELAXATION, DOWNHILL = 150, 0.1
"""Steps down to a minimum, and their length in a time in which atoms of mass 1 get the velocity 1 Å from 1 eV/Å."""
ATEN = torch.ops.aten
FACTORS = {ATEN.mm: (0, 1), ATEN.bmm: (0, 1), ATEN.addmm: (1, 2), ATEN.baddbmm: (1, 2)}
"""Places of the operands of each product."""


@dataclass(frozen=True)
class Way:
    """One way to compute."""

    name: str
    format: Format
    emulated: bool = False


WAYS = {
    "cpu": (
        Way("float64", "fp64"),
        Way("highest; high on the CPU: float32", "fp32"),
        Way("high on CUDA: TF32, emulated", "tf32", emulated=True),
        Way("fast: bfloat16", "bf16"),
    ),
    "cuda": (
        Way("float64", "fp64"),
        Way("highest: float32", "fp32"),
        Way("high: TF32", "tf32"),
        Way("fast: bfloat16", "bf16"),
    ),
}


class EmulatedTF32(TorchDispatchMode):
    """Rounds the operands of products of float32 matrices where TF32 is allowed, as tensor cores do."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out an operation."""
        frames = FACTORS.get(function.overloadpacket, ())
        if frames and torch.backends.cuda.matmul.fp32_precision == "tf32":
            args = tuple(to_tf32(one) if frame in frames else one for frame, one in enumerate(args))
        return function(*args, **(kwargs or {}))


def to_tf32(x: Tensor) -> Tensor:
    """Round float32 numbers to the nearest that has 10 bits behind the point; leave others alone."""
    if x.dtype != torch.float32:
        return x
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class Model:
    """The embedded model in both widths, each domain's task also with conservative forces."""

    def __init__(self, device: str) -> None:
        self.single = cast("JMP", load("mini", device=device)).requires_grad_(False)
        for name in DOMAINS:
            task = self.single.task(name)
            targets = (*[one for one in task.targets if one.kind == "energy"], _GRADIENT)
            made = task.model_copy(update={"name": f"{name}_gradient", "targets": targets})
            self.single.tasks[made.name], self.single.heads[made.name] = made, self.single.heads[name]
        self.double = copy.deepcopy(self.single).double()

    def __call__(self, way: Way, batch: AtomsBatch, topology: Any, task: str) -> dict[str, Tensor]:
        """Return what a task predicts; its energies and forces."""
        model = self.double if way.format == "fp64" else self.single
        emulated = EmulatedTF32() if way.emulated else nullcontext()
        with torch.no_grad(), emulated, computing(way.format, batch.device):
            outputs = model(batch, topology, [task])[task]
        return {name: values.detach().double() for name, values in outputs.items()}


_GRADIENT = Target(name="forces", kind="conservative_forces", unit="eV/Å")


def main(
    *,
    structures: Annotated[int, cyclopts.Parameter(help="of each domain")] = 24,
    steps: Annotated[int, cyclopts.Parameter(help="of dynamics, 0.5 fs each")] = 2000,
    device: Literal["cpu", "cuda"] = "cpu",
    output: Annotated[Path, cyclopts.Parameter(name=["--output", "-o"])] = RESULT,
) -> None:
    """Measure, print and write."""
    model = Model(device)
    lines = ["# Precision\n", f"{datetime.now(UTC):%Y-%m-%d}, {machine(torch.device(device))}, atomslim-mini.", ""]
    command = f"python benchmarks/precision.py --structures {structures} --steps {steps}"
    lines += [f"Made with `{command}`.", "", "## Errors against float64", ""]
    lines += [*errors(model, structures, device), "", "## Dynamics", "", *dynamics(model, steps, device)]
    text = "\n".join(lines) + "\n"
    print(text)
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def errors(model: Model, structures: int, device: str) -> Iterator[str]:
    """Give the lines of the table of errors."""
    yield f"{structures} structures of each domain. E: mean of |ΔE|. F, direct forces, and −∇E, conservative ones:"
    yield "(Σ|ΔF|² / Σ|F|²)^½. The last row of each domain is the error of the model itself, against its labels."
    yield ""
    yield row("domain", "precision", "E, meV/atom", "F", "−∇E")
    yield row(*["---"] * 5)
    for domain in DOMAINS:
        for name, (energy, *forces) in domain_errors(model, domain, structures, device).items():
            yield row(domain, name, f"{1e3 * energy:.2g}", *(f"{100 * share:.2g} %" for share in forces))


def domain_errors(model: Model, domain: str, structures: int, device: str) -> dict[str, tuple[float, ...]]:
    """Return the errors of energies (eV/atom) and of both kinds of forces for each way, and against the labels."""
    samples = spread_out(opened(f"mini:{domain}"), structures)
    wanted = {domain: ["energy", "forces"]}
    batch = collate(samples, [domain] * len(samples), wanted, model.single.topology).to(torch.device(device))
    tasks = (domain, f"{domain}_gradient")
    exact, *others = ([model(way, batch.atoms, batch.topology, task) for task in tasks] for way in WAYS[device])
    names = [way.name for way in WAYS[device][1:]]
    found = {name: deviations(batch.atoms, one, exact) for name, one in zip(names, others, strict=True)}
    labels = {name: batch.targets[name].double() for name in wanted[domain]}
    return {**found, "the model itself": deviations(batch.atoms, exact, [labels, labels])}


def deviations(
    atoms: AtomsBatch, found: Sequence[dict[str, Tensor]], exact: Sequence[dict[str, Tensor]]
) -> tuple[float, ...]:
    """Compare energies and direct forces, and conservative forces."""
    energies = (found[0]["energy"] - exact[0]["energy"]).abs() / atoms.natoms
    pairs = [(one["forces"], other["forces"]) for one, other in zip(found, exact, strict=True)]
    return float(energies.mean()), *(float((one - other).norm() / other.norm()) for one, other in pairs)


def dynamics(model: Model, steps: int, device: str) -> Iterator[str]:
    """Give the lines of the table of dynamics."""
    yield f"Paracetamol, 20 atoms, {steps} steps of {STEP:g} fs from a minimum and {TEMPERATURE:g} K."
    yield ""
    yield row("precision", "drift, meV/atom/ps", "spread, meV/atom", "ms a step")
    yield row(*["---"] * 4)
    first = Frame.first(model, device).relaxed(model, WAYS[device][1])
    runs = [(way, way.name, False) for way in WAYS[device][1:]]
    runs.append((WAYS[device][1], "float32, neighbours chosen anew at every step", True))
    for way, name, anew in runs:
        energies, seconds = trajectory(model, way, first, steps, anew=anew)
        picoseconds = np.arange(len(energies)) * STEP / 1e3
        slope, start = np.polyfit(picoseconds, energies, 1)
        spread = float(np.std(energies - slope * picoseconds - start))
        took = "–" if way.emulated else f"{1e3 * median(seconds):.0f}"
        yield row(name, f"{1e3 * slope:+.3f}", f"{1e3 * spread:.3f}", took)


@dataclass(frozen=True)
class Frame:
    """Paracetamol and its graphs."""

    atoms: AtomsBatch
    topology: Any

    @classmethod
    def first(cls, model: Model, device: str) -> "Frame":
        """Take the first frame of the sample."""
        batch = collate([opened("mini:dynamics")[0]], [TASK], {TASK: []}, model.single.topology)
        batch = batch.to(torch.device(device))
        return cls(batch.atoms, batch.topology)

    def moved(self, displacement: Tensor) -> "Frame":
        """Move the atoms; the graphs stay."""
        return replace(self, atoms=replace(self.atoms, positions=self.atoms.positions + displacement))

    def results(self, model: Model, way: Way) -> dict[str, Tensor]:
        """Return energy and conservative forces."""
        return model(way, self.atoms, self.topology, f"{TASK}_gradient")

    def relaxed(self, model: Model, way: Way) -> "Frame":
        """Go downhill, so that dynamics begins in a minimum: velocities along the forces, none uphill."""
        frame, velocities = self, torch.zeros_like(self.atoms.positions)
        for _ in range(RELAXATION):
            forces = frame.results(model, way)["forces"]
            along = (velocities * forces).sum() / forces.square().sum()
            velocities = (along.clamp(min=0) + DOWNHILL) * forces
            frame = frame.moved((DOWNHILL * velocities).clamp(-0.05, 0.05))
        return frame


def trajectory(model: Model, way: Way, frame: Frame, steps: int, *, anew: bool) -> tuple[np.ndarray, list[float]]:
    """Return the total energy per atom (eV) after every step of velocity Verlet, and the seconds of each."""
    masses = torch.as_tensor(atomic_masses)[frame.atoms.numbers.cpu()].to(frame.atoms.positions)[:, None]
    velocities, results = start_velocities(masses), frame.results(model, way)
    energies, seconds = [], []
    now = time.perf_counter if masses.is_cuda else time.process_time
    for _ in range(steps):
        begin = now()
        velocities = velocities + 0.5 * STEP * units.fs * results["forces"] / masses
        frame = frame.moved(STEP * units.fs * velocities)
        if anew:
            frame = replace(frame, topology=model.single.topology(frame.atoms, TASK))
        results = frame.results(model, way)
        velocities = velocities + 0.5 * STEP * units.fs * results["forces"] / masses
        kinetic = 0.5 * (masses * velocities.square()).sum()
        energies.append(float(results["energy"].sum() + kinetic) / len(masses))
        seconds.append(now() - begin)
    return np.array(energies), seconds


def start_velocities(masses: Tensor) -> Tensor:
    """Draw velocities of a temperature, the same each time; their momenta add up to zero."""
    drawn = torch.as_tensor(np.random.default_rng(0).normal(size=(len(masses), 3))).to(masses)
    momenta = drawn * torch.sqrt(masses * units.kB * TEMPERATURE)
    return (momenta - momenta.mean(dim=0)) / masses


def row(*cells: str) -> str:
    """Write a row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    cyclopts.run(main)
