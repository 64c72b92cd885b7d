"""CHGNet as a block model: the package's own layers with our graphs, sums and derivatives."""

import contextlib
import copy
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from atomslim.atoms import AtomsBatch, Pairs
from atomslim.errors import ConfigError, StructureError
from atomslim.families.chgnet.config import CHGNetConfig, read_updates
from atomslim.families.chgnet.coordinates import invertible, tell_atoms, tell_bonds
from atomslim.families.chgnet.family import FAMILY
from atomslim.families.chgnet.graph import BondGraph, build_graph
from atomslim.families.chgnet.layers import Block, Geometry
from atomslim.models.block_model import (
    BlockFeatures,
    BlockModel,
    ReadoutFeatures,
    ReadoutKind,
    check_block_indices,
    check_units,
)
from atomslim.models.family import Family
from atomslim.models.outputs import reduce_over_atoms
from atomslim.models.precision import full_precision
from atomslim.models.readout import ReadoutMap
from atomslim.models.tasks import Target, Task

ALMOST_ONE = 1 - 1e-6
"""CHGNet multiplies cosines by this, so that straight angles have a derivative."""

KINDS = ("bonds", "angles")
"""Updated quantities besides atoms, which can be left out by block."""

WORST_MAP = 1e3
"""Largest condition number of a hand-over map: beyond it, rounding in float32 would matter."""

SWITCH = 0.5
"""Å: over this length before a shorter cutoff than that of the radial functions, bonds fade out."""


class Embedding(nn.Module):
    """Features of atoms, bonds and angles before the first block."""

    def __init__(self, package: Any) -> None:
        super().__init__()
        self.atom_embedding = package.atom_embedding
        self.bond_basis_expansion = package.bond_basis_expansion
        self.bond_embedding = package.bond_embedding
        self.bond_weights_ag = package.bond_weights_ag
        self.bond_weights_bg = package.bond_weights_bg
        self.angle_basis_expansion = package.angle_basis_expansion
        self.angle_embedding = package.angle_embedding

    def forward(self, batch: AtomsBatch, graph: BondGraph, cutoff: float) -> tuple[Tensor, Tensor, Tensor, Geometry]:
        """Return the features of atoms, bonds and angles, and the geometry for the blocks."""
        dtype = self.bond_embedding.weight.dtype
        with full_precision(batch.device):
            vectors, lengths = _bond_vectors(batch, graph)
            radial = self.bond_basis_expansion.rbf_expansion_ag(lengths.to(dtype))
            near = self.bond_basis_expansion.rbf_expansion_bg(lengths[: graph.short].to(dtype))
            weights = self.bond_weights_ag(radial)
            if bool((graph.cutoffs < cutoff).any()):
                weights = weights * _fading(lengths, graph.cutoffs[batch.batch[graph.first]], cutoff).to(weights)
            angular = self.angle_basis_expansion.fourier_expansion(_angles(vectors, lengths, graph).to(dtype))
            atoms, bonds = self.atom_embedding(batch.numbers - 1), self.bond_embedding(radial)
            geometry = Geometry.of(graph, batch.batch, weights, self.bond_weights_bg(near))
            return atoms, bonds, self.angle_embedding(angular), geometry


class Readout(nn.Module):
    """A linear map of the last block's features, initially the identity, and CHGNet's normalisation there."""

    def __init__(self, width: int, norm: nn.Module | None) -> None:
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.norm = norm
        nn.init.eye_(self.first.weight)

    def forward(self, features: Float[Tensor, "n d_atom"]) -> Float[Tensor, "n d_atom"]:
        """Return the inputs of heads."""
        mapped = self.first(features)
        return mapped if self.norm is None else self.norm(mapped)


