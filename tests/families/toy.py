"""A family outside the package: one file, one entry point. Its readouts are of all kinds, its widths unequal."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch, Pairs, find_pairs, update_distances, within
from atomslim.models import BlockFeatures, BlockModel, Family, ReadoutFeatures, ReadoutMap, Task
from atomslim.models.block_model import ReadoutKind, check_block_indices
from atomslim.models.family import Capability
from atomslim.models.outputs import reduce_over_atoms

STATE = 10


class ToyConfig(BaseModel):
    """Widths of what the embedding and each block hand to the readout, and how that takes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: tuple[int, ...] = (6, 8, 5, 7)
    kind: Literal["concat", "last", "sum"] = "concat"
    hidden: int = 9
    cutoff: float = 4.4


@dataclass(frozen=True)
class ToyGraph:
    """Pairs within the cutoff."""

    pairs: Pairs
    structures: int

    def edges(self) -> Pairs:
        return self.pairs

    def left_out(self) -> Tensor:
        return torch.zeros(self.structures)

    def to(self, device: torch.device | str) -> "ToyGraph":
        pairs = self.pairs
        moved = (part.to(device) for part in (pairs.source, pairs.target, pairs.offset, pairs.distance))
        return ToyGraph(Pairs(*moved), self.structures)


class ToyFamily(Family):
    """Files of atomslim's own, and heads that are reused."""

    name: ClassVar[str] = "toy"
    title: ClassVar[str] = "Toy"
    config: ClassVar[type[BaseModel]] = ToyConfig
    capabilities: ClassVar[frozenset[Capability]] = frozenset()

    def build(self, config: Any, tasks: Sequence[Task]) -> BlockModel:
        return Toy(config, tasks)

    def with_heads(
        self, model: BlockModel, tasks: Sequence[Task], reused: Mapping[str, Task], regularisation: Mapping[str, float]
    ) -> BlockModel:
        del reused, regularisation
        new = copy.deepcopy(model)
        new.tasks = new.settled(tasks)
        return new


FAMILY = ToyFamily()


