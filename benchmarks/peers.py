"""A step of dynamics through atomslim and through what else a user could take, on the same structures.

    python benchmarks/peers.py                                       # all that is installed; minutes
    python benchmarks/peers.py --atoms 21,64 --threads 1 --repeats 3 # a quick look
    python benchmarks/peers.py --models mini,tblite,ours=small.safetensors

Energy and forces of one structure, positions moved by some thousandths of an ångström before every step. Structures:
aspirin (21 atoms) and boxes of water at 1 g/cm³ (64, 216, 512 atoms, or near it). The calculators take turns in a
random order. Shortest times and medians of all rounds are shown, of processor time (all threads together) and of wall
clock. Ratios are those of one round, as medians with their range, of wall clock; with `--clock processor`, of processor
time, on which a busy machine has less effect. What is not installed is left out, and said.

Speed says nothing about accuracy: the models were trained on different things. Elements that a model does not know are
no obstacle to its speed here.
"""

import contextlib
import io
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import cyclopts
import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import all_changes

import atomslim
from atomslim.benchmarking.machine import machine
from atomslim.benchmarking.structures import aspirin, water
from atomslim.errors import AtomslimError
from atomslim.files import atomic_write

RESULT = Path(__file__).parent / "results" / "peers.md"


def _chgnet() -> Any:
    from chgnet.model import CHGNetCalculator  # noqa: PLC0415 - one of several optional packages

    return CHGNetCalculator(use_device="cpu")


def _sevennet() -> Any:
    from sevenn.calculator import SevenNetCalculator  # noqa: PLC0415 - as above

    return SevenNetCalculator("7net-0", device="cpu")


def _tblite() -> Any:
    from tblite.ase import TBLite  # noqa: PLC0415 - as above

    return TBLite(method="GFN2-xTB", verbosity=0)


PEERS: dict[str, Callable[[], Any]] = {
    "mini": lambda: atomslim.Calculator("mini", task="molecules"),
    "mini-smooth": lambda: atomslim.Calculator("mini-smooth", task="molecules"),
    "chgnet": _chgnet,
    "chgnet in atomslim": lambda: atomslim.Calculator("chgnet:0.3.0"),
    "sevennet": _sevennet,
    "sevennet in atomslim": lambda: atomslim.Calculator("sevennet:7net-0"),
    "tblite": _tblite,
}
"""Name → what makes its calculator."""


def structure(atoms: int) -> Atoms:
    """Return aspirin for 21 atoms, a box of water of about so many otherwise."""
    return aspirin() if atoms == 21 else water(round(atoms / 3))


def boxed(atoms: Atoms) -> Atoms:
    """Return a molecule in a periodic box, 12 Å from its images: CHGNet's own calculator takes nothing else."""
    other: Atoms = atoms.copy()
    if not atoms.pbc.any():
        other.center(vacuum=6.0)
        other.pbc = True
    return other


def made(names: list[str]) -> dict[str, Any]:
    """Make the calculators that can be made here; say which cannot."""
    found = {}
    for name in names:
        label, _, file = name.partition("=")
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[label] = atomslim.Calculator(file) if file else PEERS[label]()
        except (AtomslimError, ImportError) as error:
            print(f"{label} is left out: {error}")
    return found


Clock = Literal["wall", "processor"]


@dataclass(frozen=True)
class Milliseconds:
    """What one step took."""

    wall: float
    processor: float


def step(calculator: Any, atoms: Atoms, *, anew: bool) -> Milliseconds:
    """Return what one step takes; the first of a structure is ``anew``."""
    wall, processor = time.perf_counter(), time.process_time()
    calculator.calculate(atoms, ["energy", "forces"], all_changes if anew else ["positions"])
    return Milliseconds(1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor))


def measured(calculators: dict[str, Any], atoms: Atoms, repeats: int, longest: float) -> dict[str, list[Milliseconds]]:
    """Let the calculators take turns; one that takes longer than `longest` seconds is asked once."""
    random = np.random.default_rng(0)
    times: dict[str, list[Milliseconds]] = {name: [] for name in calculators}
    for turn in range(repeats + 1):
        atoms.positions += random.normal(scale=0.003, size=atoms.positions.shape)
        for name in random.permutation(list(calculators)):
            if turn and times[name] and times[name][-1].processor > 1e3 * longest:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                given = boxed(atoms) if name == "chgnet" else atoms
                taken = step(calculators[name], given, anew=not turn)
            if turn or taken.processor > 1e3 * longest:  # the first is slower than any other
                times[name].append(taken)
    return times


def rows(times: dict[str, list[Milliseconds]], atoms: int, threads: int, clock: Clock) -> list[list[str]]:
    """Return a row for each calculator, with ratios to the first."""
    base = next(iter(times.values()))
    found = []
    for name, each in times.items():
        ratios = [getattr(other, clock) / getattr(one, clock) for one, other in zip(base, each, strict=False)]
        spread = f"{median(ratios):.2f} × ({min(ratios):.2f}–{max(ratios):.2f})"
        shown = [shortest_and_median([getattr(one, which) for one in each]) for which in ("processor", "wall")]
        found.append([str(atoms), str(threads), name, *shown, spread])
    return found


def shortest_and_median(times: list[float]) -> str:
    """Return both in ms, a step that was asked for once as it is."""
    return f"{min(times):.1f} / {median(times):.1f}" if len(times) > 1 else f"{times[0]:.1f}, once"


def main(
    *,
    models: Annotated[str, cyclopts.Parameter(help="names, or NAME=FILE, with commas between them")] = ",".join(PEERS),
    atoms: str = "21,64,216,512",
    threads: str = "1,2",
    repeats: int = 9,
    longest: float = 20.0,
    clock: Clock = "wall",
    output: Annotated[Path, cyclopts.Parameter(name=["--output", "-o"])] = RESULT,
) -> None:
    """Measure, print the page, and write it."""
    calculators = made(models.split(","))
    first = f"times {next(iter(calculators))}, {clock}"
    head = ["atoms", "threads", "calculator", "processor ms", "wall ms", first]
    table = [head, ["---"] * len(head)]
    for size in map(int, atoms.split(",")):
        for count in map(int, threads.split(",")):
            torch.set_num_threads(count)
            box = structure(size)
            table += rows(measured(calculators, box, repeats, longest), len(box), count, clock)
            print(*(" | ".join(row) for row in table[-len(calculators) :]), sep="\n", flush=True)
    made_with = (
        f"Made with `python benchmarks/peers.py`, up to {repeats} rounds in turns: aspirin, and boxes of water. Energy "
        "and forces of one structure, positions moved before every step. Times: shortest / median; processor time adds "
        f"up all threads. Ratios of {clock} time: median (range)."
    )
    lines = [f"| {' | '.join(row)} |" for row in table]
    head_line = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}."
    text = "\n".join(["# Beside other calculators", "", head_line, "", made_with, "", *lines, ""])
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cyclopts.run(main)
