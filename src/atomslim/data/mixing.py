"""Several datasets as tasks of one training run: how often each is drawn, and which structures share a batch.

    mixture = Mixture([TaskData("oc20", oc20, ("energy", "forces")), TaskData("ani1x", ani1x, ("energy", "forces"))])
    sampler = BatchSampler(mixture, max_cost=40_000, seed=0, rank=0, world_size=8)

| symbol | variable | meaning |
|---|---|---|
| n_t | sizes | structures of task t |
| T | temperature | 1: a task is drawn in proportion to its size; ∞: all tasks equally often; JMP takes 2 |
| p_t | probabilities | (n_t / Σ_s n_s)^(1/T), divided by their sum |
| m_t | counts | structures of task t in one epoch: p_t · Σ_s n_s, rounded with their sum kept |

Shares are met exactly, not by chance: a task hands out one shuffled pass over its structures after the other, and epoch
e takes the positions e · m_t to (e + 1) · m_t of them. So no structure is drawn twice before all others of its task
were drawn once, over the epochs too, and any epoch can be made without those before it.

Nothing here reads a structure: numbers of atoms are enough.
"""

import heapq
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from atomslim.atoms.sample import Sample
from atomslim.data.dataset import Dataset
from atomslim.errors import ConfigError, DataError

IntArray: TypeAlias = NDArray[np.int64]

TEMPERATURE = 2.0
"""JMP's temperature for pre-training on several datasets (arXiv 2310.16802)."""

_STREAM, _EPOCH = 0, 1  # what a random stream is for: the second number of its seed


@dataclass(frozen=True, eq=False)
class TaskData:
    """One dataset, or one set of its split, as a task.

    Raises:
        ConfigError: no targets, or structures that the dataset does not have.
        DataError: no structures.

    """

    name: str
    """Of the task, as the model knows it."""
    dataset: Dataset
    targets: tuple[str, ...]
    """What is learned from these structures; other labels they may have are left out of the batches."""
    indices: Sequence[int] | IntArray | None = None
    """Numbers of the structures in the dataset, a split's training set, say; None: all."""
    neighbours: int | None = None
    """Neighbours of an atom in the main graph, which set a structure's cost; None: the dataset's."""
    periodic: bool | None = None
    """Whether atoms have neighbours in other cells; None: as in the dataset."""
    labelled: bool = True
    """Whether the targets are required."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigError(f"task {self.name}: no targets: name at least one, such as energy")
        if not len(self):
            raise DataError(f"task {self.name}: no structures in {self.dataset.name}: check the file and the split")
        if self.numbers.min() < 0 or self.numbers.max() >= len(self.dataset):
            raise ConfigError(
                f"task {self.name}: structures {self.numbers.min()} to {self.numbers.max()} of {self.dataset.name}, "
                f"which has {len(self.dataset)}: use the split that was made for it"
            )

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        """Read the structure at an index of `numbers`."""
        return self.dataset[int(self.numbers[index])]

    @cached_property
    def numbers(self) -> IntArray:
        """Numbers of the structures in the dataset, shape (n,)."""
        if self.indices is None:
            return np.arange(len(self.dataset), dtype=np.int64)
        return np.asarray(self.indices, dtype=np.int64)

    @cached_property
    def costs(self) -> IntArray:
        """Cost of each structure, shape (n,), from `estimated_edges`."""
        info = self.dataset.info
        return estimated_edges(
            np.asarray(self.dataset.natoms)[self.numbers],
            info.neighbours if self.neighbours is None else self.neighbours,
            periodic=info.periodic if self.periodic is None else self.periodic,
        )

    def require_targets(self) -> None:
        """Raise DataError unless each target is present, and not 0, in at least one structure.

        Reads structures until that is known: usually one, all of them only if something is wrong.
        """
        if not self.labelled:
            return
        unseen, zero = set(self.targets), set[str]()
        others: set[str] = set()
        for index in range(len(self)):
            sample = self[index]
            labels = {name: values for name, values in sample.targets.items() if sample.label(name) is not None}
            others |= labels.keys()
            zero |= unseen & labels.keys()
            unseen -= {name for name in unseen & labels.keys() if np.any(labels[name])}
            if not unseen:
                return
        name = min(unseen)
        where = f"task {self.name}: all {len(self)} structures of {self.dataset.name}"
        if name in zero:
            raise DataError(f"{where} have {name} 0, so there is nothing to learn: check the key and the file")
        there = ", ".join(sorted(others)) or "no target"
        raise DataError(f"{where} lack the target {name} (they have {there}): check its name, or leave it out")


class Mixture:
    """Tasks, and how often each is drawn; structure `i` of the mixture counts through all tasks.

    Raises:
        ConfigError: no tasks, two of one name, or a temperature that is not positive.

    """

    def __init__(self, tasks: Sequence[TaskData], temperature: float = TEMPERATURE) -> None:
        names = [task.name for task in tasks]
        if not tasks or len(set(names)) < len(names):
            raise ConfigError(f"tasks {names}: give at least one, and each its own name")
        if not temperature > 0:
            raise ConfigError(f"temperature {temperature}: give a positive number (1: by size, inf: equal)")
        self.tasks, self.temperature = tuple(tasks), float(temperature)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def __len__(self) -> int:
        """Number of structures of all tasks."""
        return int(self.starts[-1])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(task.name for task in self.tasks)

    @property
    def sizes(self) -> IntArray:
        """Number of structures of each task, shape (tasks,)."""
        return np.array([len(task) for task in self.tasks], dtype=np.int64)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Share of each task in an epoch, shape (tasks,)."""
        return temperature_shares(self.sizes, self.temperature)

    @property
    def counts(self) -> IntArray:
        """Structures of each task in an epoch, shape (tasks,); together as many as the tasks have."""
        return apportion(self.probabilities, len(self))

    @cached_property
    def costs(self) -> IntArray:
        """Cost of each structure, shape (structures,)."""
        return np.concatenate([task.costs for task in self.tasks])

    def locate(self, number: int) -> tuple[int, int]:
        """Return the task of a structure, as an index into `tasks`, and the structure's index within this task."""
        task = int(np.searchsorted(self.starts, number, side="right")) - 1
        return task, number - int(self.starts[task])

    def epoch(self, epoch: int, seed: int) -> IntArray:
        """Return the structures of an epoch in their order, shape (structures,)."""
        drawn = [
            start + _from_stream(len(data), int(count), epoch, (seed, _STREAM, index))
            for index, (start, data, count) in enumerate(zip(self.starts, self.tasks, self.counts, strict=False))
        ]
        return np.random.RandomState([seed, _EPOCH, epoch]).permutation(np.concatenate(drawn))


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """One process's part of a batch, before anything is read."""

    epoch: int
    position: int
    """Which batch of the epoch."""
    numbers: IntArray
    """The structures, as the mixture counts them."""
    num_global: int
    """Structures of the whole batch, over all processes."""


