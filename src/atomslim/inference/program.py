"""One task of a model as a program of tensors: what a package runs without Python.

| input | shape | dtype | meaning |
|---|---|---|---|
| positions | (n, 3) | float64 | Å; atoms may lie outside the cell |
| numbers | (n,) | int64 | atomic numbers |
| tags | (n,) | int64 | 0 sub-surface, 1 surface, 2 adsorbate, and 2 for every atom of anything but slabs |
| cell | (3, 3) | float64 | Å, rows are lattice vectors; zeros without a cell |
| neighbours | (n, k) | int64 | source atoms: all within the cutoff, in any order, and as many others |
| offsets | (n, k, 3) | int64 | cell offset o of each source, whose image is at r_source + o · cell |

Both directions of a pair are listed, and an empty slot holds the atom itself with a zero offset.

| output | shape | dtype | meaning |
|---|---|---|---|
| energy | () | float64 | eV |
| forces | (n, 3) | float64 | eV/Å |
| strain_derivative | (3, 3) | float64 | ∂E/∂ε in eV, stress times volume; of conservative forces only |
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx

from atomslim.atoms import AtomsBatch, Pairs
from atomslim.models.block_model import BlockModel, ReadoutFeatures
from atomslim.models.family import family_of
from atomslim.models.tasks import Target, TargetKind, Task

INPUTS: dict[str, tuple[str, list[int | str]]] = {
    "positions": ("float64", ["n", 3]),
    "numbers": ("int64", ["n"]),
    "tags": ("int64", ["n"]),
    "cell": ("float64", [3, 3]),
    "neighbours": ("int64", ["n", "k"]),
    "offsets": ("int64", ["n", "k", 3]),
}
"""Names of the inputs in their order, with dtype and shape."""

OUTPUTS: dict[str, tuple[str, list[int | str]]] = {
    "energy": ("float64", []),
    "forces": ("float64", ["n", 3]),
    "strain_derivative": ("float64", [3, 3]),
}
"""The same of the outputs; the last one is of conservative forces only."""


class Program:
    """A task of a model, to be called with the inputs above; gives the outputs in their order."""

    def __init__(self, model: BlockModel, task: Task) -> None:
        """Prepare the weights that the model has now."""
        self.model, self.task = model, task
        self._features = family_of(model).traced_features(model, task, edges=task.direct and not task.conservative)

    def __call__(
        self,
        positions: Float[Tensor, "n 3"],
        numbers: Int[Tensor, " n"],
        tags: Int[Tensor, " n"],
        cell: Float[Tensor, "3 3"],
        neighbours: Int[Tensor, "n k"],
        offsets: Int[Tensor, "n k 3"],
    ) -> tuple[Tensor, ...]:
        """Return energy, forces and, where forces are conservative, the derivative by strain."""
        structure = _one_structure(positions, numbers, tags, cell)
        if not self.task.conservative:
            outputs = self._outputs(structure, neighbours, offsets)
            return outputs[self.energy.name][0].detach(), outputs[self.forces.name].detach().double()
        positions = positions.detach().requires_grad_()
        strain = torch.zeros_like(cell).requires_grad_()
        deformation = torch.eye(3, dtype=cell.dtype, device=cell.device) + (strain + strain.T) / 2
        strained = _one_structure(positions @ deformation, numbers, tags, cell @ deformation)
        energy = self._outputs(strained, neighbours, offsets)[self.energy.name][0]
        gradient, derivative = torch.autograd.grad(energy, [positions, strain])
        return energy.detach(), -gradient, derivative

    @property
    def energy(self) -> Target:
        """The task's energy."""
        return self._named("energy")

    @property
    def forces(self) -> Target:
        """The task's forces: the conservative ones where there are both kinds."""
        return self._named("conservative_forces" if self.task.conservative else "direct_forces")

    def _outputs(self, structure: AtomsBatch, neighbours: Tensor, offsets: Tensor) -> dict[str, Tensor]:
        raw = self._raw_outputs(self.model.read(self._features(structure, neighbours, offsets)))
        return self.model.physical_outputs(raw, self.task, structure)

    def _raw_outputs(self, readout: ReadoutFeatures) -> dict[str, Tensor]:
        """Leave out other outputs: other scalars, and direct forces beside conservative ones."""
        return self.model.raw_outputs(readout, self.task.model_copy(update={"targets": (self.energy, self.forces)}))

    def _named(self, kind: TargetKind) -> Target:
        target = self.task.of_kind(kind)
        if target is None:
            raise ValueError(f"task {self.task.name} has no {kind}")
        return target


def neighbour_matrix(pairs: Pairs, num_atoms: int) -> tuple[Int[Tensor, "n k"], Int[Tensor, "n k 3"]]:
    """Return the inputs ``neighbours`` and ``offsets`` of a program, with at least one column."""
    target, source = pairs.target.numpy(), pairs.source.numpy()
    sizes = np.bincount(target, minlength=num_atoms)
    slot = np.arange(len(target)) - (np.cumsum(sizes) - sizes)[target]
    width = max(int(sizes.max()), 1)
    neighbours = np.repeat(np.arange(num_atoms)[:, None], width, axis=1)
    offsets = np.zeros((num_atoms, width, 3), dtype=np.int64)
    neighbours[target, slot] = source
    offsets[target, slot] = pairs.offset.numpy()
    return torch.from_numpy(neighbours), torch.from_numpy(offsets)


def inputs_of(batch: AtomsBatch, pairs: Pairs) -> tuple[Tensor, ...]:
    """Return all inputs of a program for one structure, on its device."""
    matrix = (part.to(batch.device) for part in neighbour_matrix(pairs, batch.num_atoms))
    return (batch.positions, batch.numbers, batch.tags, batch.cell[0], *matrix)


def traced(program: Program) -> ExportedProgram:
    """Trace a program, derivatives included, for any number of atoms n and of neighbours k."""
    inputs = _example(next(program.model.parameters()).device)
    graph = make_fx(program, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
    sizes = {"n": Dim("n"), "k": Dim("k")}
    shapes = tuple(
        {axis: sizes[size] for axis, size in enumerate(shape) if isinstance(size, str)} for _, shape in INPUTS.values()
    )
    return torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)


def _example(device: torch.device) -> tuple[Tensor, ...]:
    """Inputs whose sizes differ; the numbers in them do not matter.

    They are larger than the sizes that the compiler specialises on, so that the program works for all sizes.
    """
    atoms, neighbours = 31, 47
    indices = torch.zeros(atoms, neighbours, dtype=torch.int64)
    inputs = (
        torch.rand(atoms, 3, dtype=torch.float64),
        torch.ones(atoms, dtype=torch.int64),
        torch.full((atoms,), 2),
        torch.zeros(3, 3, dtype=torch.float64),
        indices,
        indices[..., None].repeat(1, 1, 3),
    )
    return tuple(tensor.to(device) for tensor in inputs)


def _one_structure(positions: Tensor, numbers: Tensor, tags: Tensor, cell: Tensor) -> AtomsBatch:
    none = torch.zeros_like(numbers)
    return AtomsBatch(
        positions=positions,
        numbers=numbers,
        cell=cell[None],
        pbc=torch.ones(1, 3, dtype=torch.bool, device=cell.device),
        tags=tags,
        fixed=none.bool(),
        batch=none,
    )
