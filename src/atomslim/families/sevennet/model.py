"""SevenNet: NequIP-type equivariant message passing, read as blocks of a self connection, a convolution and a gate.

The model is J. Chem. Theory Comput. 20, 4857 (2024), after NequIP, arXiv 2101.03164; trained weights are read from
checkpoints of the package `sevenn`.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from atomslim.atoms import AtomsBatch, Pairs, find_pairs, update_distances, within
from atomslim.errors import ConfigError
from atomslim.families.sevennet.config import SevenNetConfig
from atomslim.families.sevennet.cut import degrees, with_blocks, with_cutoff, without_degrees
from atomslim.families.sevennet.family import FAMILY
from atomslim.families.sevennet.geometry import Graph, RadialBasis, build_graph, harmonics
from atomslim.families.sevennet.irreps import SCALAR, scalar_widths
from atomslim.families.sevennet.layers import EdgeTerms, State, activate, block_of, drawn
from atomslim.models.block_model import (
    BlockFeatures,
    BlockModel,
    ReadoutFeatures,
    ReadoutKind,
    check_block_indices,
    check_cutoff,
    check_units,
)
from atomslim.models.family import Family
from atomslim.models.graph import neighbour_vectors
from atomslim.models.outputs import reduce_over_atoms
from atomslim.models.precision import full_precision
from atomslim.models.readout import ReadoutMap
from atomslim.models.tasks import Task


@dataclass(frozen=True)
class _Context:
    batch: AtomsBatch
    graph: Graph


class Embedding(nn.Module):
    """Scalars of each element; the map from one-hot elements, its bias and what a level of theory adds."""

    def __init__(self, config: SevenNetConfig) -> None:
        super().__init__()
        width, modality = scalar_widths(config)[0], config.modality
        self.weight = drawn(len(config.species), width)
        self.bias = nn.Parameter(torch.zeros(width)) if config.biases else None
        self.modality = nn.Parameter(torch.zeros(len(modality.names), width)) if modality.embedding else None

    def forward(self, graph: Graph) -> Float[Tensor, "n width"]:
        """Return the scalars of every atom."""
        scalars = self.weight[graph.kind]
        if self.bias is not None:
            scalars = scalars + self.bias
        return scalars if self.modality is None else scalars + self.modality[graph.modality]


class Head(nn.Module):
    """From the readout's first layer to a number for each atom."""

    scale: Tensor | None

    def __init__(self, config: SevenNetConfig) -> None:
        super().__init__()
        widths = (*config.readout_hidden, 1)
        biased = config.readout_biases or config.modality.readout
        self.activation = config.act_readout
        self.offset = nn.Parameter(torch.zeros(widths[0])) if biased else None
        self.layers = nn.ParameterList(drawn(a, b) for a, b in pairwise(widths))
        self.bias = nn.Parameter(torch.zeros(1)) if config.readout_biases else None
        self.register_buffer("scale", torch.ones(len(config.species)) if config.element_scales else None)

    def forward(self, x: Float[Tensor, "n hidden"], kind: Tensor) -> Float[Tensor, " n"]:
        """Return one number for each atom, in the weights' dtype under any precision."""
        with full_precision(x.device):
            x = x.to(self.layers[0].dtype)
            x = x if self.offset is None else x + self.offset
            for weight in self.layers:
                x = (x if self.activation is None else activate(self.activation, x)) @ weight
            x = x if self.bias is None else x + self.bias
            return x.squeeze(-1) if self.scale is None else x.squeeze(-1) * self.scale[kind]


