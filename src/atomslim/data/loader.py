"""From a mixture to batches of tensors: structures, labels, and the graphs, made in worker processes.

    loader = BatchLoader(BatchSampler(mixture, batch_size=4), topology=model.topology, workers=2)
    for batch in loader:
        predictions = model(batch.atoms, batch.topology, ...)

Batches and their order depend on the sampler only, never on the number of workers. The state of the loader counts the
batches handed out, not those the workers have read ahead, so that a run resumes in the middle of an epoch.
"""

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from atomslim.atoms import AtomsBatch, Sample, to_batch
from atomslim.atoms.sample import ENERGIES, HESSIAN
from atomslim.data.mixing import BatchPlan, BatchSampler, Mixture
from atomslim.errors import AtomslimError, ConfigError, DataError, StructureError

TopologyBuilder: TypeAlias = Callable[[AtomsBatch, Sequence[str]], Any]
"""Makes the graphs of a batch, given the task of each structure: tensors in dataclasses, dicts, lists or tuples."""

_ALIGNMENT = 16  # bytes: any type of number may begin here


@dataclass(frozen=True)
class Batch:
    """Labelled structures side by side: b structures of n atoms together.

    | field | shape | unit, meaning |
    |---|---|---|
    | atoms | | the structures, float64 |
    | tasks | b names | task of each structure |
    | task_index | (b,) | index of its task in the mixture |
    | targets | energy and scalars (b,), forces (n, 3), stress (b, 3, 3), hessian (n, 6) | float64; NaN: none |
    | present | (b,) for each target | whether the structure has it (and its task asks for it) |
    | names | b names | file and record of each structure, for messages |
    | topology | | what the topology builder made, or None |
    | plan | | position in the epoch, number of structures over all processes; None for a batch made by hand |

    All targets of the mixture are keys of every batch, even where none of its structures has them.
    """

    atoms: AtomsBatch
    tasks: tuple[str, ...]
    task_index: Int[Tensor, " b"]
    targets: dict[str, Float[Tensor, "..."]]
    present: dict[str, Bool[Tensor, " b"]]
    names: tuple[str, ...]
    topology: Any = None
    plan: BatchPlan | None = None

    def __len__(self) -> int:
        """Number of structures b of this process's share."""
        return len(self.names)

    @property
    def num_global(self) -> int:
        """Number of structures of the batch over all processes: a mean over them is the sum of parts over this."""
        return len(self) if self.plan is None else self.plan.num_global

    def to(self, device: torch.device | str) -> "Batch":
        """Move every tensor, the topology's included, to a device; from pinned memory without waiting for it."""
        target = torch.device(device)
        ahead = target.type != "cpu"  # a copy to the CPU that is not waited for would be read half-finished
        return _mapped(self, Tensor, lambda tensor: tensor.to(target, non_blocking=ahead))

    def pin_memory(self) -> "Batch":
        """Copy every tensor to page-locked memory, from which transfers to a GPU run in the background."""
        return _mapped(self, Tensor, lambda tensor: tensor.pin_memory())


