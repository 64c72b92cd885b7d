"""What a prediction costs: counted FLOPs, time, memory.

FLOPs are those of matrix products, forward and backward, with multiply and add counted as two; element-wise work,
gathers and sums are left out. Times are medians over repeats in which the models take turns, so that a machine whose
speed drifts favours none of them.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from torch.utils.flop_counter import FlopCounterMode

from atomslim.atoms import AtomsBatch, from_ase
from atomslim.errors import ConfigError
from atomslim.memory import give_back_freed_memory
from atomslim.models.block_model import BlockModel


@dataclass(frozen=True)
class Speed:
    """What one model costs on a batch of structures."""

    structures: int
    atoms: int
    edges: int
    """Of the main graph."""
    flops: int
    """Per structure."""
    graph_seconds: float
    """Building the graphs of the whole batch."""
    seconds: float
    """Predicting the whole batch on graphs that are there; the median of the repeats."""
    spread: float
    """Half the interquartile range of the repeats, in seconds."""
    memory: int | None
    """Bytes that a prediction adds at its peak; None where the system does not say."""

    @property
    def throughput(self) -> float:
        """Structures per second, their graphs included."""
        return self.structures / (self.seconds + self.graph_seconds)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {**asdict(self), "structures per second": self.throughput}


def measure_speed(
    models: Mapping[str, BlockModel],
    structures: Sequence[Atoms] | AtomsBatch,
    *,
    task: str | None = None,
    repeats: int = 5,
) -> dict[str, Speed]:
    """Measure models on the same structures, one after the other in every repeat.

    ``task`` is the one that they predict; default: each model's first. Raises ConfigError for no structures or an
    unknown task.
    """
    if isinstance(structures, Sequence) and not structures:
        raise ConfigError("there are no structures to measure speed on")
    batch = structures if isinstance(structures, AtomsBatch) else from_ase(list(structures))
    cases = {name: _Case(model.eval(), batch, task or next(iter(model.tasks))) for name, model in models.items()}
    for case in cases.values():
        case.warm_up()
    for _ in range(repeats):
        for case in cases.values():
            case.repeat()
    return {name: case.result() for name, case in cases.items()}


def count_flops(function: Callable[[], Any]) -> int:
    """Count the FLOPs of the matrix products that a function runs, backward passes included."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def peak_memory(function: Callable[[], Any], device: torch.device) -> int | None:
    """Return the bytes that a function adds at its peak, or None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return int(torch.cuda.max_memory_allocated(device)) - before
    if not sys.platform.startswith("linux") or not _reset_peak():
        return None
    before = _status("VmRSS")
    function()
    return max(_status("VmHWM") - before, 0)


def matmul_rate(rows: int, width: int, device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Measure FLOP/s of a dense layer of ``width`` on ``rows`` rows: the floor of a model is its FLOPs over this."""
    left, right = (torch.randn(shape, width, device=device, dtype=dtype) for shape in (rows, width))
    times = []
    for _ in range(7):
        with _clock(device) as elapsed:
            for _ in range(3):
                left @ right
        times.append(elapsed[0] / 3)
    return 2.0 * rows * width * width / statistics.median(times)


class _Case:
    """One model, the batch with its graphs, and the times so far."""

    def __init__(self, model: BlockModel, batch: AtomsBatch, task: str) -> None:
        self.model, self.task = model, model.task(task).name
        self.device = next(model.parameters()).device
        self.batch = batch.to(self.device)
        self.topology = model.topology(self.batch, self.task)
        self.times: list[float] = []
        self.graph_times: list[float] = []
        self.flops = 0
        self.memory: int | None = None

    def warm_up(self) -> None:
        self.predict()
        self.memory = peak_memory(self.predict, self.device)
        self.flops = count_flops(self.predict)

    def predict(self) -> None:
        self.model.predict(self.batch, self.task, self.topology)

    def repeat(self) -> None:
        with _clock(self.device) as graphs:
            self.model.topology(self.batch, self.task)
        with _clock(self.device) as prediction:
            self.predict()
        self.graph_times.append(graphs[0])
        self.times.append(prediction[0])

    def result(self) -> Speed:
        quartiles = statistics.quantiles(self.times, n=4) if len(self.times) > 1 else [self.times[0]] * 3
        return Speed(
            structures=self.batch.num_structures,
            atoms=self.batch.num_atoms,
            edges=len(self.topology.main.source) if hasattr(self.topology, "main") else 0,
            flops=round(self.flops / self.batch.num_structures),
            graph_seconds=statistics.median(self.graph_times),
            seconds=statistics.median(self.times),
            spread=(quartiles[2] - quartiles[0]) / 2,
            memory=self.memory,
        )


@contextmanager
def _clock(device: torch.device) -> Iterator[list[float]]:
    """Give a list that holds the seconds of the block once it has ended."""
    elapsed: list[float] = []
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    yield elapsed
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elapsed.append(time.perf_counter() - start)


def _reset_peak() -> bool:
    """Let the system forget this process's peak memory; say whether it did."""
    give_back_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    """Read one of the process's own numbers in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
