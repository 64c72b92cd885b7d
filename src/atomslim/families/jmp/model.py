"""JMP: a GemNet-OC backbone whose features after every block, side by side, feed the heads of many data sets."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch, Pairs
from atomslim.errors import ConfigError
from atomslim.families.jmp.family import FAMILY, JMPConfig
from atomslim.families.jmp.gemnet_oc.backbone import GemNetOC
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.families.jmp.gemnet_oc.geometry import edge_vectors
from atomslim.families.jmp.gemnet_oc.graphs import Topology, build_topology
from atomslim.families.jmp.gemnet_oc.layers import Linear, residuals, scaled_silu
from atomslim.families.jmp.graph_settings import JMPGraphSettings
from atomslim.families.jmp.heads import Head, forces_on_atoms
from atomslim.families.jmp.repulsion import repulsion_energies
from atomslim.models.block_model import (
    BlockFeatures,
    BlockModel,
    ReadoutFeatures,
    ReadoutKind,
    check_block_indices,
)
from atomslim.models.family import Family
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.outputs import reduce_over_atoms
from atomslim.models.precision import Precision
from atomslim.models.readout import ReadoutMap
from atomslim.models.steps import Steps
from atomslim.models.tasks import Target, Task


class FinalMLP(nn.Module):
    """The readout g: act(W₁ [f_0 ; … ; f_b]) from (b+1)·width to width, then residual layers."""

    def __init__(self, num_features: int, width: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.first = Linear(num_features * width, width)
        self.layers = residuals(num_layers, width, dropout)

    def forward(self, features: Sequence[Float[Tensor, "rows width"]]) -> Float[Tensor, "rows width"]:
        """Return the readout of the features of all blocks."""
        return self.layers(scaled_silu(self.first(torch.cat(tuple(features), dim=-1))))


@dataclass(frozen=True)
class Context:
    """What heads read besides features."""

    batch: AtomsBatch
    topology: Topology
    direction: Float[Tensor, "E 3"]
    repulsion: Float[Tensor, " n"] | None = None
    """Energies of atoms whose nuclei repel each other (eV), in models that have them."""


class JMP(BlockModel):
    """Joint multi-domain pre-training (arXiv 2310.16802) on GemNet-OC (arXiv 2204.02782)."""

    family: ClassVar[Family | None] = FAMILY
    graph_settings: ClassVar[type[GraphSettings]] = JMPGraphSettings
    readout_kind: ClassVar[ReadoutKind] = "concat"
    config: GemNetOCConfig

    def __init__(self, config: GemNetOCConfig | JMPConfig, tasks: Sequence[Task]) -> None:
        """Make a model with fresh weights; raises ConfigError if a task needs a branch that ``config`` leaves out."""
        super().__init__()
        bare = config.heads_without_bias if isinstance(config, JMPConfig) else ()
        config = GemNetOCConfig(**config.model_dump(exclude={"heads_without_bias"}))
        self.config = config
        self.tasks = self.settled(tasks)
        self.block_ids = tuple(range(1, config.num_blocks + 1))
        self.history: list[dict[str, Any]] = []
        elements = torch.empty(config.num_elements, config.emb_size_atom).uniform_(-(3**0.5), 3**0.5)
        self.embedding = nn.Embedding.from_pretrained(elements, freeze=False)
        self.backbone = GemNetOC(config)
        widths = {"node": config.emb_size_atom}
        if config.direct_forces:
            widths["edge"] = config.emb_size_edge
        self.readout = nn.ModuleDict(
            {
                name: FinalMLP(config.num_blocks + 1, width, config.num_global_out_layers, config.dropout)
                for name, width in widths.items()
            }
        )
        self.heads = nn.ModuleDict({task.name: self._heads_of(task, bare) for task in tasks})

    def topology(
        self, batch: AtomsBatch, tasks: str | Sequence[str] | None = None, *, pairs: Pairs | None = None
    ) -> Topology:
        """Return the four graphs of a batch as its task defines them: one task for all, or one per structure."""
        if tasks is None or isinstance(tasks, str):
            settings: JMPGraphSettings | list[JMPGraphSettings] = self._graph_of(tasks)
        else:
            settings = [self._graph_of(name) for name in tasks]
        return build_topology(batch, settings, pairs=pairs, basis_cutoff=self.config.basis_cutoff)

    def features(self, batch: AtomsBatch, topology: Topology, *, edges: bool = True) -> BlockFeatures:
        """Return the features of the embedding and of every block; those of edges only with the direct-force branch."""
        checkpoint = self.checkpoint_blocks and torch.is_grad_enabled()
        h = self.embedding(batch.numbers - 1)
        output = self.backbone(h, batch, topology, edges=edges and self.config.direct_forces, checkpoint=checkpoint)
        context = Context(batch, topology, output.direction)
        if self.config.repulsion:
            context = replace(context, repulsion=self.repulsion(edge_vectors(batch, topology.atom), context))
        return BlockFeatures(output.node, output.edge, context)

    def repulsion(self, vectors: Float[Tensor, "e 3"], context: Context) -> Float[Tensor, " n"]:
        """Return the energies (eV) of atoms whose nuclei repel each other, by the vectors of atom-to-atom edges."""
        return repulsion_energies(vectors, context.topology.atom, context.batch.numbers, self.config.repulsion)

    def read(self, features: BlockFeatures) -> ReadoutFeatures:
        """Apply FinalMLP to the features of atoms and, with the direct-force branch, of edges."""
        edge = self.readout["edge"](features.edge) if features.edge else None
        return ReadoutFeatures(self.readout["node"](features.node), edge, features.context)

    def raw_outputs(self, readout: ReadoutFeatures, task: Task) -> dict[str, Tensor]:
        """Return the raw numbers of a task's heads."""
        heads = cast("nn.ModuleDict", self.heads[task.name])
        return {
            target.name: self._raw_output(heads[target.name], target, readout)
            for target in task.targets
            if target.kind != "conservative_forces"
        }

    def steps(self, task: str | None = None, *, precision: Precision | None = None) -> Steps:
        """Return what predicts one structure after another."""
        from atomslim.families.jmp.steps import JMPSteps  # noqa: PLC0415 - which needs this module

        return JMPSteps(self, self.task(task), precision)

    def adds_up_atoms(self, task: Task) -> bool:
        """Say yes to every energy."""
        return task.of_kind("energy") is not None

    def readout_maps(self) -> dict[str, ReadoutMap]:
        """Return FinalMLP's first layer for node and, with the direct-force branch, edge features."""
        count = self.num_blocks + 1
        return {
            name: ReadoutMap.concat(mlp.first, [mlp.first.in_features // count] * count)
            for name, mlp in self._mlps().items()
        }

    def with_blocks(self, indices: Sequence[int]) -> Self:
        """Return an independent copy with only these blocks (1 … b), the readout's first layers sliced to match."""
        kept = check_block_indices(indices, self.num_blocks)
        model = copy.deepcopy(self)
        kept_outputs = (0, *kept)
        model.config = self.config.model_copy(update={"num_blocks": len(kept)})
        model.block_ids = tuple(self.block_ids[index - 1] for index in kept)
        model.backbone.bases.config = model.config
        model.backbone.blocks = nn.ModuleList(model.backbone.blocks[index - 1] for index in kept)
        model.backbone.outputs = nn.ModuleList(model.backbone.outputs[output] for output in kept_outputs)
        for mlp in model._mlps().values():  # noqa: SLF001 - the copy is one of our own
            columns = mlp.first.weight.detach().chunk(self.num_blocks + 1, dim=1)
            mlp.first = _linear(torch.cat([columns[output] for output in kept_outputs], dim=1))
        return model

    def parts(self) -> dict[str, list[nn.Module]]:
        """Split all parameters into groups; a block comes with its output block."""
        backbone = self.backbone
        parts = {"embedding": [self.embedding, backbone.bases, backbone.outputs[0]]}
        for number, (block, output) in enumerate(zip(backbone.blocks, backbone.outputs[1:], strict=True), start=1):
            parts[f"block {number}"] = [block, output]
        parts["readout"] = [self.readout]
        return parts | {f"head {name}": [head] for name, head in self.heads.items()}

    @property
    def heads_without_bias(self) -> set[str]:
        """Heads, as task.target, whose hidden layers have no biases."""
        heads = {name for name, _ in self.heads.named_modules() if name.count(".") == 1}
        return {name for name in heads if f"{name}.layers.0.bias" not in dict(self.heads.named_parameters())}

    def rename_heads(self, names: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        """Give heads new names, (task, target) → (task, target)."""
        heads: dict[str, dict[str, nn.Module]] = {}
        for old, (task, target) in names.items():
            heads.setdefault(task, {})[target] = self.heads.get_submodule(".".join(old))
        self.heads = nn.ModuleDict({task: nn.ModuleDict(targets) for task, targets in heads.items()})

    def _graph_of(self, task: str | None) -> JMPGraphSettings:
        return cast("JMPGraphSettings", self.task(task).graph)

    def _mlps(self) -> dict[str, FinalMLP]:
        return cast("dict[str, FinalMLP]", dict(self.readout.items()))

    def _heads_of(self, task: Task, bare: Collection[str]) -> nn.ModuleDict:
        if task.direct and not self.config.direct_forces:
            raise ConfigError(f"task {task.name}: direct forces need a model with direct_forces=True")
        if task.direct and self.config.repulsion:
            raise ConfigError(
                f"task {task.name}: direct forces know nothing of the model's repulsion: choose conservative forces, "
                "or repulsion=0"
            )
        return nn.ModuleDict(
            {
                target.name: Head(self.width_of(target), bias=f"{task.name}.{target.name}" not in bare)
                for target in task.targets
                if target.kind != "conservative_forces"
            }
        )

    def width_of(self, target: Target) -> int:
        """Return the width of the features that a target's head takes."""
        return self.config.emb_size_edge if target.kind == "direct_forces" else self.config.emb_size_atom

    @staticmethod
    def _raw_output(head: nn.Module, target: Target, readout: ReadoutFeatures) -> Tensor:
        context: Context = readout.context
        if target.kind != "direct_forces":
            values = head(readout.node)
            if target.kind == "energy" and context.repulsion is not None:
                values = values + context.repulsion.to(values.dtype) / target.std
            return reduce_over_atoms(values, target, context.batch)
        return forces_on_atoms(
            head(readout.edge), context.direction, context.topology.main.target, context.batch.num_atoms
        )


def _linear(weight: Tensor) -> Linear:
    with torch.device("meta"):
        layer = Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight.clone())
    return layer
