"""Distillation: a pruned model learns to reproduce the full one (arXiv 2504.19538, 2306.14818).

    L_KD = w_F ‖F_S − F_T‖₁ + w_E |E_S − E_T| + w_n ‖g_S(f) − g_T(f)‖₁,nodes + w_e ‖g_S(f) − g_T(f)‖₁,edges
         + w_b Σ_blocks ‖P f_S,i − f_T,i‖₁ + w_H ‖(∂F/∂r)_S − (∂F/∂r)_T‖₁,rows

| symbol | variable | meaning |
|---|---|---|
| F, E | outputs | normalised forces, and energies or other numbers of structures, of each structure's own task |
| g(f) | readout | features after the readout of atoms (node-to-node) and of edges (edge-to-edge) |
| f_i | features | features of block i before the readout, for the blocks that both models have, embedding included |
| P | projections | learned linear maps where the widths of teacher and student differ; none where they agree. Where |
| | | the student's channels were chosen among the teacher's, P begins as the selection of these channels |
| (∂F/∂r) | | random rows of the Hessian, one per structure (arXiv 2501.09009) |

‖·‖₁ is the mean absolute value over rows and components. Where both have the same graphs, one topology is made for
both. A student with a shorter cutoff, or fewer neighbours, has different graphs: then edge features are left out.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch
from atomslim.data.loader import Batch
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.models.block_model import BlockFeatures, BlockModel, ReadoutFeatures, Trace
from atomslim.models.channels import NARROWED
from atomslim.models.losses import LossSum
from atomslim.models.modes import parameter_count


class Weights(BaseModel):
    """Weights of the terms of the distillation loss."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    forces: float = Field(default=10.0, ge=0, description="of forces")
    energy: float = Field(default=1.0, ge=0, description="of energies and other numbers of structures")
    node: float = Field(default=10.0, ge=0, description="of the readout's atom features (node-to-node)")
    edge: float = Field(default=10.0, ge=0, description="of the readout's edge features (edge-to-edge)")
    blocks: float = Field(default=0.0, ge=0, description="of the features of every block that both models have")
    hessian: float = Field(default=0.0, ge=0, description="of one random row of the Hessian per structure")


@dataclass(frozen=True)
class Part:
    """One term of the loss: its weight, its sum over rows, and their number."""

    name: str
    weight: float
    sum: LossSum


def require_pair(student: BlockModel, teacher: BlockModel) -> None:
    """Raise ConfigError unless the student can learn from the teacher: one family, the same tasks and units."""
    if type(student) is not type(teacher):
        raise ConfigError(f"student {type(student).__name__} and teacher {type(teacher).__name__} are of two families")
    for name, task in student.tasks.items():
        if name not in teacher.tasks:
            raise ConfigError(f"the teacher has no task {name}: it has {', '.join(teacher.tasks)}")
        other = teacher.tasks[name]
        ours, theirs = ({target.name: target for target in one.targets} for one in (task, other))
        for target in ours.values():
            match = theirs.get(target.name)
            if match is None or (match.kind, match.unit, match.std) != (target.kind, target.unit, target.std):
                raise ConfigError(
                    f"task {name}: {target.name} of student and teacher differ in kind, unit or scale: use a student "
                    "that was cut from this teacher"
                )


def graphs_apart(student: BlockModel, teacher: BlockModel) -> list[str]:
    """Say for each task whose graphs differ from the teacher's what that means; nothing if all are equal."""
    return [
        f"task {name}: the student's graphs ({task.graph.cutoff:g} Å) are not the teacher's "
        f"({teacher.tasks[name].graph.cutoff:g} Å, or other neighbours): each makes its own, and the student learns "
        "outputs and features of atoms, not those of edges"
        for name, task in student.tasks.items()
        if task.graph != teacher.tasks[name].graph
    ]


def require_smaller(student: BlockModel, teacher: BlockModel, *, strict: bool) -> None:
    """Warn of a student with more blocks or weights than its teacher; raise ConfigError if ``strict``."""
    sizes = [(one.num_blocks, parameter_count(one)) for one in (student, teacher)]
    (blocks, weights), (most_blocks, most_weights) = sizes
    if blocks <= most_blocks and weights <= most_weights:
        return
    message = (
        f"the student has {blocks} blocks and {weights:,} weights, its teacher {most_blocks} and {most_weights:,}: if "
        "they are swapped, name the student first"
    )
    if strict:
        raise ConfigError(message)
    warnings.warn(message, AtomslimWarning, stacklevel=3)


