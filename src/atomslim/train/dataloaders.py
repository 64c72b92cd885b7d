"""Batches for training and validation, and how large they may be.

`batch_cost: auto` measures how large a batch the memory allows, on the run's own structures.

A probe does what a training step does with one batch: graphs, loss, gradients of all weights. The memory m that it
takes at its peak grows with the batch's cost c, the edges of the main graph, as m = a + b c. Probes grow, at most by a
factor of 2, as long as the next one is sure to fit; the last two give a and b, and with the fraction s of free memory f
and the optimiser's memory k (two numbers for each weight, one more for averages),

    c = (s f − k − a) / b
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from atomslim.data.loader import Batch, BatchLoader, TopologyBuilder
from atomslim.data.mixing import BatchSampler, Mixture, TaskData
from atomslim.errors import ConfigError
from atomslim.memory import free_memory, peak_memory
from atomslim.models.block_model import BlockModel
from atomslim.parsing import read_yaml
from atomslim.train.optimisation import Labels, Objective
from atomslim.train.options import RunOptions
from atomslim.train.run_folder import RunFolder
from atomslim.train.tasks import LearningTask, loss_terms


class Endless:
    """One epoch after the other of a loader; remembers how many batches each epoch has."""

    def __init__(self, loader: BatchLoader) -> None:
        self.loader = loader
        self.lengths: dict[int, int] = {}

    def __iter__(self) -> Iterator[Batch]:
        """Continue from the loader's position."""
        while True:
            self.lengths[self.loader.sampler.epoch] = len(self.loader)
            yield from self.loader


def training_feed(
    mixture: Mixture, options: RunOptions, topology: TopologyBuilder, *, rank: int, world_size: int
) -> Endless:
    """Return shuffled batches of this process's parts."""
    sampler = BatchSampler(
        mixture,
        batch_size=None if options.batch_cost else options.batch_size,
        max_cost=options.max_cost,
        seed=options.seed,
        rank=rank,
        world_size=world_size,
    )
    pinned = options.accelerator != "cpu"
    return Endless(BatchLoader(sampler, topology=topology, workers=options.workers, pin_memory=pinned))