class BatchLoader:
    """Batches of one epoch after the other, made in `workers` processes (0: in this one).

    Behaves like a DataLoader for Lightning: it has a length, a `sampler` with `set_epoch`, and a state.

    Raises:
        ConfigError: a negative number of workers.
        DataError: a target that no structure of its task has; while iterating: a broken record, a label that is not
            finite. Structures without a valid graph raise StructureError. Both name file and record.

    """

    def __init__(
        self,
        sampler: BatchSampler,
        *,
        topology: TopologyBuilder | None = None,
        workers: int = 0,
        pin_memory: bool = False,
        prefetch: int = 2,
    ) -> None:
        """Prepare to load the batches of a sampler.

        `topology` runs in the workers (on the CPU), `pin_memory` is ignored without an accelerator, and `prefetch` is
        the number of batches that each worker makes ahead.
        """
        if workers < 0:
            raise ConfigError(f"{workers} workers: give 0 (load in the training process) or more")
        for task in sampler.mixture.tasks:
            task.require_targets()
        self.sampler = sampler
        self._loader = DataLoader(
            _Batches(sampler.mixture, topology, packed=workers > 0),
            batch_size=None,  # the sampler makes whole batches
            sampler=sampler,
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=pin_memory and torch.accelerator.is_available(),
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
            # A fork shares model and data; any other start would send them to every worker.
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=_apart,
        )

    def __len__(self) -> int:
        """Number of batches of the current epoch, those before a resumed position included."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        """Give the batches of the current epoch from its start, or from a loaded state."""
        for made in self._started():
            if isinstance(made, AtomslimError):
                self.close()
                raise made
            batch = made.unpack() if isinstance(made, _Packed) else made
            if batch.plan is not None:
                self.sampler.consumed(batch.plan)
            yield batch
        self.sampler.finish()

    def _started(self) -> Iterator[Any]:
        """Begin an iteration of the loader, which may fork workers."""
        gc.freeze()  # otherwise a worker collects inherited garbage, such as another loader's remains, and may hang
        try:
            return iter(self._loader)
        finally:
            gc.unfreeze()

    def close(self) -> None:
        """End the workers, which otherwise persist between epochs; another iteration starts new ones.

        Left to the garbage collector, which may take their queues away first, that can take seconds.
        """
        iterator = self._loader._iterator  # noqa: SLF001 -- there is no public way
        if iterator is not None and self._loader.num_workers:
            iterator._shutdown_workers()  # type: ignore[attr-defined]  # noqa: SLF001 -- as above
            self._loader._iterator = None  # noqa: SLF001 -- as above

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; does nothing if it is the current one."""
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch handed out."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue there in the next iteration; raises ConfigError if data or limits differ."""
        self.sampler.load_state_dict(state)


def collate(
    samples: Sequence[Sample],
    tasks: Sequence[str],
    targets: Mapping[str, Sequence[str]],
    topology: TopologyBuilder | None = None,
    plan: BatchPlan | None = None,
) -> Batch:
    """Put labelled structures side by side.

    Args:
        samples: b structures.
        tasks: the task of each.
        targets: for every task there is, in order, the targets it learns; labels beyond them are left out.
        topology: makes the graphs, given the batch and `tasks`.
        plan: what the batch was planned as.

    Raises:
        DataError: a label that is not finite; names the structure.
        StructureError: no structures, or what `topology` refuses, with the name of the structure.

    """
    atoms = to_batch(samples)
    indices = {name: index for index, name in enumerate(targets)}
    wanted = dict.fromkeys(name for names in targets.values() for name in names)
    values, present = {}, {}
    for name in wanted:
        labels = [
            _label(sample, name) if name in targets[task] else None for sample, task in zip(samples, tasks, strict=True)
        ]
        values[name] = _side_by_side(name, labels, samples)
        present[name] = torch.tensor([label is not None for label in labels])
    return Batch(
        atoms=atoms,
        tasks=tuple(tasks),
        task_index=torch.tensor([indices[task] for task in tasks]),
        targets=values,
        present=present,
        names=tuple(sample.name for sample in samples),
        topology=None if topology is None else _topology(topology, atoms, tasks, samples),
        plan=plan,
    )


class _Batches(Dataset["Batch | _Packed | AtomslimError"]):
    """Makes the batch of a plan."""

    def __init__(self, mixture: Mixture, topology: TopologyBuilder | None, *, packed: bool) -> None:
        self._mixture, self._topology, self._packed = mixture, topology, packed
        self._targets = {task.name: task.targets for task in mixture.tasks}

    def __getitem__(self, plan: BatchPlan) -> "Batch | _Packed | AtomslimError":
        """Make a batch; an error about the data is given back, since raised in a worker it would lose its one line."""
        try:
            batch = self._made(plan)
        except AtomslimError as error:
            return error
        return _Packed.pack(batch) if self._packed else batch

    def _made(self, plan: BatchPlan) -> Batch:
        located = [self._mixture.locate(number) for number in plan.numbers.tolist()]
        samples = [self._mixture.tasks[task][index] for task, index in located]
        tasks = [self._mixture.names[task] for task, _ in located]
        return collate(samples, tasks, self._targets, self._topology, plan)