def projections(student: BlockModel, teacher: BlockModel) -> nn.ModuleDict:
    """Return a linear map from the student's features to the teacher's wherever their widths differ.

    Those of the readout are called ``node`` and ``edge``, those of blocks ``node 3`` by their number in the original.
    Where the student's history says which of the teacher's channels it kept, a map begins as the selection of
    these channels. It is orthogonal: PᵀP = 1.
    """
    ours, theirs = student.readout_maps(), teacher.readout_maps()
    both = [branch for branch in ours if branch in theirs]
    pairs = {branch: (ours[branch].out_features, theirs[branch].out_features) for branch in both}
    for branch in both:
        mine, other = (
            dict(zip((0, *model.block_ids), maps[branch].widths, strict=True))
            for model, maps in ((student, ours), (teacher, theirs))
        )
        pairs |= {f"{branch} {block}": (mine[block], other[block]) for block in mine.keys() & other.keys()}
    weight = next(student.parameters())
    maps = nn.ModuleDict(
        {name: nn.Linear(*widths, bias=False).to(weight) for name, widths in pairs.items() if widths[0] != widths[1]}
    )
    chosen = _chosen_features(student, teacher)
    for name, map_ in maps.items():
        branch, _, block = name.partition(" ")
        channels = chosen.get(name, chosen.get(branch)) if block else chosen.get(f"{branch} readout")
        if channels is not None and len(channels) == cast("nn.Linear", map_).in_features:
            _select(cast("nn.Linear", map_), channels)
    return maps


def _chosen_features(student: BlockModel, teacher: BlockModel) -> dict[str, list[int]]:
    """Return which of the teacher's channels the student's features are, if its history says so.

    By ``node`` and ``edge`` (of blocks), ``node 3`` (of a block), ``node readout`` and ``edge readout``.
    """
    found: dict[str, list[int]] = {}
    if student.history[: len(teacher.history)] != teacher.history or student.family is None:
        return found
    for entry in student.history[len(teacher.history) :]:
        if entry.get("operation") == NARROWED:
            for stream, channels in entry["channels"].items():
                found[stream] = [found[stream][channel] for channel in channels] if stream in found else list(channels)
    streams = student.family.feature_streams(student)
    return {feature: found[stream] for feature, stream in streams.items() if stream in found}


@torch.no_grad()
def _select(map_: nn.Linear, channels: Sequence[int]) -> None:
    """Initialise a map as the selection of these channels."""
    map_.weight.zero_()
    map_.weight[list(channels), range(len(channels))] = 1.0


def on_graphs_of(model: BlockModel, batch: Batch) -> Batch:
    """Return a batch with a model's graphs."""
    return replace(batch, topology=model.topology(batch.atoms, batch.tasks))


def without_edges(trace: Trace) -> Trace:
    """Return a trace without features of edges."""
    features, readout = replace(trace.features, edge=()), replace(trace.readout, edge=None)
    return replace(trace, features=features, readout=readout)


