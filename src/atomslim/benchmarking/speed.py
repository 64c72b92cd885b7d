"""What a pass costs: counted FLOPs, time, memory, and how close it comes to the best the device can do.

FLOPs are those of matrix products, forward and backward, with multiply and add counted as two; element-wise work,
gathers and sums are left out. Times are the shortest of many repeats in which the models take turns, see
`atomslim.benchmarking.turns`. Models of one architecture are timed once, together: only their weights differ.

The floor of a pass is its FLOPs at the rate of the model's largest dense layer, measured in turn with the pass.
"""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from ase import Atoms
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from atomslim.atoms import AtomsBatch, Pairs, find_pairs, from_ase
from atomslim.benchmarking.passes import Job
from atomslim.benchmarking.turns import Gain, Rounds, half_range, steady, take_turns
from atomslim.errors import ConfigError
from atomslim.memory import peak_memory
from atomslim.models.block_model import BlockModel
from atomslim.models.precision import computing

Name = TypeVar("Name", bound=Hashable)

SKIN = 0.5
"""Å: margin beyond the cutoff with which reused pairs were found."""


@dataclass(frozen=True)
class Speed:
    """What one kind of pass costs on a batch of structures."""

    structures: int
    atoms: int
    edges: int
    """Of the main graph."""
    flops: int
    """Per structure."""
    graph_seconds: float
    """Building the graphs of the whole batch."""
    reuse_seconds: float
    """The same on pairs that were found before, as in molecular dynamics."""
    seconds: float
    """The pass over the whole batch on existing graphs."""
    spread: float
    """Half the interquartile range of the rounds, in seconds."""
    over_floor: float | None
    """Times the floor; None for a model without dense layers."""
    memory: int | None
    """Bytes that the pass adds at its peak; None where the system does not say."""
    times: tuple[float, ...]
    """Shortest seconds of the pass in each round."""
    graph_times: tuple[float, ...]
    """The same of building the graphs."""

    @property
    def steady(self) -> bool:
        """Whether the times are reliable."""
        return steady(self.times)

    def gain(self, before: "Speed", *, graphs: bool = True) -> Gain:
        """Say how many times as fast this is as what was timed in the same rounds, with its graphs or without."""
        ours, theirs = (self.totals, before.totals) if graphs else (self.times, before.times)
        return Gain.of(theirs, ours, before.flops / max(self.flops, 1))

    @property
    def totals(self) -> tuple[float, ...]:
        """Seconds of graphs and pass in each round."""
        return tuple(map(sum, zip(self.graph_times, self.times, strict=True)))

    @property
    def throughput(self) -> float:
        """Structures per second, their graphs included."""
        return self.structures / (self.seconds + self.graph_seconds)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        rates = {"structures": 1.0, "atoms": self.atoms / self.structures, "edges": self.edges / self.structures}
        known = {name: value for name, value in asdict(self).items() if name not in {"times", "graph_times"}}
        known |= {"rounds": len(self.times), "steady": self.steady}
        return {**known, **{f"{what} per second": self.throughput * each for what, each in rates.items()}}


def measure_speed(
    models: Mapping[str, BlockModel],
    structures: Sequence[Atoms] | AtomsBatch,
    *,
    task: str | None = None,
    repeats: int = 10,
) -> dict[str, Speed]:
    """Measure what predicting everything costs models on the same structures.

    ``task`` is the one that they predict; default: each model's first. Raises ConfigError for no structures or an
    unknown task.
    """
    jobs = {name: Job(model, task or next(iter(model.tasks))) for name, model in models.items()}
    return measure_jobs(jobs, structures, repeats=repeats)


def measure_jobs(
    jobs: Mapping[Name, Job], structures: Sequence[Atoms] | AtomsBatch, *, repeats: int = 10
) -> dict[Name, Speed]:
    """Measure several kinds of passes on the same structures, in ``repeats`` rounds or more that fill a second of each.

    Raises ConfigError for no structures, no repeats, or an unknown task.
    """
    if isinstance(structures, Sequence) and not structures:
        raise ConfigError("there are no structures to measure speed on")
    if repeats < 1:
        raise ConfigError(f"{repeats} repeats of the times: give 1 or more")
    batch = structures if isinstance(structures, AtomsBatch) else from_ase(list(structures))
    cases = {name: _Case(job, batch) for name, job in jobs.items()}
    for case in cases.values():
        case.warm_up()
    kinds = {case.kind: case for case in cases.values()}
    take_turns(list(kinds.values()), repeats)
    speeds = {kind: case.result() for kind, case in kinds.items()}
    return {name: speeds[case.kind] for name, case in cases.items()}


def count_flops(function: Callable[[], Any]) -> int:
    """Count the FLOPs of the matrix products that a function runs, backward passes included."""
    with _FlopCounter() as counter:
        function()
    return counter.total