class BatchSampler(Sampler[BatchPlan]):
    """Batches of one epoch after the other, limited by number of structures, by cost, or by both.

    Batches are the same for any number of processes, which share each of them at about equal cost: no part costs more
    than the mean part and one structure together. Every process makes the same number of steps, none of them empty.
    Only to that end, a batch of fewer structures than processes takes in the next ones over its limits, or, at the end
    of an epoch, joins the one before it. A structure above `max_cost` forms a batch alone.

    An iteration begins where `load_state_dict` says, otherwise with the first batch. Workers read ahead, so the state
    counts the batches that `consumed` was told of. A finished epoch is followed by the next one.

    Raises:
        ConfigError: no limit, or invalid limits, rank or seed, or fewer structures than processes.

    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        batch_size: int | None = None,
        max_cost: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Take limits of the whole batch over all processes.

        `max_cost` is in edges of the main graph. Without `shuffle`, every structure comes once, in order, whatever the
        temperature.
        """
        _require_limits(batch_size, max_cost, world_size)
        if not 0 <= rank < world_size or not 0 <= seed < 2**32:
            raise ConfigError(f"process {rank} of {world_size}, seed {seed}: count processes from 0, seeds up to 2³²")
        if len(mixture) < world_size:
            raise ConfigError(f"{len(mixture)} structures for {world_size} processes: use fewer processes")
        self.mixture, self.batch_size, self.max_cost = mixture, batch_size, max_cost
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self._epoch = self._position = self._first = 0
        self._made: tuple[int, IntArray, IntArray] | None = None

    def __len__(self) -> int:
        """Number of batches of the current epoch; with `max_cost`, epochs may differ by a few."""
        return len(self._plan()[1]) - 1

    def __iter__(self) -> Iterator[BatchPlan]:
        """Plan the batches of the current epoch, for this process."""
        epoch, first, self._first = self._epoch, self._first, 0
        order, bounds = self._plan()
        self._position = first
        for position in range(first, len(bounds) - 1):
            numbers = order[bounds[position] : bounds[position + 1]]
            part = equal_parts(self.mixture.costs[numbers], self.world_size)[self.rank]
            yield BatchPlan(epoch, position, numbers[part], len(numbers))

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; does nothing if it is the current one."""
        if epoch != self._epoch:
            self._epoch, self._position, self._first = epoch, 0, 0

    def consumed(self, plan: BatchPlan) -> None:
        """Note that a batch was used: a state saved from now on continues after it."""
        self._epoch, self._position = plan.epoch, plan.position + 1

    def finish(self) -> None:
        """Go to the next epoch."""
        self.set_epoch(self._epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training run, and which mixture it belongs to."""
        return {"epoch": self._epoch, "position": self._position, "of": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the saved iteration in the next one; raises ConfigError if data or limits differ."""
        saved = state["of"]
        for key, value in self._identity().items():
            if saved.get(key) != value:
                raise ConfigError(
                    f"cannot resume: {key} was {saved.get(key)} and is now {value}: give the same data and options, "
                    "or start a new run"
                )
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._first = self._position

    def _plan(self) -> tuple[IntArray, IntArray]:
        """Order of the current epoch's structures, and the bounds of its batches."""
        if self._made is None or self._made[0] != self._epoch:
            order = self.mixture.epoch(self._epoch, self.seed) if self.shuffle else np.arange(len(self.mixture))
            bounds = cut(self.mixture.costs[order], self.batch_size, self.max_cost, at_least=self.world_size)
            self._made = self._epoch, order, bounds
        return self._made[1:]

    def _identity(self) -> dict[str, Any]:
        tasks = self.mixture.tasks
        return {
            "tasks": list(self.mixture.names),
            "sizes": self.mixture.sizes.tolist(),
            "structures (checksum)": [
                zlib.crc32(task.costs.tobytes(), zlib.crc32(task.numbers.tobytes())) for task in tasks
            ],
            "temperature": self.mixture.temperature,
            "batch_size": self.batch_size,
            "max_cost": self.max_cost,
            "shuffle": self.shuffle,
            "seed": self.seed,
        }


def temperature_shares(sizes: IntArray, temperature: float) -> NDArray[np.float64]:
    """Return p_t ∝ (n_t / Σ n)^(1/T) of tasks with n_t structures, shape (tasks,), their sum 1."""
    weights = (sizes / sizes.sum()) ** (1.0 / temperature)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def apportion(shares: NDArray[np.float64], total: int) -> IntArray:
    """Round shares of `total` to integers of this sum: down, then up where most was lost; none is 0 if possible."""
    exact = shares * total
    counts = np.floor(exact).astype(np.int64)
    most_lost = np.argsort(counts - exact, kind="stable")
    counts[most_lost[: total - counts.sum()]] += 1
    for empty in np.flatnonzero(counts == 0):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[empty] = 1
    return counts


def estimated_edges(natoms: IntArray, neighbours: int, *, periodic: bool) -> IntArray:
    """Estimate the edges of the main graph: atoms times neighbours, of which a molecule has only the other atoms.

    At least one for each atom, which is work too.
    """
    around = np.full_like(natoms, neighbours) if periodic else np.minimum(natoms - 1, neighbours)
    edges: IntArray = natoms * np.maximum(around, 1)
    return edges


def cut(costs: IntArray, batch_size: int | None, max_cost: int | None, *, at_least: int = 1) -> IntArray:
    """Cut a row of structures into batches that are as long as the limits allow.

    Returns the bounds: batch i is `bounds[i]` to `bounds[i + 1]`. No batch is shorter than `at_least` or than one
    structure, whatever its cost; a rest that is too short joins the batch before it.
    """
    total, count = np.cumsum(costs), len(costs)
    bounds = [0]
    while (start := bounds[-1]) < count:
        end = count if batch_size is None else start + batch_size
        if max_cost is not None:
            before = total[start] - costs[start]
            end = min(end, int(np.searchsorted(total, before + max_cost, side="right")))
        bounds.append(min(max(end, start + at_least), count))
    if len(bounds) > 2 and bounds[-1] - bounds[-2] < at_least:
        del bounds[-2]
    return np.array(bounds, dtype=np.int64)


def equal_parts(costs: IntArray, parts: int) -> list[IntArray]:
    """Distribute structures over parts of about equal cost: the costliest first, each to the cheapest part so far.

    Returns the indices of each part's structures, ascending. No part costs more than the mean and the costliest
    structure together; with at least as many structures as parts, none is empty (Graham 1969).
    """
    if parts == 1:
        return [np.arange(len(costs), dtype=np.int64)]
    members: list[list[int]] = [[] for _ in range(parts)]
    loads = [(0, part) for part in range(parts)]
    for index in np.argsort(-costs, kind="stable").tolist():
        load, part = loads[0]
        members[part].append(index)
        heapq.heapreplace(loads, (load + int(costs[index]), part))
    return [np.array(sorted(member), dtype=np.int64) for member in members]


def _from_stream(size: int, count: int, epoch: int, seed: tuple[int, ...]) -> IntArray:
    """Take the positions epoch · count to (epoch + 1) · count of endless shuffled passes over `size` structures."""
    start, end = epoch * count, (epoch + 1) * count
    passes = range(start // size, math.ceil(end / size))
    drawn = np.concatenate([np.random.RandomState([*seed, number]).permutation(size) for number in passes])
    skipped = passes.start * size
    return drawn[start - skipped : end - skipped]


def _require_limits(batch_size: int | None, max_cost: int | None, world_size: int) -> None:
    if batch_size is None and max_cost is None:
        raise ConfigError("batches without a limit: give batch_size (structures), max_cost (edges), or both")
    if (batch_size is not None and batch_size < 1) or (max_cost is not None and max_cost < 1):
        raise ConfigError(f"batch_size {batch_size}, max_cost {max_cost}: give positive numbers")
    if batch_size is not None and batch_size < world_size:
        raise ConfigError(
            f"batch_size {batch_size} for {world_size} processes, which share each batch: raise it or use fewer"
        )