@dataclass(frozen=True)
class _Span:
    """Where a tensor lies in a buffer."""

    start: int
    end: int
    dtype: torch.dtype
    shape: torch.Size


@dataclass(frozen=True)
class _Packed:
    """A batch whose tensors lie in one buffer, with spans where they were.

    Each tensor on its own costs a file descriptor and a round trip between processes, of which there are some thirty
    in a batch: many workers would run out of descriptors.
    """

    buffer: Tensor
    batch: Batch

    @classmethod
    def pack(cls, batch: Batch) -> "_Packed":
        parts: list[Tensor] = []
        end = 0

        def put(tensor: Tensor) -> _Span:
            nonlocal end
            raw = tensor.contiguous().reshape(-1).view(torch.uint8)
            start = end
            end += len(raw) + -len(raw) % _ALIGNMENT
            parts.extend((raw, raw.new_zeros(end - start - len(raw))))
            return _Span(start, start + len(raw), tensor.dtype, tensor.shape)

        spans = _mapped(batch, Tensor, put)
        return cls(torch.cat(parts), spans)

    def unpack(self) -> Batch:
        """Return the batch, its tensors views of the buffer."""
        return _mapped(
            self.batch, _Span, lambda span: self.buffer[span.start : span.end].view(span.dtype).view(span.shape)
        )

    def pin_memory(self) -> "_Packed":
        """Copy the buffer to page-locked memory."""
        return replace(self, buffer=self.buffer.pin_memory())


def _mapped(value: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """Replace everything of a kind in nested dataclasses, dicts, lists and tuples."""
    if isinstance(value, kind):
        return function(value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _mapped(getattr(value, field.name), kind, function) for field in fields(value)}
        return replace(value, **parts)
    if isinstance(value, dict):
        return {key: _mapped(item, kind, function) for key, item in value.items()}
    if isinstance(value, list | tuple) and not all(isinstance(item, str) for item in value):
        return type(value)(_mapped(item, kind, function) for item in value)
    return value


def _as_it_is(batch: Any) -> Any:
    return batch


def _apart(_worker: int) -> None:
    """Leave the process group: what a terminal or a cluster sends to all of it would end the worker before the step."""
    os.setpgid(0, 0)


def _label(sample: Sample, name: str) -> NDArray[np.float64] | None:
    label = sample.label(name)
    if label is None or np.isfinite(label).all():
        return label
    atom = f" at atom {np.flatnonzero(~np.isfinite(label).all(axis=-1))[0]}" if name == "forces" else ""
    raise DataError(f"{sample.name or 'structure'}: {name} is not finite{atom}: remove the record")


_BY_ATOM: dict[str, tuple[int, ...]] = {"forces": (3,), HESSIAN: (6,), ENERGIES: ()}
"""Labels of atoms, and the shape of each."""


def _side_by_side(name: str, labels: Sequence[NDArray[np.float64] | None], samples: Sequence[Sample]) -> Tensor:
    """Join labels, NaN for those that are missing: those of atoms by atom, all others by structure."""
    if name in _BY_ATOM:
        rows = [
            np.full((len(sample), *_BY_ATOM[name]), np.nan) if label is None else label
            for label, sample in zip(labels, samples, strict=True)
        ]
        return torch.from_numpy(np.concatenate(rows))
    missing = np.full((3, 3) if name == "stress" else (), np.nan)
    return torch.from_numpy(np.stack([missing if label is None else label for label in labels]))


def _topology(builder: TopologyBuilder, atoms: AtomsBatch, tasks: Sequence[str], samples: Sequence[Sample]) -> Any:
    """Build the graphs; where a structure is refused, find out which, since an index within a batch says little."""
    try:
        return builder(atoms, tasks)
    except StructureError:
        for index, (task, sample) in enumerate(zip(tasks, samples, strict=True)):
            try:
                builder(atoms.structure(index), [task])
            except StructureError as error:
                raise StructureError(f"{sample.name or f'structure {index}'}: {error}") from error
        raise