class Toy(BlockModel):
    """Messages of neighbours, a state of which the readout sees a part, energies and charges."""

    family: ClassVar[Family | None] = FAMILY
    atom_outputs: Mapping[str, str] = {"charges": "e"}
    config: ToyConfig
    readout_kind: ReadoutKind  # type: ignore[misc]  # of the object here: a real family has one kind

    def __init__(self, config: ToyConfig, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.config, self.readout_kind = config, config.kind
        self.tasks = self.settled(tasks)
        self.block_ids = tuple(range(1, len(config.widths)))
        self.history: list[dict[str, Any]] = []
        self.embedding = nn.Embedding(119, STATE)
        self.filters = nn.ModuleList(nn.Linear(8, STATE, bias=False) for _ in self.block_ids)
        self.updates = nn.ModuleList(nn.Linear(STATE, STATE) for _ in self.block_ids)
        self.first = nn.ModuleList(nn.Linear(size, config.hidden, bias=False) for size in _sizes(config))
        self.last = nn.Linear(config.hidden, 1)
        self.charge = nn.Linear(config.hidden, 1)

    def topology(
        self, batch: AtomsBatch, tasks: str | Sequence[str] | None = None, *, pairs: Pairs | None = None
    ) -> ToyGraph:
        names = [tasks] * batch.num_structures if tasks is None or isinstance(tasks, str) else tasks
        cutoffs = [self.task(name).graph.cutoff for name in names]
        near = find_pairs(batch, cutoffs) if pairs is None else within(update_distances(pairs, batch), batch, cutoffs)
        return ToyGraph(near, batch.num_structures)

    def features(self, batch: AtomsBatch, topology: ToyGraph, *, edges: bool = True) -> BlockFeatures:
        del edges
        pairs, basis = topology.pairs, self._basis(batch, topology.pairs)
        state, seen = self.embedding(batch.numbers), []
        for index, width in enumerate(self.config.widths):
            if index:
                messages = state[pairs.source] * self.filters[index - 1](basis)
                state = state + torch.tanh(
                    self.updates[index - 1](torch.zeros_like(state).index_add(0, pairs.target, messages))
                )
            scalars, rest = state.split([width, STATE - width], dim=-1)
            seen.append(scalars)
            state = torch.cat([scalars, rest], dim=-1)
        return BlockFeatures(tuple(seen), (), (batch, state))

    def read(self, features: BlockFeatures) -> ReadoutFeatures:
        readout = self.readout_maps()["node"]
        hidden = torch.nn.functional.linear(readout.inputs(features.node), readout.weight())
        return ReadoutFeatures(torch.tanh(hidden), None, features.context)

    def raw_outputs(self, readout: ReadoutFeatures, task: Task) -> dict[str, Tensor]:
        batch, _ = readout.context
        energy = task.of_kind("energy")
        assert energy is not None
        return {
            energy.name: reduce_over_atoms(self.last(readout.node).squeeze(-1), energy, batch),
            "charges": self.charge(readout.node).squeeze(-1),
        }

    def readout_maps(self) -> dict[str, ReadoutMap]:
        kinds = {"concat": ReadoutMap.concat, "last": ReadoutMap.last}
        if self.config.kind == "sum":
            return {"node": ReadoutMap.sum(list(self.first), self.config.widths)}  # type: ignore[arg-type]
        return {"node": kinds[self.config.kind](self.first[0], self.config.widths)}  # type: ignore[arg-type]

    def with_blocks(self, indices: Sequence[int]) -> "Toy":
        kept = check_block_indices(indices, self.num_blocks)
        positions = (0, *kept)
        config = self.config.model_copy(
            update={"widths": tuple(self.config.widths[position] for position in positions)}
        )
        small = Toy(config, list(self.tasks.values())).to(self.last.weight).train(self.training)
        small.block_ids = tuple(self.block_ids[index - 1] for index in kept)
        small.history = list(self.history)
        for name in ("embedding", "last", "charge"):
            getattr(small, name).load_state_dict(getattr(self, name).state_dict())
        for position, index in enumerate(kept):
            small.filters[position].load_state_dict(self.filters[index - 1].state_dict())
            small.updates[position].load_state_dict(self.updates[index - 1].state_dict())
        ours = self.readout_maps()["node"]
        if config.kind == "last":
            small.readout_maps()["node"].assign(ours.weight())
        else:
            columns = ours.columns()
            small.readout_maps()["node"].assign(
                torch.cat([ours.weight()[:, columns[position]] for position in positions], dim=1)
            )
        return small

    def parts(self) -> dict[str, list[nn.Module]]:
        pairs = zip(self.filters, self.updates, strict=True)
        blocks: dict[str, list[nn.Module]] = {
            f"block {number}": list(pair) for number, pair in enumerate(pairs, start=1)
        }
        heads: list[nn.Module] = [self.last, self.charge]
        return {"embedding": [self.embedding], **blocks, "readout": [self.first], "head energy": heads}

    def _basis(self, batch: AtomsBatch, pairs: Pairs) -> Tensor:
        shift = torch.einsum("pi,pij->pj", pairs.offset.to(batch.cell), batch.cell[batch.batch[pairs.target]])
        distance = (batch.positions[pairs.target] - batch.positions[pairs.source] - shift).norm(dim=-1, keepdim=True)
        envelope = (1 - (distance / self.config.cutoff) ** 2).clamp(min=0) ** 3
        centres = torch.linspace(0.5, self.config.cutoff, 8).to(distance)
        return (envelope * torch.exp(-((distance - centres) ** 2))).to(self.last.weight)


def _sizes(config: ToyConfig) -> tuple[int, ...]:
    """Return the numbers of columns of the readout's layers."""
    return {"concat": (sum(config.widths),), "last": config.widths[-1:], "sum": config.widths}[config.kind]