class SevenNet(BlockModel):
    """SevenNet as a block model: its readout takes the even scalars of the last block, first by a linear map."""

    family: ClassVar[Family | None] = FAMILY
    readout_kind: ClassVar[ReadoutKind] = "last"
    config: SevenNetConfig

    def __init__(self, config: SevenNetConfig, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.config = config
        self.mirror_images = config.parity
        self.tasks = self.settled(tasks)
        self.block_ids = tuple(range(1, config.num_blocks + 1))
        self.history: list[dict[str, Any]] = []
        self.embedding = Embedding(config)
        self.radial = RadialBasis(config)
        self.blocks = nn.ModuleList(block_of(config, index) for index in range(config.num_blocks))
        self.readout = nn.Linear(scalar_widths(config)[-1], config.readout_hidden[0], bias=False)
        self.heads = nn.ModuleDict({task.name: heads_of(config, task) for task in tasks})

    def topology(
        self, batch: AtomsBatch, tasks: str | Sequence[str] | None = None, *, pairs: Pairs | None = None
    ) -> Graph:
        """Return the graph of a batch, with the level of theory of its task: one task for all, or one per structure."""
        names = [self.task(tasks).name] * batch.num_structures if tasks is None or isinstance(tasks, str) else tasks
        cutoff = self.config.cutoff
        near = find_pairs(batch, cutoff) if pairs is None else within(update_distances(pairs, batch), batch, cutoff)
        levels = [self._level(name) for name in names]
        return build_graph(batch, near, self.config.species, torch.tensor(levels))

    def features(self, batch: AtomsBatch, topology: Graph, *, edges: bool = True) -> BlockFeatures:  # noqa: ARG002
        """Return the even scalars of the embedding and of every block; nothing is read from edges."""
        return BlockFeatures(tuple(x for x, _ in self._passed(batch, topology)), (), _Context(batch, topology))

    def block_inputs(self, batch: AtomsBatch, topology: Graph) -> list[dict[str, Tensor]]:
        """Return the input state of each block, by irrep: (n, components, channels)."""
        states = [state for _, state in self._passed(batch, topology)]
        return [{str(kind): x for kind, x in state.items()} for state in states[:-1]]

    def map_block_input(self, index: int, maps: Mapping[str, Float[Tensor, "given read"]]) -> None:
        """Multiply the input state of a block (from 0) by a matrix for each irrep, within the block's own weights."""
        block: Any = self.blocks[index]
        with torch.no_grad():
            for layer in (block.connection, block.first):
                for kind, matrix in maps.items():
                    if kind in layer.weights:
                        weight = layer.weights[kind]
                        weight.copy_((matrix.to(weight.device).double() @ weight.double()).to(weight))

    def _passed(self, batch: AtomsBatch, topology: Graph) -> Iterator[tuple[Tensor, State]]:
        """Give the even scalars and the whole state of the embedding and after every block."""
        scalars = self.embedding(topology)
        if not len(self.blocks):
            scalars = scalars + 0.0 * batch.positions.sum().to(
                scalars
            )  # so that forces, which are zero, are derivatives
        state: State = {SCALAR: scalars[:, None]}
        yield scalars, state
        terms = self._edge_terms(batch, topology)
        for block in self.blocks:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                scalars, state = checkpoint(block, state, topology, terms, use_reentrant=False)
            else:
                scalars, state = block(state, topology, terms)
            yield scalars, state

    def read(self, features: BlockFeatures) -> ReadoutFeatures:
        """Apply the readout's first layer, which is linear."""
        return ReadoutFeatures(self.readout(features.node[-1]), None, features.context)

    def raw_outputs(self, readout: ReadoutFeatures, task: Task) -> dict[str, Tensor]:
        """Return the raw numbers of a task's targets; atomic values summed or averaged."""
        context: _Context = readout.context
        heads = cast("nn.ModuleDict", self.heads[task.name])
        return {
            target.name: reduce_over_atoms(heads[target.name](readout.node, context.graph.kind), target, context.batch)
            for target in task.targets
            if target.kind != "conservative_forces"
        }

    def adds_up_atoms(self, task: Task) -> bool:
        """Return true for every energy."""
        return task.of_kind("energy") is not None

    def readout_maps(self) -> dict[str, ReadoutMap]:
        """Return the readout's first layer, over the even scalars of the last block."""
        return {"node": ReadoutMap.last(self.readout, scalar_widths(self.config))}

    def with_blocks(self, indices: Sequence[int]) -> Self:
        """Return an independent copy with only these blocks (1 … b).

        Irreps that the next block does not read, or does not receive, are removed with their gates and paths. The
        readout is unchanged, and reads the scalars of the last kept block.
        """
        return cast("Self", with_blocks(self, check_block_indices(indices, self.num_blocks)))

    @property
    def fine_units(self) -> tuple[str, ...]:
        """Degrees of irreps, each with those above it: l 1, l 2, …."""
        return tuple(f"l {degree}" for degree in degrees(self))

    def without_units(self, names: Sequence[str]) -> Self:
        """Return an independent copy without irreps of some degrees and above, of atoms and of edges."""
        check_units(self, names)
        if not names:
            return copy.deepcopy(self)
        return cast("Self", without_degrees(self, min(int(name.split()[1]) for name in names)))

    def with_cutoff(self, cutoff: float) -> Self:
        """Return an independent copy whose envelope ends at a shorter cutoff (Å)."""
        return cast("Self", with_cutoff(self, check_cutoff(self, cutoff)))

    def parts(self) -> dict[str, list[nn.Module]]:
        """Split all parameters into groups."""
        parts: dict[str, list[nn.Module]] = {"embedding": [self.embedding, self.radial]}
        parts |= {f"block {number}": [block] for number, block in enumerate(self.blocks, start=1)}
        parts["readout"] = [self.readout]
        return parts | {f"head {name}": [head] for name, head in self.heads.items()}

    def rename_heads(self, names: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        """Give heads new names; a task keeps its level of theory."""
        heads: dict[str, nn.ModuleDict] = {}
        levels = dict(self.config.task_modalities)
        for (task, target), (new_task, new_target) in names.items():
            heads.setdefault(new_task, nn.ModuleDict())[new_target] = self.heads.get_submodule(f"{task}.{target}")
            if task in levels:
                levels[new_task] = levels[task]
        self.heads = nn.ModuleDict(heads)
        known = {task: level for task, level in levels.items() if task in heads}
        self.config = self.config.model_copy(update={"task_modalities": known})

    def _edge_terms(self, batch: AtomsBatch, graph: Graph) -> EdgeTerms:
        """Return radial basis and harmonics in the weights' dtype, from distances in that of the positions."""
        vectors = neighbour_vectors(batch, graph)
        distance = torch.linalg.vector_norm(vectors, dim=-1)
        dtype = self.readout.weight.dtype
        with full_precision(vectors.device):
            scaled = vectors / distance[:, None] if self.config.unit_vectors else vectors
            return EdgeTerms(self.radial(distance.to(dtype)), harmonics(scaled.to(dtype), self.config.lmax_edge))

    def _level(self, task: str) -> int:
        """Return the index of a task's level of theory."""
        names = self.config.modality.names
        return names.index(self.config.task_modalities.get(task, names[0])) if names else 0


def heads_of(config: SevenNetConfig, task: Task) -> nn.ModuleDict:
    """Return fresh heads for a task's targets; raises ConfigError for direct forces."""
    if task.direct:
        raise ConfigError(f"task {task.name}: SevenNet has no direct forces: choose conservative ones")
    return nn.ModuleDict({t.name: Head(config) for t in task.targets if t.kind != "conservative_forces"})