class _FlopCounter(TorchDispatchMode):
    """Adds up torch's own formulas as products are carried out.

    `FlopCounterMode` does so, too, but keeps track of modules, decomposes every other operation, which
    takes ten times as long as the pass, and leaves out products with a vector, of which the bases have one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        output = function(*args, **(kwargs or {}))
        formula = _FORMULAS.get(function.overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=output))
        return output


def _matrix_vector_flops(matrix: Tensor, _vector: Tensor, **_others: Any) -> int:
    return 2 * matrix.numel()


_FORMULAS: dict[Any, Callable[..., int]] = {**flop_registry, torch.ops.aten.mv: _matrix_vector_flops}


class MatrixProduct:
    """A product (rows, inner) · (inner, outer) of random numbers, repeated until its time can be measured."""

    def __init__(
        self, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, at_least: float = 0.01
    ) -> None:
        """Prepare a product of this shape that takes ``at_least`` seconds."""
        rows, inner, outer = shape
        self.device, self.flops, self.times = device, 2.0 * rows * inner * outer, 1
        self.left, self.right = (
            torch.randn(size, device=device, dtype=dtype) for size in ((rows, inner), (inner, outer))
        )
        self.rate()
        self.times = min(max(math.ceil(at_least * self.rate() / self.flops), 1), 10_000)

    def rate(self) -> float:
        """Measure FLOP/s."""
        with _clock(self.device) as elapsed:
            for _ in range(self.times):
                self.left @ self.right
        return self.flops * self.times / elapsed[0]


def largest_dense_layer(model: nn.Module, run: Callable[[], object]) -> tuple[int, int, int] | None:
    """Return rows, inputs and outputs of the linear layer with the most FLOPs in a pass, or None without any."""
    shapes: list[tuple[int, int, int]] = []

    def note(layer: Any, inputs: Any, _output: Any) -> None:
        shapes.append((inputs[0].numel() // layer.in_features, layer.in_features, layer.out_features))

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return max(shapes, key=math.prod, default=None)


class _Case:
    """One kind of pass, the batch with its graphs, and the times so far."""

    def __init__(self, job: Job, batch: AtomsBatch) -> None:
        self.job, self.device = job, job.device
        job.model.eval()
        self.batch = batch.to(self.device)
        self.pairs = find_pairs(batch, job.model.task(job.task).graph.cutoff + SKIN)
        self.topology = job.model.topology(self.batch, job.task)
        self.run = job.on(self.batch, self.topology)
        self.product: MatrixProduct | None = None
        self.rounds = Rounds.of("graphs", "reuse", "pass")
        self.over_floor: list[float] = []
        self.estimate = 0.0
        self.flops = 0
        self.memory: int | None = None

    def warm_up(self) -> None:
        shape = largest_dense_layer(self.job.model, self.run)
        with _clock(self.device) as elapsed:
            self.memory = peak_memory(self.run, self.device)
        self.estimate = elapsed[0]
        self.flops = count_flops(self.run)
        if shape is not None:
            # processors are faster for a moment than over a whole pass
            at_least = min(max(elapsed[0] / 10, 1e-3), 1.0)
            with computing(self.job.format, self.device):
                self.product = MatrixProduct(shape, self.device, self.job.dtype, at_least)

    @property
    def kind(self) -> Hashable:
        """What the cost depends on: equal for models that differ only in their weights."""
        job, model = self.job, self.job.model
        task = model.task(job.task)
        weights = tuple((name, tuple(weight.shape), weight.dtype) for name, weight in model.named_parameters())
        heads = tuple((target.name, target.kind) for target in task.targets)
        return type(model), weights, heads, str(task.graph), job.mode, job.format, self.device, self.flops

    def fill(self, seconds: float) -> None:
        self.rounds.fill(self._once, seconds)

    def _once(self) -> dict[str, float]:
        graphs, reuse = self._graphs(None), self._graphs(self.pairs)
        floor = 0.0
        if self.product is not None:
            with computing(self.job.format, self.device):
                floor = self.flops / self.product.rate()
        with _clock(self.device) as elapsed:
            self.run()
        if floor:
            self.over_floor.append(elapsed[0] / floor)
        return {"graphs": graphs, "reuse": reuse, "pass": elapsed[0]}

    def _graphs(self, pairs: Pairs | None) -> float:
        with _clock(self.device) as elapsed:
            self.job.model.topology(self.batch, self.job.task, pairs=pairs)
        return elapsed[0]

    def result(self) -> Speed:
        graphs, reuse, times = (self.rounds.parts[part] for part in ("graphs", "reuse", "pass"))
        return Speed(
            structures=self.batch.num_structures,
            atoms=self.batch.num_atoms,
            edges=len(self.topology.edges().source),
            flops=round(self.flops / self.batch.num_structures),
            graph_seconds=min(graphs),
            reuse_seconds=min(reuse),
            seconds=min(times),
            spread=half_range(times),
            over_floor=statistics.median(self.over_floor) if self.over_floor else None,
            memory=self.memory,
            times=tuple(times),
            graph_times=tuple(graphs),
        )


@contextmanager
def _clock(device: torch.device) -> Iterator[list[float]]:
    """Give a list that holds the seconds of the block once it has ended: on CUDA, by the device's own clock."""
    elapsed: list[float] = []
    if device.type != "cuda":
        start = time.perf_counter()
        yield elapsed
        elapsed.append(time.perf_counter() - start)
        return
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        yield elapsed
        end.record()
        torch.cuda.synchronize()
    elapsed.append(begin.elapsed_time(end) / 1e3)
