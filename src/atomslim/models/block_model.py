"""The interface of a model made of blocks: all that compression needs to know about an architecture.

    embed → block 1 → … → block b → features of every block → readout → heads

Block 0 is the embedding, which is never removed; blocks 1 … b are the interaction blocks. To add a family, subclass
`BlockModel`, fill in its abstract methods, describe the rest in a `Family`, and run the checks of `atomslim.testing`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import BaseModel
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch, Pairs
from atomslim.atoms.sample import ENERGIES
from atomslim.errors import ConfigError
from atomslim.models import short
from atomslim.models.atom_energies import energies_of_atoms
from atomslim.models.family import Family
from atomslim.models.graph import Graph
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.modes import without_parameter_gradients
from atomslim.models.outputs import physical, strained, stress_of
from atomslim.models.precision import Precision, computing, format_of, without_autocast
from atomslim.models.readout import ReadoutMap
from atomslim.models.steps import Steps
from atomslim.models.tasks import Task
from atomslim.threads import fitting_threads

ReadoutKind = Literal["concat", "sum", "last"]
"""How the readout takes the features of all blocks.

concat: side by side, so that a cut slices its first layer; sum: added up, so that a cut drops a term; last: only the
last block's, so that a cut hands it an earlier state and re-alignment or distillation has to follow. Whatever it is,
`BlockModel.readout_maps` gives it as one linear map.
"""

Predictions = dict[str, dict[str, Tensor]]
"""Task name → target name → numbers."""


@dataclass(frozen=True)
class BlockFeatures:
    """Features of every block, embedding first: index i belongs to block i. Widths may differ from block to block.

    They are invariant under rotation: an equivariant family hands over its scalars.
    """

    node: tuple[Float[Tensor, "n _"], ...]
    edge: tuple[Float[Tensor, "E _"], ...]
    """Empty where the model reads nothing from edges."""
    context: Any
    """For the family only: directions of edges, or features that rotate with the structure."""


@dataclass(frozen=True)
class ReadoutFeatures:
    """The readout's outputs: one row per atom and, with an edge branch, one per edge."""

    node: Float[Tensor, "n d_node"]
    edge: Float[Tensor, "E d_edge"] | None
    context: Any


@dataclass(frozen=True)
class Trace:
    """One pass through a model with all intermediates that compression needs."""

    features: BlockFeatures
    readout: ReadoutFeatures
    outputs: Predictions