def ordered_batches(
    data: TaskData, options: RunOptions, topology: TopologyBuilder | None, *, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Give every structure once, in order, shared among the processes; in larger batches than in training."""
    size = max(options.batch_size, world_size)
    sampler = BatchSampler(
        Mixture([data]),
        batch_size=None if options.batch_cost else size,
        max_cost=options.max_cost,
        shuffle=False,
        rank=rank,
        world_size=world_size,
    )
    return iter(BatchLoader(sampler, topology=topology))


# -- how large a batch the memory allows


DOUBLINGS = 7
"""Largest probe; beyond it, memory is extrapolated."""

SMALLEST_GROWTH = 1.1
"""Least growth of the next probe."""

Options = TypeVar("Options", bound=RunOptions)


class Meter(Protocol):
    """Measures memory."""

    def free(self) -> int:
        """Return how many bytes are free for this process."""
        ...

    def peak(self, probe: "Probe", cost: int) -> tuple[int, int]:
        """Run a probe of a cost; return the cost of the batch that it found, and the bytes it took at its peak."""
        ...


class Probe:
    """Runs training steps, without the optimiser, on batches of a cost."""

    def __init__(
        self, model: BlockModel, mixture: Mixture, objective: Objective, options: RunOptions, device: torch.device
    ) -> None:
        self.model, self.mixture, self.objective, self.options, self.device = model, mixture, objective, options, device

    def __call__(self, cost: int) -> int:
        """Make one step on the first batch of at most this cost (or of one structure) and return its cost."""
        sampler = BatchSampler(self.mixture, max_cost=cost, seed=self.options.seed)
        plan = next(iter(sampler))
        batch = next(iter(BatchLoader(sampler, topology=self.model.topology))).to(self.device)
        narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.options.precision)
        with nullcontext() if narrow is None else torch.autocast(self.device.type, narrow):
            loss = self.objective.loss(self.model, batch, Tensor.detach)
        loss.backward()
        self.model.zero_grad(set_to_none=True)
        self.objective.learned.zero_grad(set_to_none=True)
        return int(self.mixture.costs[plan.numbers].sum())


class DeviceMemory:
    """The memory of a GPU, or of this machine as far as the process may use it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def free(self) -> int:
        """Return the free bytes, those included that torch keeps for reuse."""
        if self.device.type == "cuda":
            kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return int(torch.cuda.mem_get_info(self.device)[0]) + kept
        free = free_memory()
        if free is None:
            raise ConfigError("batch_cost auto: this system does not say how much memory is free: give a number")
        return free

    def peak(self, probe: Probe, cost: int) -> tuple[int, int]:
        """Measure a probe; raises ConfigError where the system does not say what it took."""
        found: list[int] = []
        taken = peak_memory(lambda: found.append(probe(cost)), self.device)
        if taken is None:
            raise ConfigError("batch_cost auto: this system does not say how much memory is used: give a number")
        return found[0], taken


def with_batch_cost(
    options: Options,
    model: BlockModel,
    tasks: Sequence[LearningTask],
    folder: RunFolder,
    objective: Objective | None = None,
    meter: Meter | None = None,
) -> Options:
    """Return the options with a number for ``batch_cost: auto``: the one that the folder's run has, or a measured one.

    Raises ConfigError where it cannot be measured, or where not even the largest structure fits.
    """
    if options.batch_cost != "auto":
        return options
    return options.model_copy(
        update={"batch_cost": _noted(folder) or _measured(options, model, tasks, objective, meter)}
    )


def largest_cost(probe: Probe, meter: Meter, share: float, kept: int) -> int:
    """Grow probes from the largest structure on, and return the cost that takes ``share`` of the free memory."""
    costs = probe.mixture.costs
    meter.peak(probe, int(costs.max()))  # one-time allocations, such as a teacher on the device, happen here
    allowed = share * meter.free() - kept
    before, now = (0, 0), meter.peak(probe, int(costs.max()))
    if now[1] > allowed:
        raise ConfigError(
            f"batch_cost auto: a batch of {now[0]} edges takes {now[1] / 2**20:.0f} MiB, and {allowed / 2**20:.0f} MiB "
            "are free: raise memory_share, or set checkpoint_blocks"
        )
    for _ in range(DOUBLINGS):
        growth = min(2.0, allowed / now[1])  # m grows no faster than c, so that the next one fits
        if growth < SMALLEST_GROWTH or (found := meter.peak(probe, int(growth * now[0])))[0] <= now[0]:
            break
        before, now = now, found
    slope = (now[1] - before[1]) / (now[0] - before[0])
    if slope <= 0:  # the measurement's noise is larger
        slope = now[1] / now[0]
    return min(int(now[0] + (allowed - now[1]) / slope), int(costs.sum()))


def _noted(folder: RunFolder) -> int | None:
    if not folder.has_run:
        return None
    noted = dict(read_yaml(folder.path / "config.yaml") or {}).get("batch_cost")
    return noted if isinstance(noted, int) else None


def _measured(
    options: RunOptions,
    model: BlockModel,
    tasks: Sequence[LearningTask],
    objective: Objective | None,
    meter: Meter | None,
) -> int:
    if options.devices * options.nodes > 1:
        raise ConfigError(
            "batch_cost auto: is measured in one process: run `--set steps=1` on one device first, and give the number "
            "it prints times the number of devices"
        )
    on_gpu = options.accelerator != "cpu" and torch.cuda.is_available()
    device, home = torch.device("cuda" if on_gpu else "cpu"), next(model.parameters()).device
    terms = [
        term
        for task in tasks
        for term in loss_terms(task, model.task(task.name), free_atoms_only=options.free_atoms_only)
    ]
    mixture = Mixture([task.part("train") for task in tasks], options.temperature)
    (model.double() if options.precision == "64" else model).train().to(device)
    model.checkpoint_blocks = options.checkpoint_blocks
    learning = objective or Labels(terms)
    learning.learned.to(device)
    probe = Probe(model, mixture, learning, options, device)
    cost = largest_cost(probe, meter or DeviceMemory(device), options.memory_share, _kept(model, options))
    model.to(home)
    learning.learned.to(home)
    print(f"batch_cost: {cost} edges fill {options.memory_share:.0%} of the free memory", file=sys.stderr)  # noqa: T201
    return cost


def _kept(model: BlockModel, options: RunOptions) -> int:
    """Return the bytes of AdamW's two moments of every weight, and of its average."""
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return weights * (2 if options.ema is None else 3)
