"""How quickly structures come out of the readers and of a container, and how long training waits for them.

    python benchmarks/data.py                     # made-up structures, and the real files beside the repository
    python benchmarks/data.py --structures 50000 --repeat 5
    python benchmarks/data.py --steps 0           # without training

Each speed is the best of several runs. Random access is from one process, every record checked against its checksum.
Waiting is the time from the end of a step to the beginning of the next one (reading, graphs, batch) as a share of both:
the median over the steps of a small model, studies/small/aspirin.yaml, which has less to compute than any other.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import yaml
from numpy.typing import ArrayLike
from rich.console import Console
from rich.table import Table

from atomslim.atoms.sample import Sample, to_batch
from atomslim.data.container import Container
from atomslim.data.registry import resolve
from atomslim.data.staging import write_container
from atomslim.errors import AtomslimError
from atomslim.train.pretrain import pretrain
from atomslim.train.run_folder import RunFolder

FILES = {
    "rmd17:aspirin": "rmd17/rmd17_aspirin_train_01.npz",
    "md22:Ac-Ala3-NHMe": "md22/md22_Ac-Ala3-NHMe_5frames.xyz",
    "ani1x": "ani1x/ani1x_layout_repacked.h5",
    "comp6": "ani1x/comp6_s66x8_wb97x6-31gd.h5",
    "transition1x": "transition1x/transition1x_layout_32.h5",
    "oc20:train": "oc20/s2ef",
    "oc20": "oc20/s2ef_raw",
    "oc22:train": "oc22/s2ef-total",
    "qm9:U0": "qm9/dsgdb9nsd_xyz",
    "spice": "spice/SPICE-1.1.4_n2.hdf5",
    "extxyz": "materials/mptrj-random-1k.xyz",
    "aselmdb": "materials/mptrj_200.aselmdb",
    "db": "oc22/oxides.db",
}
"""Datasets and their files in the folder of real data."""

BATCH = 16

STUDY = Path(__file__).resolve().parents[1] / "studies/small/aspirin.yaml"
SETS = {"train": 200, "validation": 3, "test": 0}


def main(
    *,
    structures: Annotated[int, cyclopts.Parameter(help="made-up structures in the container")] = 5000,
    repeat: Annotated[int, cyclopts.Parameter(help="runs of which the best counts")] = 3,
    steps: Annotated[int, cyclopts.Parameter(help="of training, to measure how long it waits")] = 40,
    data: Annotated[Path | None, cyclopts.Parameter(help="folder of real data")] = None,
) -> None:
    """Measure and print."""
    folder = data or Path(os.environ.get("ATOMSLIM_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    table = Table("what", "structures", "atoms each", "structures/s", box=None)
    for what, count, atoms, speed in [*container_speeds(structures, repeat), *reader_speeds(folder, repeat)]:
        table.add_row(what, str(count), f"{atoms:.0f}", f"{speed:,.0f}")
    Console().print(table)
    aspirin = folder / FILES["rmd17:aspirin"]
    if not steps or not aspirin.exists():
        return
    waits = Table("training on aspirin", "ms a step (median)", "of which waiting", box=None)
    for workers in (0, 1):
        milliseconds, share = waiting(aspirin, workers, steps)
        waits.add_row(f"{workers} workers", f"{milliseconds:.0f}", f"{share:.1%}")
    Console().print(waits)


Row = tuple[str, int, float, float]


def container_speeds(count: int, repeat: int) -> Iterator[Row]:
    """Writing, reading in random order, and making batches, for structures of 21 atoms (aspirin) and of 80 (a slab)."""
    for natoms in (21, 80):
        samples = [made(number, natoms) for number in range(min(count, 1000))]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "made.samples"
            written = best(lambda: write_container(path, (samples[k % len(samples)] for k in range(count))), 1)  # noqa: B023
            container = Container(path)
            order = np.random.default_rng(0).permutation(count).tolist()
            yield "container: write", count, natoms, count / written
            read = best(lambda: [container[number] for number in order], repeat)  # noqa: B023
            yield "container: random access", count, natoms, count / read
            batches = [order[start : start + BATCH] for start in range(0, count, BATCH)]
            joined = best(lambda: [to_batch([container[n] for n in batch]) for batch in batches], repeat)  # noqa: B023
            yield f"container: batches of {BATCH}", count, natoms, count / joined


def reader_speeds(folder: Path, repeat: int, most: int = 2000) -> Iterator[Row]:
    """Reading the first structures of every real file that is there."""
    for name, file in FILES.items():
        if not (folder / file).exists():
            continue
        full = f"{name}:{folder / file}" if name in {"extxyz", "aselmdb", "db"} else f"{name}@{folder / file}"
        try:
            source = resolve(full)
            samples = list(islice(source.read(), most))
            seconds = best(lambda: sum(1 for _ in islice(source.read(), most)), repeat)  # noqa: B023
        except AtomslimError as error:
            print(f"{name}: {error}")
            continue
        atoms = sum(map(len, samples)) / len(samples)
        yield f"reader: {name}", len(samples), atoms, len(samples) / seconds


def waiting(file: Path, workers: int, steps: int) -> tuple[float, float]:
    """Milliseconds of a training step with the wait before it, and the share of the wait: medians over the steps."""
    options = yaml.safe_load(STUDY.read_text(encoding="utf-8"))
    task = options["tasks"][0] | {"data": f"rmd17:aspirin@{file}", "test_data": "", "split": SETS}
    options |= {"tasks": [task], "steps": steps, "workers": workers, "log_every": 1, "validate_every": "100%"}
    with tempfile.TemporaryDirectory() as folder:
        pretrain(options, output=folder, progress=False)
        rows = [row for row in RunFolder(folder).metrics() if "loss" in row]
    times = np.diff([[row["seconds"], row["waiting_seconds"]] for row in rows], axis=0)
    return 1e3 * float(np.median(times[:, 0])), float(np.median(times[:, 1] / times[:, 0]))


def made(seed: int, natoms: int) -> Sample:
    """A structure of random numbers."""
    generator = np.random.default_rng(seed)
    targets: dict[str, ArrayLike] = {"energy": generator.normal(), "forces": generator.normal(size=(natoms, 3))}
    numbers, positions = generator.integers(1, 10, natoms), generator.normal(size=(natoms, 3))
    return Sample.create(numbers, positions, targets, name=f"made, record {seed}", group="made")


def best(run: Callable[[], object], repeat: int) -> float:
    """Seconds of the quickest of several runs."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    cyclopts.run(main)