class BlockModel(nn.Module, ABC):
    """A model whose blocks can be scored, removed and distilled.

    ``tasks`` says what it predicts, ``block_ids`` which blocks of the original model (1 … b) its own blocks are,
    ``history`` what was done to it since, and ``config`` what it is built from besides its tasks.
    """

    family: ClassVar[Family | None] = None
    """The family of this class, for what goes beyond this interface; None: models cannot be saved."""
    graph_settings: ClassVar[type[GraphSettings]] = GraphSettings
    """Class of the graph settings of its tasks."""
    readout_kind: ClassVar[ReadoutKind]
    atom_outputs: Mapping[str, str] = MappingProxyType({})
    """Names and units of per-atom outputs besides its targets: {"magmoms": "μB"}, say."""
    rotations: bool = True
    """Whether energies are invariant under rotation; not so where directions are plain inputs."""
    mirror_images: bool = True
    """Whether energies are invariant under reflection; not so where a family is invariant under rotations only."""
    config: BaseModel
    tasks: dict[str, Task]
    block_ids: tuple[int, ...]
    history: list[dict[str, Any]]
    checkpoint_blocks: bool = False
    """Whether training recomputes each block in the backward pass instead of keeping its intermediates."""
    precision: Precision | None = None
    """Precision of `predict`, see `atomslim.models.precision`; None: the default. Model files do not hold it."""

    @classmethod
    def settled(cls, tasks: Iterable[Task]) -> dict[str, Task]:
        """Return tasks by name, with graph settings of this class; raises ConfigError for graphs it cannot have."""
        own = ((task, cls.graph_settings.of(task.graph)) for task in tasks)
        return {
            task.name: task if graph is task.graph else task.model_copy(update={"graph": graph}) for task, graph in own
        }

    def __repr__(self) -> str:
        """Describe it in a few lines; ``torch.nn.Module.__repr__(model)`` lists its modules."""
        return short.text(self)

    def _repr_html_(self) -> str:
        return short.as_html(self)

    @property
    def num_blocks(self) -> int:
        """Number of interaction blocks b."""
        return len(self.block_ids)

    @abstractmethod
    def topology(
        self, batch: AtomsBatch, tasks: str | Sequence[str] | None = None, *, pairs: Pairs | None = None
    ) -> Graph:
        """Return the graphs of a batch as its task defines them: one task for all, or one for each structure.

        ``pairs`` reuses candidates found earlier with a cutoff so large that none within the task's is missing. Atoms
        may have moved since: distances are recomputed (`update_distances`).
        """

    @abstractmethod
    def features(self, batch: AtomsBatch, topology: Any, *, edges: bool = True) -> BlockFeatures:
        """Return the features of the embedding and of every block.

        Without ``edges`` those of edges may be left out: only direct forces are read from them.
        """

    @abstractmethod
    def read(self, features: BlockFeatures) -> ReadoutFeatures:
        """Apply the readout."""

    @abstractmethod
    def raw_outputs(self, readout: ReadoutFeatures, task: Task) -> dict[str, Tensor]:
        """Return the raw numbers of a task's heads, and ``atom_outputs``; targets that are derivatives are left out."""

    def gives_stress(self, task: Task) -> bool:
        """Say whether a task's outputs have a ``stress``: where forces are derivatives, or the family has a head."""
        return task.conservative

    def adds_up_atoms(self, task: Task) -> bool:  # noqa: ARG002 - other families use it
        """Say whether a task's energy is a sum over atoms, so that `atom_energies` can give its parts.

        Then the readout's ``context`` is a dataclass, and the head sums over its ``batch``.
        """
        return False

    def physical_outputs(self, raw: dict[str, Tensor], task: Task, batch: AtomsBatch) -> dict[str, Tensor]:
        """Turn raw numbers into physical ones by mean, std and references of each target; others pass unchanged."""
        targets = {target.name: target for target in task.targets}
        return {
            name: physical(value, targets[name], batch) if name in targets else value for name, value in raw.items()
        }

    @abstractmethod
    def readout_maps(self) -> dict[str, ReadoutMap]:
        """Return the readout's linear map over ``node`` and, with an edge branch, ``edge`` features.

        Its output is as wide as `ReadoutFeatures` of the branch.
        """

    @abstractmethod
    def with_blocks(self, indices: Sequence[int]) -> Self:
        """Return an independent copy that has only the blocks ``indices`` (1 … b, ascending) besides the embedding.

        A readout that takes features side by side keeps the columns of these blocks. Raises ConfigError for indices
        that are repeated, out of order, or name no block.
        """

    @property
    def fine_units(self) -> tuple[str, ...]:
        """Names of what can be left out besides whole blocks, by the blocks' numbers in the original model."""
        return ()

    def without_units(self, names: Sequence[str]) -> Self:
        """Return an independent copy without some of ``fine_units``, and without weights that only these used.

        Raises ConfigError for an unknown name.
        """
        check_units(self, names)
        return copy.deepcopy(self)

    def block_inputs(self, batch: AtomsBatch, topology: Any) -> list[dict[str, Tensor]]:
        """Return the input of each block, by kind of feature, (rows, …, channels): only with *hand-over*.

        Rows and the axes between may rotate with the structure; linear maps of the channels may not.
        """
        raise NotImplementedError

    def map_block_input(self, index: int, maps: Mapping[str, Float[Tensor, "given read"]]) -> None:
        """Merge x → x · matrix, by kind, for the input of a block (from 0) into weights: only with *hand-over*."""
        raise NotImplementedError

    def with_cutoff(self, cutoff: float) -> Self:
        """Return an independent copy with a shorter cutoff (Å) in all tasks, at which energies have no step.

        Only of families with the capability *shorter cutoff*. Raises ConfigError for a cutoff that is not shorter.
        """
        check_cutoff(self, cutoff)
        model = copy.deepcopy(self)
        graphs = {name: task.graph.model_copy(update={"cutoff": cutoff}) for name, task in self.tasks.items()}
        model.tasks = {name: task.model_copy(update={"graph": graphs[name]}) for name, task in self.tasks.items()}
        return model

    @abstractmethod
    def parts(self) -> dict[str, list[nn.Module]]:
        """Split all parameters into groups: ``embedding``, ``block 1`` …, ``readout``, ``head NAME``."""

    def rename_heads(self, names: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        """Give heads new names, (task, target) → (task, target); does nothing where modules are not named so."""

    def forward(
        self,
        batch: AtomsBatch,
        topology: Any = None,
        tasks: Iterable[str] | None = None,
        *,
        normalised: bool = False,
        create_graph: bool = False,
    ) -> Predictions:
        """Return the predictions of ``tasks`` (default: all) for every structure of the batch.

        Energies (b,) in eV, forces (n, 3) in eV/Å, stress (b, 3, 3) in eV/Å³ (ASE's sign: positive is tension; only
        where `gives_stress` says so and for periodic structures; NaN for others in the batch and for cells without a
        volume, such as slabs with two lattice vectors), scalar targets (b,) in their own unit, and ``atom_outputs``
        (n,); ``normalised`` leaves out mean, std and references. With ``create_graph`` conservative forces and stress
        can be differentiated again, as a loss on them needs. Without a topology, that of the first task is built.
        Raises ConfigError for an unknown task.
        """
        return self._run(batch, topology, tasks, normalised=normalised, create_graph=create_graph, edges=False).outputs

    def trace(
        self,
        batch: AtomsBatch,
        topology: Any = None,
        tasks: Iterable[str] | None = None,
        *,
        normalised: bool = False,
        create_graph: bool = False,
    ) -> Trace:
        """Return the predictions that `forward` describes, with all features and readouts, in one pass."""
        return self._run(batch, topology, tasks, normalised=normalised, create_graph=create_graph, edges=True)

    def _run(
        self,
        batch: AtomsBatch,
        topology: Any,
        tasks: Iterable[str] | None,
        *,
        normalised: bool,
        create_graph: bool,
        edges: bool,
    ) -> Trace:
        chosen = [self.task(name) for name in (self.tasks if tasks is None else tasks)]
        if topology is None:
            topology = self.topology(batch, chosen[0].name)
        conservative = any(task.conservative for task in chosen)
        with torch.set_grad_enabled(torch.is_grad_enabled() or conservative):
            strain = None
            if conservative:
                batch, strain = strained(batch)
            features = self.features(batch, topology, edges=edges or any(task.direct for task in chosen))
            readout = self.read(features)
            derive = partial(self._derivatives, batch=batch, strain=strain, create_graph=create_graph)
            outputs = {task.name: self._outputs(readout, task, batch, derive, normalised=normalised) for task in chosen}
        return Trace(features, readout, outputs)

    def predict(
        self,
        batch: AtomsBatch,
        task: str | None = None,
        topology: Any = None,
        *,
        precision: Precision | None = None,
        energies: bool = False,
    ) -> dict[str, Tensor]:
        """Return the detached predictions of one task (default: the only one) as `forward` describes them.

        ``precision`` is the number format (default: the model's); raises ConfigError where the device lacks it.
        ``energies`` adds those of atoms (n,) in eV, for models that sum them.
        """
        name, weight = self.task(task).name, next(self.parameters())
        arithmetic = computing(format_of(precision or self.precision, weight), weight.device)
        threads = fitting_threads(self, batch.num_atoms)
        with torch.no_grad(), without_parameter_gradients(self), arithmetic, threads:
            outputs = self._with_energies(batch, topology, name) if energies else self(batch, topology, [name])[name]
        return {key: value.detach() for key, value in outputs.items()}

    def _with_energies(self, batch: AtomsBatch, topology: Any, name: str) -> dict[str, Tensor]:
        trace = self._run(batch, topology, [name], normalised=False, create_graph=False, edges=False)
        return {**trace.outputs[name], ENERGIES: energies_of_atoms(self, trace.readout, self.task(name))}

    def steps(self, task: str | None = None, *, precision: Precision | None = None) -> Steps:
        """Return a predictor of one structure after another, as `predict` does: a family may have a faster one."""
        return Steps(self, self.task(task), precision)

    def task(self, name: str | None = None) -> Task:
        """Return a task by name, or the only one; raises ConfigError that lists the names there are."""
        names = ", ".join(self.tasks)
        if name is None:
            if len(self.tasks) == 1:
                return next(iter(self.tasks.values()))
            first = next(iter(self.tasks), "")
            raise ConfigError(
                f"the model has {len(self.tasks)} tasks: choose one of {names}, as in --task {first}, or {first}=DATA"
            )
        if name not in self.tasks:
            raise ConfigError(f"unknown task {name!r}: the model has {names}")
        return self.tasks[name]

    def _outputs(
        self,
        readout: ReadoutFeatures,
        task: Task,
        batch: AtomsBatch,
        derive: Callable[[Tensor], dict[str, Tensor]],
        *,
        normalised: bool,
    ) -> dict[str, Tensor]:
        outputs = self.raw_outputs(readout, task)
        if not normalised:
            outputs = self.physical_outputs(outputs, task, batch)
        energy, forces = task.of_kind("energy"), task.of_kind("conservative_forces")
        if energy is not None and forces is not None:
            derivatives = derive(outputs[energy.name])
            outputs = {**outputs, forces.name: derivatives["forces"]}
            if "stress" in derivatives:
                outputs["stress"] = derivatives["stress"]
        return outputs

    def _derivatives(
        self, energy: Tensor, batch: AtomsBatch, strain: Tensor | None, *, create_graph: bool
    ) -> dict[str, Tensor]:
        """Return −∂E/∂r and, for periodic structures, (1/V) ∂E/∂ε."""
        wanted = [batch.positions] if strain is None else [batch.positions, strain]
        with without_autocast(energy.device):
            grads = (
                torch.autograd.grad(
                    energy.sum(),
                    wanted,
                    create_graph=create_graph,
                    retain_graph=True,
                    materialize_grads=True,
                )
                if energy.requires_grad  # without blocks, nothing may depend on where atoms are
                else tuple(torch.zeros_like(values) for values in wanted)
            )
        dtype = next(self.parameters()).dtype
        outputs = {"forces": -grads[0].to(dtype)}
        if strain is not None:
            outputs["stress"] = stress_of(grads[1], batch).to(dtype)
        return outputs


def check_cutoff(model: BlockModel, cutoff: float) -> float:
    """Return a cutoff; raises ConfigError unless it is positive and shorter than that of every task."""
    longest = min(task.graph.cutoff for task in model.tasks.values())
    if not 0 < cutoff < longest:
        raise ConfigError(f"cutoff {cutoff:g} Å: give one between 0 and {longest:g} Å, the model's own")
    return cutoff


def check_units(model: BlockModel, names: Sequence[str]) -> None:
    """Raise ConfigError unless all names are of the model's fine units."""
    missing = [name for name in names if name not in model.fine_units]
    if missing:
        there = ", ".join(model.fine_units) or "nothing that is finer than its blocks"
        raise ConfigError(f"no unit {missing[0]!r} to leave out: the model has {there}")


def check_block_indices(indices: Sequence[int], num_blocks: int) -> tuple[int, ...]:
    """Return ``indices`` as a tuple; raises ConfigError unless they are ascending numbers from 1 to ``num_blocks``."""
    kept = tuple(indices)
    ascending = all(first < second for first, second in pairwise(kept))
    if not ascending or any(not 1 <= index <= num_blocks for index in kept):
        raise ConfigError(f"blocks to keep {list(kept)}: give ascending numbers from 1 to {num_blocks}")
    return kept
