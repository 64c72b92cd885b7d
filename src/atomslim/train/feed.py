"""Batches without end for Lightning, and the parts of the validation set that each process reads."""

from collections.abc import Iterator

from atomslim.data.loader import Batch, BatchLoader, TopologyBuilder
from atomslim.data.mixing import BatchSampler, Mixture, TaskData
from atomslim.train.options import RunOptions


class Endless:
    """One epoch after the other of a loader; remembers how many batches each epoch has."""

    def __init__(self, loader: BatchLoader) -> None:
        self.loader = loader
        self.lengths: dict[int, int] = {}

    def __iter__(self) -> Iterator[Batch]:
        """Go on from where the loader is."""
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
    """Give every structure once, in order, dealt out to the processes; a few more at once than in training."""
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