class Head(nn.Module):
    """A number of each structure: the sum over atoms of a network's, or a network of the pooled atoms."""

    def __init__(self, mlp: nn.Module, pooling: nn.Module, *, by_atom: bool) -> None:
        super().__init__()
        self.mlp = mlp
        self.pooling = pooling
        self.by_atom = by_atom

    def forward(self, x: Float[Tensor, "n d_atom"], target: Target, batch: AtomsBatch) -> Float[Tensor, " b"]:
        """Return the raw numbers of a target in float64, as the sums of many atoms need."""
        if self.by_atom:
            return reduce_over_atoms(self.mlp(x).squeeze(-1).double(), target, batch)
        mean = self.mlp(self.pooling(x, batch.batch)).squeeze(-1).double()
        return mean if target.reduction == "mean" else mean * batch.natoms.to(mean)


@dataclass(frozen=True)
class _Context:
    batch: AtomsBatch
    before_last: Tensor | None
    """Features of atoms after the block before the last, from which magnetic moments are computed."""


class CHGNet(BlockModel):
    """CHGNet (Nature Machine Intelligence 5, 1031, 2023): atoms, bonds and angles update one another.

    Energies are the sum over atoms of a head on the last block's features, forces and stress its derivatives, magnetic
    moments (absolute, μB) come from the features of the block before the last. Bonds and angles have features, too,
    which only this family uses. A composition model (energies of elements) is the references of the task's energy.
    """

    family: ClassVar[Family | None] = FAMILY
    readout_kind: ClassVar[ReadoutKind] = "last"
    config: CHGNetConfig

    def __init__(self, config: CHGNetConfig, tasks: Sequence[Task]) -> None:
        """Make a model with the package's fresh weights; raises ConfigError for direct forces and odd sizes."""
        super().__init__()
        package = package_model(config)
        self.config = config
        self.tasks = self.settled(tasks)
        self.block_ids = tuple(range(1, config.num_blocks + 1))
        self.history: list[dict[str, Any]] = []
        self.embedding = Embedding(package)
        self.blocks = nn.ModuleList(_block(package, config, block) for block in range(config.num_blocks))
        self.readout = Readout(config.atom_fea_dim, package.readout_norm)
        self.moments = package.site_wise
        head = Head(package.mlp, package.pooling, by_atom=config.mlp_first)
        self.heads = nn.ModuleDict(
            {task.name: nn.ModuleDict({one.name: copy.deepcopy(head) for one in headed(task)}) for task in tasks}
        )

    @property
    def atom_outputs(self) -> Mapping[str, str]:  # type: ignore[override]  # it depends on the number of blocks
        """Magnetic moments, of models that have a block before the last."""
        return MappingProxyType({"magmoms": "μB"} if self.num_blocks > 1 else {})

    def topology(
        self, batch: AtomsBatch, tasks: str | Sequence[str] | None = None, *, pairs: Pairs | None = None
    ) -> BondGraph:
        """Return bonds and angles of a batch; raises StructureError for elements that the model does not know."""
        names = [tasks] * batch.num_structures if tasks is None or isinstance(tasks, str) else list(tasks)
        self._require_elements(batch)
        cutoffs = [min(self.task(name).graph.cutoff, self.config.atom_graph_cutoff) for name in names]
        return build_graph(batch, cutoffs, self.config.bond_graph_cutoff, pairs=pairs)

    def features(self, batch: AtomsBatch, topology: BondGraph, *, edges: bool = True) -> BlockFeatures:
        """Return the features of atoms from the embedding on; those of bonds and angles stay inside."""
        del edges
        return BlockFeatures(tuple(atoms for atoms, _ in self._passed(batch, topology)), (), batch)

    def block_inputs(self, batch: AtomsBatch, topology: BondGraph) -> list[dict[str, Tensor]]:
        """Return each block's input features of atoms and bonds."""
        if self.config.conv_norm is not None:
            raise ConfigError("hand-over: updates of this CHGNet model are normalised, so that no map fits into them")
        return [{"atoms": atoms, "bonds": bonds} for atoms, bonds in self._passed(batch, topology)][:-1]

    def map_block_input(self, index: int, maps: Mapping[str, Float[Tensor, "given read"]]) -> None:
        """Multiply the outputs of the embedding and the blocks before one (from 0) by a matrix."""
        tell = {"atoms": tell_atoms, "bonds": tell_bonds}
        with torch.no_grad():
            for kind, matrix in maps.items():
                weight = self.readout.first.weight
                tell[kind](self.embedding, list(self.blocks)[:index], invertible(matrix, WORST_MAP).to(weight.device))

    def _passed(self, batch: AtomsBatch, topology: BondGraph) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the features of atoms and of bonds of the embedding and after every block."""
        recomputed = self.checkpoint_blocks and torch.is_grad_enabled()
        atoms, bonds, angles, geometry = self.embedding(batch, topology, self.config.atom_graph_cutoff)
        yield atoms, bonds
        for block in self.blocks:
            state = (atoms, bonds, angles, geometry)
            atoms, bonds, angles = checkpoint(block, *state, use_reentrant=False) if recomputed else block(*state)
            yield atoms, bonds

    def read(self, features: BlockFeatures) -> ReadoutFeatures:
        """Map and normalise the last block's features."""
        before_last = features.node[-2] if self.num_blocks > 1 else None
        with full_precision(features.context.device):
            return ReadoutFeatures(self.readout(features.node[-1]), None, _Context(features.context, before_last))

    def raw_outputs(self, readout: ReadoutFeatures, task: Task) -> dict[str, Tensor]:
        """Return the raw numbers of a task's heads, and the magnetic moments."""
        context: _Context = readout.context
        heads: Any = self.heads[task.name]
        with full_precision(context.batch.device):
            raw = {target.name: heads[target.name](readout.node, target, context.batch) for target in headed(task)}
            if context.before_last is not None:
                raw["magmoms"] = self.moments(context.before_last).squeeze(-1).abs()
        return raw

    def adds_up_atoms(self, task: Task) -> bool:
        """Say whether a network's atomic values are summed, instead of a network of the pooled atoms."""
        energy = task.of_kind("energy")
        return energy is not None and cast("Head", self.heads.get_submodule(f"{task.name}.{energy.name}")).by_atom

    def readout_maps(self) -> dict[str, ReadoutMap]:
        """Return the map of the last block's features."""
        return {"node": ReadoutMap.last(self.readout.first, [self.config.atom_fea_dim] * (self.num_blocks + 1))}

    def with_blocks(self, indices: Sequence[int]) -> Self:
        """Return an independent copy with only these blocks (1 … b); updates that nothing reads any more are removed.

        The readout reads the last one's output.
        """
        kept = check_block_indices(indices, self.num_blocks)
        bonds, angles = ([there[index - 1] for index in kept] for there in self._updates)
        return self._reduced(kept, bonds, angles)

    @property
    def fine_units(self) -> tuple[str, ...]:
        """Single updates of bonds and angles: bonds 1, angles 1, bonds 2, …."""
        bonds, angles = self._updates
        there = zip(self.block_ids, bonds, angles, strict=True)
        return tuple(f"{kind} {block}" for block, *both in there for kind, has in zip(KINDS, both, strict=True) if has)

    def without_units(self, names: Sequence[str]) -> Self:
        """Return an independent copy without some updates, and without those that nothing reads any more."""
        check_units(self, names)
        bonds, angles = (
            [has and f"{kind} {block}" not in names for block, has in zip(self.block_ids, there, strict=True)]
            for kind, there in zip(KINDS, self._updates, strict=True)
        )
        return self._reduced(range(1, self.num_blocks + 1), bonds, angles)

    def parts(self) -> dict[str, list[nn.Module]]:
        """Split all parameters into groups; the map to magnetic moments counts as readout."""
        parts: dict[str, list[nn.Module]] = {"embedding": [self.embedding]}
        parts |= {f"block {number}": [block] for number, block in enumerate(self.blocks, start=1)}
        parts["readout"] = [self.readout, self.moments]
        return parts | {f"head {name}": [head] for name, head in self.heads.items()}

    def rename_heads(self, names: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        """Give heads new names, (task, target) → (task, target)."""
        heads: dict[str, dict[str, nn.Module]] = {}
        for old, (task, target) in names.items():
            heads.setdefault(task, {})[target] = self.heads.get_submodule(".".join(old))
        self.heads = nn.ModuleDict({task: nn.ModuleDict(targets) for task, targets in heads.items()})

    @property
    def _updates(self) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
        return self.config.bond_updates, self.config.angle_updates

    def _reduced(self, kept: Sequence[int], bonds: Sequence[bool], angles: Sequence[bool]) -> Self:
        """Return a copy with these blocks, and with these of their updates that are read."""
        model = copy.deepcopy(self)
        model.block_ids = tuple(self.block_ids[index - 1] for index in kept)
        model.blocks = nn.ModuleList(model.blocks[index - 1] for index in kept)
        bonds, angles = read_updates(bonds, angles)
        for block, bond, angle in zip(cast("list[Block]", list(model.blocks)), bonds, angles, strict=True):
            block.bonds = block.bonds if bond else None
            block.angles = block.angles if angle else None
        model.config = self.config.model_copy(update={"bond_updates": bonds, "angle_updates": angles})
        return model

    def _require_elements(self, batch: AtomsBatch) -> None:
        known = self.embedding.atom_embedding.embedding.num_embeddings
        if batch.num_atoms and int(batch.numbers.max()) > known:
            atom = int(batch.numbers.argmax())
            raise StructureError(
                f"structure {int(batch.batch[atom])}: element {int(batch.numbers[atom])} is none of the {known} that "
                "CHGNet knows"
            )


def package_model(config: CHGNetConfig) -> Any:
    """Return a model of the package's own class with all layers of ``config``, its weights fresh.

    Keeps torch's generator. Raises ConfigError where the package is missing or refuses a value.
    """
    FAMILY.require_package()
    from chgnet.model import CHGNet as Package  # noqa: PLC0415 - an optional package

    if config.num_blocks == 0:
        config = config.model_copy(update={"bond_updates": (False,), "angle_updates": (False,)})
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):  # it prints its size
            return Package(**config.arguments())
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise ConfigError(f"the package chgnet makes no model of this configuration: {error}") from error