def teach(teacher: BlockModel, batch: Batch, weights: Weights, precision: str = "32") -> Trace:
    """Return the teacher's outputs on a batch, without gradients.

    Only the tasks that occur in the batch are computed, and only features with a weight are kept. The teacher moves
    to the batch's device; ``precision`` bf16 computes its dense layers in bfloat16.
    """
    device = batch.atoms.device
    teacher.to(device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        trace = teacher.trace(batch.atoms, batch.topology, tasks_in(batch), normalised=True)
    kept = weights.blocks > 0
    features = BlockFeatures(
        tuple(block.detach() for block in trace.features.node if kept),
        tuple(block.detach() for block in trace.features.edge if kept),
        context=None,
    )
    edge = trace.readout.edge.detach() if weights.edge and trace.readout.edge is not None else None
    outputs = {
        task: {name: value.detach() for name, value in targets.items()} for task, targets in trace.outputs.items()
    }
    return Trace(features, ReadoutFeatures(trace.readout.node.detach(), edge, context=None), outputs)


def tasks_in(batch: Batch) -> list[str]:
    """Return the tasks that occur in a batch, each once."""
    return list(dict.fromkeys(batch.tasks))


def distillation_parts(
    student: BlockModel,
    teacher: BlockModel,
    ours: Trace,
    theirs: Trace,
    batch: Batch,
    weights: Weights,
    maps: nn.ModuleDict,
) -> Iterator[Part]:
    """Give the terms of the loss that have a weight, except the Hessian's."""
    yield from _output_parts(student, ours, theirs, batch, weights)
    yield from _readout_parts(ours.readout, theirs.readout, weights, maps)
    if weights.blocks:
        yield from _block_parts(student, teacher, ours.features, theirs.features, weights, maps)


def hessian_part(
    student: BlockModel, teacher: BlockModel, batch: Batch, weight: float, *, taught: Batch | None = None
) -> Part:
    """Compare one row of −∂F/∂r for each structure: the same random atom and direction for both models, in eV/Å².

    ``taught`` is the batch with the teacher's graphs, where they are not the student's.
    """
    row = _random_rows(batch.atoms)
    ours = hessian_rows(student, batch, row, create_graph=True)
    theirs = hessian_rows(teacher, taught or batch, row, create_graph=False)
    return Part("hessian", weight, _absolute(ours, theirs.detach()))


def hessian_rows(
    model: BlockModel, batch: Batch, row: Float[Tensor, "n 3"], *, create_graph: bool
) -> Float[Tensor, "n 3"]:
    """Return −∂(row · F)/∂r: with one 1 per structure in ``row``, one row of each structure's Hessian.

    Raises ConfigError for a task without forces.
    """
    positions = batch.atoms.positions.detach().requires_grad_()
    moved = replace(batch.atoms, positions=positions)
    with torch.enable_grad():
        outputs = model(moved, batch.topology, tasks_in(batch), create_graph=True)
        chosen = positions.new_zeros(())
        for task in tasks_in(batch):
            if "forces" not in outputs[task]:
                raise ConfigError(f"task {task}: has no forces, so there is no Hessian to learn: set its weight to 0")
            chosen = chosen + (row * outputs[task]["forces"])[_atoms_of(batch, task)].sum()
        gradient = torch.autograd.grad(chosen, positions, create_graph=create_graph)[0]
    return -gradient


def rattled(batch: Batch, student: BlockModel, *, displacement: float, strain: float) -> Batch:
    """Return a copy with Gaussian displacements (standard deviation in Å) and, where periodic, random strain.

    It gets new graphs and no labels: only the teacher can label it. Random numbers are torch's.
    """
    atoms = batch.atoms
    positions, cell = atoms.positions, atoms.cell
    if strain:
        random = torch.randn(atoms.num_structures, 3, 3).to(positions)
        deformation = strain * (random + random.transpose(1, 2)) / 2 * atoms.pbc.any(-1)[:, None, None]
        deformation = deformation + torch.eye(3).to(positions)
        positions = torch.einsum("ni,nij->nj", positions, deformation[atoms.batch])
        cell = cell @ deformation
    positions = positions + displacement * torch.randn(positions.shape).to(positions)
    moved = replace(atoms, positions=positions, cell=cell)
    nothing = {name: torch.full_like(label, torch.nan) for name, label in batch.targets.items()}
    absent = {name: torch.zeros_like(there) for name, there in batch.present.items()}
    topology = student.topology(moved, batch.tasks)
    return replace(batch, atoms=moved, topology=topology, targets=nothing, present=absent)


def _output_parts(student: BlockModel, ours: Trace, theirs: Trace, batch: Batch, weights: Weights) -> Iterator[Part]:
    """Compare each structure's predictions by its own task."""
    for task, outputs in ours.outputs.items():
        structures = torch.tensor([name == task for name in batch.tasks], device=batch.atoms.device)
        for target in student.task(task).targets:
            forces = target.kind in {"direct_forces", "conservative_forces"}
            weight = weights.forces if forces else weights.energy
            rows = structures[batch.atoms.batch] if forces else structures
            if weight:
                name = f"{task}/{target.name}"
                mine, other = outputs[target.name], theirs.outputs.get(task, outputs)[target.name]
                yield Part(name, weight, _absolute(mine[rows], other[rows]))


def _readout_parts(
    ours: ReadoutFeatures, theirs: ReadoutFeatures, weights: Weights, maps: nn.ModuleDict
) -> Iterator[Part]:
    for branch in ("node", "edge"):
        weight, mine, other = getattr(weights, branch), getattr(ours, branch), getattr(theirs, branch)
        if weight and mine is not None and other is not None:
            yield Part(branch, weight, _absolute(_mapped(maps, branch, mine), other))


def _block_parts(
    student: BlockModel,
    teacher: BlockModel,
    ours: BlockFeatures,
    theirs: BlockFeatures,
    weights: Weights,
    maps: nn.ModuleDict,
) -> Iterator[Part]:
    indices = {block: index for index, block in enumerate((0, *teacher.block_ids))}
    for index, block in enumerate((0, *student.block_ids)):
        for branch in ("node", "edge"):
            mine, other = getattr(ours, branch), getattr(theirs, branch)
            if block in indices and mine and other:
                difference = _absolute(_mapped(maps, f"{branch} {block}", mine[index]), other[indices[block]])
                yield Part(f"block {block}, {branch}", weights.blocks, difference)


def _mapped(maps: nn.ModuleDict, name: str, features: Tensor) -> Tensor:
    mapped: Tensor = maps[name](features) if name in maps else features
    return mapped


def _absolute(ours: Tensor, theirs: Tensor) -> LossSum:
    """Return Σ |difference| over rows, the mean over a row's components, and the number of rows."""
    if ours.shape != theirs.shape:
        raise ConfigError(
            f"student and teacher have {tuple(ours.shape)} and {tuple(theirs.shape)} features: their edges differ"
        )
    difference = (ours - theirs.to(ours.dtype)).abs()
    rows = difference.flatten(1).mean(1) if difference.dim() > 1 else difference
    return LossSum(rows.sum(), rows.new_tensor(float(len(rows))))


def _random_rows(atoms: AtomsBatch) -> Float[Tensor, "n 3"]:
    """Return zeros with one 1 for each structure, at a random atom and direction."""
    first = torch.cumsum(atoms.natoms, 0) - atoms.natoms
    draw = torch.rand(atoms.num_structures).to(atoms.positions.device)
    chosen = first + (draw * atoms.natoms).long()
    row = torch.zeros_like(atoms.positions)
    row[chosen, torch.randint(3, (atoms.num_structures,)).to(chosen.device)] = 1.0
    return row


def _atoms_of(batch: Batch, task: str) -> Bool[Tensor, " n"]:
    structures = torch.tensor([name == task for name in batch.tasks], device=batch.atoms.device)
    return structures[batch.atoms.batch]
