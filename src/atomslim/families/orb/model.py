"""Orb as a block model: the package's own layers with our graphs, sums and derivatives.

The models are Orb v2 (Neumann et al., arXiv 2410.22570) and v3 (Rhodes et al., arXiv 2504.06231); weights are read from
files of the package `orb-models`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from atomslim.atoms import AtomsBatch, Pairs, find_pairs, update_distances, within
from atomslim.errors import StructureError
from atomslim.families.orb.config import OrbConfig, OrbGraphSettings
from atomslim.families.orb.family import FAMILY
from atomslim.families.orb.graph import Graph, build_graph
from atomslim.families.orb.layers import Block, Confidence, Embedding, Head, Repulsion, StressHead, full_stress
from atomslim.families.orb.package import building, computing_in, nearest_of_package, network
from atomslim.models.block_model import BlockFeatures, BlockModel, ReadoutFeatures, ReadoutKind, check_block_indices
from atomslim.models.family import Family
from atomslim.models.graph import neighbour_vectors
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.precision import full_precision
from atomslim.models.readout import ReadoutMap
from atomslim.models.tasks import Target, Task

HEAVIEST = 117
"""The package counts elements from 0 to 117."""


@dataclass(frozen=True)
class _Context:
    batch: AtomsBatch
    repulsion: Mapping[str, Tensor]
    """``energy`` (b,) in eV, with direct forces also ``forces`` (n, 3) and ``stress`` (b, 6); empty if none."""


class Orb(BlockModel):
    """Orb as a block model: attention over the edges to the nearest neighbours; heads read the last block's atoms.

    Directions are plain inputs: a rotated structure has a slightly different energy. Energies are a network of the
    mean atom, times the number of atoms; forces and stress have separate heads or are derivatives.
    """

    family: ClassVar[Family | None] = FAMILY
    graph_settings: ClassVar[type[GraphSettings]] = OrbGraphSettings
    readout_kind: ClassVar[ReadoutKind] = "last"
    rotations: bool = False
    mirror_images: bool = False
    config: OrbConfig

    def __init__(self, config: OrbConfig, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.config = config
        self.tasks = self.settled(tasks)
        self.block_ids = tuple(range(1, config.num_blocks + 1))
        self.history: list[dict[str, Any]] = []
        self.embedding = Embedding(config)
        with building():
            self.blocks = nn.ModuleList(Block(layers) for layers in network(config, config.num_blocks).gnn_stacks)
        self.repulsion = None if config.repulsion == "none" else Repulsion(config.repulsion)
        self.readout = nn.Linear(config.width, config.width, bias=False)
        nn.init.eye_(self.readout.weight)
        self.confidence = Confidence(config) if config.confidence else None
        self.heads = nn.ModuleDict({task.name: heads_of(config, task) for task in tasks})
        self.stresses = nn.ModuleDict({name: StressHead(config) for name in config.stress_heads})

    @property
    def atom_outputs(self) -> Mapping[str, str]:  # type: ignore[override]  # it depends on the file
        """The force error that the model expects, if a head estimates it."""
        return MappingProxyType({} if self.confidence is None else {"force_error": "eV/Å"})

    def gives_stress(self, task: Task) -> bool:
        """Say whether a task has a stress: by derivatives, or by a separate head."""
        return task.conservative or task.name in self.stresses

    def topology(
        self, batch: AtomsBatch, tasks: str | Sequence[str] | None = None, *, pairs: Pairs | None = None
    ) -> Graph:
        """Return the nearest neighbours; raises StructureError for an element that the package does not know."""
        names = [tasks] * batch.num_structures if tasks is None or isinstance(tasks, str) else list(tasks)
        settings = [cast("OrbGraphSettings", self.task(name).graph) for name in names]
        _require_elements(batch)
        cutoffs = [one.cutoff for one in settings]
        near = find_pairs(batch, cutoffs) if pairs is None else within(update_distances(pairs, batch), batch, cutoffs)
        return build_graph(batch, near, settings, self._choose)

    def features(self, batch: AtomsBatch, topology: Graph, *, edges: bool = True) -> BlockFeatures:
        """Return the features of atoms from the embedding on; those of edges stay inside."""
        dtype = self.readout.weight.dtype
        with full_precision(batch.device), computing_in(dtype):
            vectors = neighbour_vectors(batch, topology).to(dtype)
            nodes, messages, known = self.embedding(vectors, batch, topology)
            direct = edges or len(self.stresses) > 0
            repulsion = {} if self.repulsion is None else self.repulsion(vectors, batch, topology, direct=direct)
        if not len(self.blocks):  # so that forces, which are zero, are derivatives
            nodes = nodes + 0.0 * batch.positions.sum().to(nodes)
        found = [nodes]
        recomputed = self.checkpoint_blocks and torch.is_grad_enabled()
        with computing_in(dtype):
            for block in self.blocks:
                state = (nodes, messages, known)
                nodes, messages = checkpoint(block, *state, use_reentrant=False) if recomputed else block(*state)
                found.append(nodes)
        return BlockFeatures(tuple(found), (), _Context(batch, repulsion))

    def read(self, features: BlockFeatures) -> ReadoutFeatures:
        """Map the last block's features, at first by the identity."""
        with full_precision(features.context.batch.device):
            return ReadoutFeatures(self.readout(features.node[-1]), None, features.context)

    def raw_outputs(self, readout: ReadoutFeatures, task: Task) -> dict[str, Tensor]:
        """Return the raw numbers of a task's heads, the stress of its own head, and the expected error of forces."""
        context: _Context = readout.context
        with full_precision(context.batch.device), computing_in(self.readout.weight.dtype):
            raw = {target.name: self._raw(readout.node, task, target, context) for target in headed(task)}
            if task.name in self.stresses and bool(context.batch.pbc.any()):
                own = self.stresses[task.name](readout.node, context.batch)
                raw["stress"] = full_stress(own + context.repulsion.get("stress", 0.0), context.batch)
            if self.confidence is not None:
                raw["force_error"] = self.confidence(readout.node)
        return raw

    def _raw(self, x: Tensor, task: Task, target: Target, context: _Context) -> Tensor:
        head = cast("Head", self.heads.get_submodule(f"{task.name}.{target.name}"))
        if target.kind == "direct_forces":
            return head.forces(x, target, context.batch) + context.repulsion.get("forces", 0.0) / target.std
        value = head.energy(x, target, context.batch)
        return value + context.repulsion.get("energy", 0.0) / target.std if target.kind == "energy" else value

    def readout_maps(self) -> dict[str, ReadoutMap]:
        """Return the map of the last block's features."""
        return {"node": ReadoutMap.last(self.readout, [self.config.width] * (self.num_blocks + 1))}

    def with_blocks(self, indices: Sequence[int]) -> Self:
        """Return an independent copy with only these blocks (1 … b); the readout reads the last one's output."""
        kept = check_block_indices(indices, self.num_blocks)
        model = copy.deepcopy(self)
        model.block_ids = tuple(self.block_ids[index - 1] for index in kept)
        model.blocks = nn.ModuleList(model.blocks[index - 1] for index in kept)
        model.config = self.config.model_copy(update={"num_blocks": len(kept)})
        return model

    def parts(self) -> dict[str, list[nn.Module]]:
        """Split all parameters into groups; the estimate of errors counts as readout."""
        parts: dict[str, list[nn.Module]] = {"embedding": [self.embedding]}
        parts |= {f"block {number}": [block] for number, block in enumerate(self.blocks, start=1)}
        parts["readout"] = [self.readout] if self.confidence is None else [self.readout, self.confidence]
        for name, head in self.heads.items():
            parts[f"head {name}"] = [head, self.stresses[name]] if name in self.stresses else [head]
        return parts

    def rename_heads(self, names: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        """Give heads new names, (task, target) → (task, target)."""
        heads: dict[str, dict[str, nn.Module]] = {}
        for old, (task, target) in names.items():
            heads.setdefault(task, {})[target] = self.heads.get_submodule(".".join(old))
        self.heads = nn.ModuleDict({task: nn.ModuleDict(targets) for task, targets in heads.items()})
        tasks = {old: new for (old, _), (new, _) in names.items()}
        self.stresses = nn.ModuleDict({tasks[name]: head for name, head in self.stresses.items() if name in tasks})

    def _choose(self, batch: AtomsBatch, settings: OrbGraphSettings) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.readout.weight.dtype
        return nearest_of_package(batch, settings.cutoff, settings.max_neighbours, dtype)


def headed(task: Task) -> list[Target]:
    """Return the targets that have a head."""
    return [target for target in task.targets if target.kind != "conservative_forces"]


def heads_of(config: OrbConfig, task: Task) -> nn.ModuleDict:
    """Return fresh heads for a task's targets."""
    return nn.ModuleDict({one.name: Head(config, 3 if one.kind == "direct_forces" else 1) for one in headed(task)})


def _require_elements(batch: AtomsBatch) -> None:
    if batch.num_atoms and int(batch.numbers.max()) > HEAVIEST:
        atom = int(batch.numbers.argmax())
        symbol = chemical_symbols[int(batch.numbers[atom])]
        raise StructureError(
            f"structure {int(batch.batch[atom])}: the model does not know {symbol}: remove the structure"
        )