def _block(package: Any, config: CHGNetConfig, block: int) -> Block:
    return Block(
        package.atom_conv_layers[block],
        package.bond_conv_layers[block] if config.bond_updates[block] else None,
        package.angle_layers[block] if config.angle_updates[block] else None,
    )


def headed(task: Task) -> list[Target]:
    """Return the targets that have a head; raises ConfigError for direct forces."""
    if task.direct:
        FAMILY.require("direct forces")
    return [target for target in task.targets if target.kind != "conservative_forces"]


def _bond_vectors(batch: AtomsBatch, graph: BondGraph) -> tuple[Float[Tensor, "bonds 3"], Float[Tensor, " bonds"]]:
    """Return r_first − (r_second + offset · cell) and its length, in the dtype of the positions."""
    vectors = batch.positions.index_select(0, graph.first) - batch.positions.index_select(0, graph.second)
    if bool(batch.pbc.any()):
        cells = batch.cell.index_select(0, batch.batch.index_select(0, graph.first))
        vectors = vectors - torch.einsum("ei,eij->ej", graph.offset.to(cells), cells)
    return vectors, torch.linalg.vector_norm(vectors, dim=1)


def _angles(vectors: Tensor, lengths: Tensor, graph: BondGraph) -> Float[Tensor, " angles"]:
    """Return the angles between directions of short bonds, straight ones a little bent."""
    units = vectors[: graph.short] / lengths[: graph.short, None]
    units = torch.cat([units, -units])
    cosines = (units.index_select(0, graph.one) * units.index_select(0, graph.other)).sum(-1)
    return torch.acos(cosines * ALMOST_ONE)


def _fading(lengths: Tensor, cutoffs: Tensor, longest: float) -> Float[Tensor, "bonds 1"]:
    """Return a factor that goes from one to zero over the last `SWITCH` Å before cutoffs shorter than the longest."""
    x = ((cutoffs - lengths) / SWITCH).clamp(0, 1)
    factor = x * x * x * (10 - 15 * x + 6 * x * x)
    return torch.where(cutoffs < longest, factor, 1.0)[:, None]
