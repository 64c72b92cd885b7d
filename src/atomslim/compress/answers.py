"""A teacher's answers to structures as rows of numbers, one row for each structure: what can be kept for later.

A record is its task's numbers of structures (), forces (n, 3), readout features of atoms (n, d) and of edges (E, d'),
one after the other. A batch has the edges of its structures in an order that depends on what else is in
it; records sort them by target, source and offset.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atomslim.compress.distill import Weights, tasks_in
from atomslim.data.loader import Batch
from atomslim.models.block_model import BlockFeatures, BlockModel, ReadoutFeatures, Trace

FloatArray: TypeAlias = NDArray[Any]
"""float32 or float64."""


@dataclass(frozen=True)
class Layout:
    """What a record consists of."""

    dtype: str
    node: int
    """Width of the readout of atoms; 0: not kept."""
    edge: int
    """The same of edges."""
    targets: dict[str, dict[str, bool]]
    """Task → target → whether it has three numbers by atom, not one by structure."""

    @classmethod
    def of(cls, teacher: BlockModel, weights: Weights) -> Self:
        """Return the layout of a teacher's answers for a loss with these weights."""
        widths = {branch: readout.out_features for branch, readout in teacher.readout_maps().items()}
        return cls(
            dtype=str(next(teacher.parameters()).dtype).removeprefix("torch."),
            node=widths["node"] if weights.node else 0,
            edge=widths.get("edge", 0) if weights.edge else 0,
            targets={
                name: {target.name: "forces" in target.kind for target in task.targets}
                for name, task in teacher.tasks.items()
            },
        )

    def size(self, atoms: int, edges: int) -> int:
        """Return the bytes of the records of so many atoms and edges; the few numbers of structures do not count."""
        return np.dtype(self.dtype).itemsize * (atoms * (self.node + 3) + edges * self.edge)

    def records(self, trace: Trace, batch: Batch, edges: "StructureEdges") -> Iterator[FloatArray]:
        """Give a teacher's outputs on a batch, structure by structure."""
        atoms = np.cumsum(batch.atoms.natoms.tolist())[:-1]
        by_target = {
            (task, name): np.split(self._plain(trace.outputs[task][name]), atoms if by_atom else len(batch))
            for task in tasks_in(batch)
            for name, by_atom in self.targets[task].items()
        }
        features = [np.split(self._plain(trace.readout.node), atoms)] if self.node else []
        if self.edge and trace.readout.edge is not None:
            features.append(edges.split(self._plain(trace.readout.edge)))
        for index, task in enumerate(batch.tasks):
            parts = [*(by_target[task, name] for name in self.targets[task]), *features]
            yield np.concatenate([np.ravel(part[index]) for part in parts])

    def trace(self, records: Sequence[FloatArray], batch: Batch, edges: "StructureEdges") -> Trace:
        """Put records side by side as the teacher's answer to a batch; targets of other tasks' structures are zero."""
        atoms, device = batch.atoms, batch.atoms.device
        sizes = map(self._sizes, batch.tasks, atoms.natoms.tolist())
        parts = [np.split(record, np.cumsum(size)) for record, size in zip(records, sizes, strict=True)]
        node = np.concatenate([part[-2] for part in parts]).reshape(atoms.num_atoms, self.node)
        edge = edges.joined([part[-1].reshape(-1, self.edge) for part in parts]) if self.edge else None
        readout = ReadoutFeatures(
            torch.from_numpy(node).to(device), None if edge is None else torch.from_numpy(edge).to(device), context=None
        )
        outputs = {
            task: {name: value.to(device) for name, value in self._outputs(task, parts, batch)}
            for task in tasks_in(batch)
        }
        return Trace(BlockFeatures((), (), context=None), readout, outputs)

    def _outputs(self, task: str, parts: Sequence[Sequence[FloatArray]], batch: Batch) -> Iterator[tuple[str, Tensor]]:
        structures = np.array([name == task for name in batch.tasks])
        atoms = structures[batch.atoms.batch.cpu().numpy()]
        for index, (name, by_atom) in enumerate(self.targets[task].items()):
            rows = atoms if by_atom else structures
            own = np.concatenate([part[index] for part, there in zip(parts, structures, strict=True) if there])
            values = np.zeros((len(rows), 3) if by_atom else len(rows), self.dtype)
            values[rows] = own.reshape(-1, *values.shape[1:])
            yield name, torch.from_numpy(values)

    def _sizes(self, task: str, natoms: int) -> list[int]:
        """Return how many numbers each part of a record has, except the edges', which are the rest."""
        return [3 * natoms if by_atom else 1 for by_atom in self.targets[task].values()] + [natoms * self.node]

    def _plain(self, tensor: Tensor) -> FloatArray:
        array: FloatArray = tensor.detach().to("cpu", getattr(torch, self.dtype)).numpy()
        return array


@dataclass(frozen=True)
class StructureEdges:
    """The edges of a batch, structure by structure, in an order that nothing else in the batch changes."""

    order: NDArray[np.int64]
    """Rows of the batch's edges by structure, target, source and offset."""
    counts: NDArray[np.int64]
    """Number of edges of each structure."""
    checksums: NDArray[np.uint32]
    """Of each structure's edges, its atoms counted from 0."""

    def split(self, rows: FloatArray) -> list[FloatArray]:
        """Return each structure's share of one row for each edge of the batch."""
        return np.split(rows[self.order], np.cumsum(self.counts)[:-1])

    def joined(self, shares: Sequence[FloatArray]) -> FloatArray:
        """Undo `split`."""
        ordered = np.concatenate(shares)
        rows = np.empty_like(ordered)
        rows[self.order] = ordered
        return rows


def edges_of(batch: Batch) -> StructureEdges:
    """Sort the edges of a batch by structure."""
    edges = batch.topology.edges()
    source, target, offset = (values.cpu().numpy() for values in (edges.source, edges.target, edges.offset))
    order = np.lexsort((*offset.T, source, target))
    natoms = batch.atoms.natoms.cpu().numpy()
    structure = batch.atoms.batch.cpu().numpy()[target]
    first = (np.cumsum(natoms) - natoms)[structure]
    table = np.column_stack([source - first, target - first, offset]).astype("<i4")[order]
    counts = np.bincount(structure, minlength=len(natoms))
    checksums = [zlib.crc32(rows.tobytes()) for rows in np.split(table, np.cumsum(counts)[:-1])]
    return StructureEdges(order, counts, np.array(checksums, dtype=np.uint32))
