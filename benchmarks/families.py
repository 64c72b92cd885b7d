"""How fast models of other families run through atomslim, beside the calculators of their own packages.

    python benchmarks/families.py                               # writes benchmarks/results/families.md
    python benchmarks/families.py chgnet:0.3.0 --atoms 8        # one family, one size: seconds
    python benchmarks/families.py mace:128x0e mace:128x0e+128x1o -o mace.md     # in the environment of MACE

Energy, forces and stress of MgO crystals, one step of dynamics after the other: before every step all atoms move by
some thousandths of an ångström, so that no calculator gives the last answer again, and neighbours are found anew where
a calculator does so. No weights of MACE come with its package: models are made of the sizes of its foundation models
(89 elements, cutoff 6 Å, two blocks), with the hidden irreps of their names and random weights, on which times do not
depend. The calculators take turns in a random order. Times are of the processor, with one thread, so that
other work on the machine counts little; ratios are those of one round, told by their median and their range, and beside
them stands the ratio of the shortest times.
"""

import contextlib
import io
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cyclopts
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

import atomslim
from atomslim.benchmarking.machine import machine
from atomslim.files import atomic_write

RESULT = Path(__file__).parent / "results" / "families.md"


def chgnet(version: str) -> Any:
    """Return the calculator of the package chgnet."""
    from chgnet.model import CHGNet, CHGNetCalculator  # noqa: PLC0415 - one of several optional packages

    return CHGNetCalculator(CHGNet.load(model_name=version, use_device="cpu", verbose=False), use_device="cpu")


def sevennet(name: str) -> Any:
    """Return the calculator of the package sevenn."""
    from sevenn.calculator import SevenNetCalculator  # noqa: PLC0415 - one of several optional packages

    return SevenNetCalculator(name, device="cpu")


def mace(name: str) -> Any:
    """Return the calculator of the package mace-torch for a file."""
    from mace.calculators import MACECalculator  # noqa: PLC0415 - one of several optional packages

    return MACECalculator(name, device="cpu", default_dtype="float32")


def random_mace(irreps: str, path: Path) -> None:
    """Save a MACE model of the sizes of the package's foundation models, with random weights."""
    from atomslim.families.mace.package import blocks, models, o3  # noqa: PLC0415 - one of several optional packages

    torch.manual_seed(0)
    residual = blocks.RealAgnosticResidualInteractionBlock
    model = models.ScaleShiftMACE(
        r_max=6.0,
        num_bessel=10,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=residual,
        interaction_cls_first=residual,
        num_interactions=2,
        num_elements=89,
        hidden_irreps=o3.Irreps(irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros((1, 89)),
        avg_num_neighbors=60.0,
        atomic_numbers=list(range(1, 90)),
        correlation=3,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=[0.8],
        atomic_inter_shift=[0.0],
        heads=["Default"],
    )
    torch.save(model, path)


OWN: dict[str, Callable[[str], Any]] = {"chgnet": chgnet, "sevennet": sevennet, "mace": mace}
"""Family → what makes the calculator of its package for a name."""

MODELS = ("chgnet:0.3.0", "sevennet:7net-0")


@dataclass(frozen=True)
class Row:
    """Times in ms of one model and one crystal by round: the package's calculator, and ours."""

    model: str
    atoms: int
    package: list[float]
    ours: list[float]

    def cells(self) -> list[str]:
        """Return a row of the table."""
        ratios = [one / other for one, other in zip(self.package, self.ours, strict=True)]
        return [
            self.model,
            str(self.atoms),
            f"{min(self.package):.0f} / {median(self.package):.0f}",
            f"{min(self.ours):.0f} / {median(self.ours):.0f}",
            f"{min(self.package) / min(self.ours):.2f} ×",
            f"{median(ratios):.2f} × ({min(ratios):.2f}–{max(ratios):.2f})",
        ]


def crystal(atoms: int) -> Atoms:
    """Return a cube of MgO; raises ValueError unless 8 n³ atoms make one."""
    side = round((atoms / 8) ** (1 / 3))
    if 8 * side**3 != atoms:
        raise ValueError(f"{atoms} atoms make no cube of MgO: give 8, 64, 216, 512, …")
    cube = bulk("MgO", "rocksalt", a=4.21, cubic=True) * (side, side, side)
    cube.rattle(0.05, seed=0)
    return cube


def step(calculator: Any, atoms: Atoms) -> float:
    """Return the processor's time of one step in ms."""
    start = time.thread_time()
    calculator.calculate(atoms, ["energy", "forces", "stress"])
    return 1e3 * (time.thread_time() - start)


def measured(model: str, size: int, repeats: int) -> Row:
    """Let the two calculators of a model take turns."""
    family, _, name = model.partition(":")
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        source = model
        if family == "mace":
            source = name = str(Path(folder) / "random.model")
            random_mace(model.partition(":")[2], Path(name))
        calculators = {"package": OWN[family](name), "ours": atomslim.Calculator(source)}
        random, atoms = np.random.default_rng(0), crystal(size)
        times: dict[str, list[float]] = {"package": [], "ours": []}
        for turn in range(repeats + 1):
            atoms.positions += random.normal(scale=0.003, size=(size, 3))
            for which in random.permutation(list(times)):
                taken = step(calculators[which], atoms)
                times[which] += [taken] * (turn > 0)  # the first is slower than any other
    return Row(model, size, times["package"], times["ours"])


def written(rows: list[Row], repeats: int) -> str:
    """Return the page of results."""
    head = ["model", "atoms", "package, ms", "atomslim, ms", "of the shortest", "of a round"]
    table = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    made = (
        f"Made with `python benchmarks/families.py`, {repeats} rounds. Energy, forces and stress of MgO. Times of the "
        "processor: shortest / median. Ratios: median (range), above 1 where atomslim is faster."
    )
    return "\n".join(
        [
            "# Families beside their own calculators",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, {machine(torch.device('cpu'))}.",
            "",
            made,
            "",
            *lines,
            "",
        ]
    )


def main(
    *models: str,
    atoms: Annotated[str, cyclopts.Parameter(help="sizes, with commas between them")] = "8,64,216",
    repeats: int = 9,
    output: Annotated[Path, cyclopts.Parameter(name=["--output", "-o"])] = RESULT,
) -> None:
    """Measure models by name, by default all that there are."""
    torch.set_num_threads(1)
    sizes = [int(size) for size in atoms.split(",")]
    rows = [measured(model, size, repeats) for model in models or MODELS for size in sizes]
    text = written(rows, repeats)
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    cyclopts.run(main)
