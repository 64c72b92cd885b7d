"""MACE as a block model: the package's own layers with our graphs, sums and derivatives.

The model is Batatia et al., NeurIPS 2022, arXiv 2206.07697; trained weights are read from files of the package
`mace-torch`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from atomslim.atoms import AtomsBatch, Pairs, find_pairs, update_distances, within
from atomslim.errors import ConfigError
from atomslim.families.mace.config import MACEConfig
from atomslim.families.mace.cut import with_blocks
from atomslim.families.mace.family import FAMILY
from atomslim.families.mace.graph import Graph, build_graph
from atomslim.families.mace.layers import Block, Embedding, Head, Term
from atomslim.models.block_model import BlockFeatures, BlockModel, ReadoutFeatures, ReadoutKind, check_block_indices
from atomslim.models.family import Family
from atomslim.models.graph import neighbour_vectors
from atomslim.models.outputs import reduce_over_atoms
from atomslim.models.precision import full_precision
from atomslim.models.readout import ReadoutMap
from atomslim.models.tasks import Task


@dataclass(frozen=True)
class _Context:
    batch: AtomsBatch
    pair: Tensor | None
    """Energies of repulsion of every atom."""


class MACE(BlockModel):
    """MACE as a block model: the readout sums linear terms of every block's even scalars.

    Some of the resulting features go linearly to the atom's energy, as in the package for all blocks except the
    last, and others through an activation, as for the last.
    """

    family: ClassVar[Family | None] = FAMILY
    readout_kind: ClassVar[ReadoutKind] = "sum"
    config: MACEConfig

    def __init__(self, config: MACEConfig, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.config = config
        self.mirror_images = config.parity
        self.tasks = self.settled(tasks)
        self.block_ids = tuple(range(1, len(config.blocks) + 1))
        self.history: list[dict[str, Any]] = []
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config, block) for block in config.blocks)
        self.readout = readout_of(config, self.blocks)
        self.heads = nn.ModuleDict({task.name: heads_of(config, task) for task in tasks})

    def topology(
        self, batch: AtomsBatch, tasks: str | Sequence[str] | None = None, *, pairs: Pairs | None = None
    ) -> Graph:
        """Return the graph of a batch, the same for all tasks."""
        for name in [tasks] if tasks is None or isinstance(tasks, str) else set(tasks):
            self.task(name)
        cutoff = self.config.cutoff
        near = find_pairs(batch, cutoff) if pairs is None else within(update_distances(pairs, batch), batch, cutoff)
        return build_graph(batch, near, self.config.species)

    def features(self, batch: AtomsBatch, topology: Graph, *, edges: bool = True) -> BlockFeatures:  # noqa: ARG002
        """Return the even scalars of the embedding and of every block; nothing is read from edges."""
        vectors = -neighbour_vectors(batch, topology)
        with full_precision(vectors.device):
            index = torch.stack([topology.source, topology.target])
            scalars, terms, pair = self.embedding(vectors, topology.kind, index)
        found = [scalars]
        if not len(self.blocks):  # so that forces, which are zero, are derivatives
            found = [scalars + 0.0 * batch.positions.sum().to(scalars)]
        state = scalars
        for block in self.blocks:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                scalars, state = checkpoint(block, state, terms, use_reentrant=False)
            else:
                scalars, state = block(state, terms)
            found.append(scalars)
        return BlockFeatures(tuple(found), (), _Context(batch, pair))

    def read(self, features: BlockFeatures) -> ReadoutFeatures:
        """Add the terms of all blocks."""
        read = features.node if self.num_blocks == 0 else features.node[1:]
        terms = [term(scalars) for term, scalars in zip(self.readout, read, strict=True)]
        return ReadoutFeatures(torch.stack(terms).sum(0), None, features.context)

    def raw_outputs(self, readout: ReadoutFeatures, task: Task) -> dict[str, Tensor]:
        """Return the raw numbers of a task's targets; atomic values summed or averaged."""
        context: _Context = readout.context
        heads = cast("nn.ModuleDict", self.heads[task.name])
        return {
            target.name: reduce_over_atoms(
                heads[target.name](readout.node, context.pair if target.kind == "energy" else None),
                target,
                context.batch,
            )
            for target in task.targets
            if target.kind != "conservative_forces"
        }

    def adds_up_atoms(self, task: Task) -> bool:
        """Return true for every energy."""
        return task.of_kind("energy") is not None

    def readout_maps(self) -> dict[str, ReadoutMap]:
        """Return the terms of the blocks; the embedding has one only if there are no blocks."""
        terms = cast("list[nn.Linear | None]", list(self.readout))
        unread: list[nn.Linear | None] = [None] if self.num_blocks else []
        widths = [self.config.width, *(cast("Block", block).scalars for block in self.blocks)]
        return {"node": ReadoutMap.sum(unread + terms, widths)}

    def with_blocks(self, indices: Sequence[int]) -> Self:
        """Return an independent copy with only these blocks (1 … b), and their terms of the readout.

        Irreps that the next block does not read, or does not receive, are removed with their paths.
        """
        return cast("Self", with_blocks(self, check_block_indices(indices, self.num_blocks)))

    def parts(self) -> dict[str, list[nn.Module]]:
        """Split all parameters into groups."""
        parts: dict[str, list[nn.Module]] = {"embedding": [self.embedding]}
        parts |= {f"block {number}": [block] for number, block in enumerate(self.blocks, start=1)}
        parts["readout"] = [self.readout]
        return parts | {f"head {name}": [head] for name, head in self.heads.items()}

    def rename_heads(self, names: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        """Give heads new names, (task, target) → (task, target)."""
        heads: dict[str, dict[str, nn.Module]] = {}
        for old, (task, target) in names.items():
            heads.setdefault(task, {})[target] = self.heads.get_submodule(".".join(old))
        self.heads = nn.ModuleDict({task: nn.ModuleDict(targets) for task, targets in heads.items()})


def readout_of(config: MACEConfig, blocks: nn.ModuleList) -> nn.ModuleList:
    """Return fresh terms of the readout, which are zero for an embedding without blocks."""
    out = config.linear + config.hidden
    if len(blocks):
        return nn.ModuleList(Term(cast("Block", block).scalars, out) for block in blocks)
    term = Term(config.width, out)
    nn.init.zeros_(term.weight)
    return nn.ModuleList([term])


def heads_of(config: MACEConfig, task: Task) -> nn.ModuleDict:
    """Return fresh heads for a task's targets; raises ConfigError for direct forces."""
    if task.direct:
        raise ConfigError(f"task {task.name}: MACE has no direct forces: choose conservative ones")
    return nn.ModuleDict({t.name: Head(config) for t in task.targets if t.kind != "conservative_forces"})
