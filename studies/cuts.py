"""What cuts cost before any training: every cut with every re-alignment, beside the full model and no forces at all.

    python studies/cuts.py sevennet:7net-0 calibration.xyz test.xyz --keep 1,2,3,4 --keep 1,2,3,5 -o cuts.md
    python studies/cuts.py chgnet:0.3.0 calibration.xyz test.xyz --without "angles 2" --cutoff 5 -o cuts.md
    python studies/cuts.py sevennet:7net-0 calibration.xyz test.xyz --width l0=0.75,l1=0.75,l2=0.75 -o widths.md

Smaller widths are fitted layer by layer, and with least-squares-forces the readout to energies and forces then.
Speeds are CPU times of the test's first structure in turns with the full model, graphs included. Errors are against the
labels of the test file: DFT's, or a teacher's that `atomslim predict` wrote. Re-alignments see the calibration file,
evenly over it, and no labels. Each row is written as soon as it is known.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
from ase.io import read

import atomslim
from atomslim.cli.settings import widths_of
from atomslim.compress.costs import time_share
from atomslim.compress.cutoff import with_cutoff
from atomslim.compress.prune import Realign
from atomslim.models.block_model import BlockModel

HEAD = """| model | re-alignment | E, meV/atom | F, MAE meV/Å | F, RMSE meV/Å | % of RMS | weights | speed | CPU-s |
|---|---|---|---|---|---|---|---|---|
"""


def variants(given: argparse.Namespace, full: BlockModel) -> Iterator[tuple[str, BlockModel]]:
    """Give the full model and every cut of it, with what was done to it."""
    yield "full | none", full
    for cutoff in given.cutoff:
        yield f"cutoff {cutoff:g} Å | none", with_cutoff(full, cutoff)
    for text in given.width:
        for realign in ("sliced", *(way for way in given.realign if way == "least-squares-forces")):
            options = {"realign": realign, "limit": given.limit}
            yield (
                f"{text} | layers{', readout by forces' if realign != 'sliced' else ''}",
                atomslim.narrow(full, widths_of("--width", text), f"xyz:{given.calibration}", **options),
            )
    for kept, without in [*((keep, []) for keep in given.keep), *((full.block_ids, units) for units in given.without)]:
        name = " ".join([f"blocks {','.join(map(str, kept))}", *(f"− {unit}" for unit in without)])
        for realign in given.realign:
            fitted = realign not in {"sliced", "random"}
            structures = {"calibration": f"xyz:{given.calibration}", "limit": given.limit} if fitted else {}
            yield (
                f"{name} | {realign}",
                atomslim.keep_blocks(full, kept, realign=realign, without=without, **structures),
            )


def row(name: str, model: BlockModel, full: BlockModel, test: Path, root_mean_square: float, seconds: float) -> str:
    """Return a line of the table."""
    found = atomslim.evaluate(model, f"xyz:{test}").errors
    energy, forces = 1000 * found["energy per atom"].mae, found["forces"]
    numbers = f"{energy:.1f} | {1000 * forces.mae:.1f} | {1000 * forces.rmse:.1f}"
    weights = sum(weight.numel() for weight in model.parameters())
    speed = f"{1 / time_share(model, full, [read(test, 0)]):.2f} ×" if model is not full else ""
    share = 100 * forces.rmse / root_mean_square
    return f"| {name} | {numbers} | {share:.1f} | {weights:,} | {speed} | {seconds:.0f} |\n"


def no_forces(test: Path) -> tuple[float, str]:
    """Return the root mean square of the test's forces (eV/Å), and the line of predicting none."""
    forces = np.concatenate([atoms.get_forces() for atoms in read(test, ":")])
    size = float(np.sqrt(np.mean(forces**2)))
    return size, f"| no forces | | | {1000 * np.abs(forces).mean():.1f} | {1000 * size:.1f} | 100 | | | |\n"


def numbers(text: str) -> tuple[int, ...]:
    """Read numbers of blocks."""
    return tuple(map(int, text.split(",")))


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--keep", type=numbers, action="append", default=[], metavar="1,2,4")
    parser.add_argument(
        "--without", type=lambda text: text.split(","), action="append", default=[], metavar="UNIT,UNIT"
    )
    parser.add_argument("--cutoff", type=float, action="append", default=[], help="Å, without any cut")
    parser.add_argument("--width", action="append", default=[], metavar="l0=64,l1=0.5")
    parser.add_argument("--realign", nargs="+", choices=get_args(Realign), default=["sliced", "least-squares"])
    parser.add_argument("--limit", type=int, default=64, help="structures for re-alignment")
    given = parser.parse_args()
    full = atomslim.load(given.model)
    size, nothing = no_forces(given.test)
    with given.output.open("w", encoding="utf-8") as table:
        table.write(HEAD + nothing)
        cuts, began = variants(given, full), time.process_time()
        for name, model in cuts:
            table.write(row(name, model, full, given.test, size, time.process_time() - began))
            table.flush()
            began = time.process_time()


if __name__ == "__main__":
    main()
