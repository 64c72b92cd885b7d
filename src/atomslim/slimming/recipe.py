"""How a student is built, as plain data: where it starts, what is left out, and how its forces are made."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms

from atomslim.atoms import from_ase
from atomslim.compress.cuts import Cut
from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.family import Family
from atomslim.models.model_file import load
from atomslim.models.registry import family
from atomslim.models.scope import known_elements
from atomslim.models.tasks import Task, energy_and_forces
from atomslim.train.start import with_tasks

Forces = Literal["conservative", "direct"]

NAME = "student"
"""The task of a model with random weights."""

_FITTED_ON = 8
"""Most structures for the fit of a model with random weights."""


@dataclass(frozen=True)
class Recipe:
    """How a student is built before it is trained."""

    start: str
    """A model's name or file; of random weights, ``FAMILY SIZE``."""
    forces: Forces
    fresh: bool = False
    """Whether weights are random."""
    blocks: tuple[int, ...] | None = None
    """Kept blocks, by their numbers in the original; None: all."""
    without: tuple[str, ...] = ()
    """Finer units that are left out."""
    cutoff: float | None = None
    """Å; None: unchanged."""
    seed: int = 0
    """Seed of random weights."""

    def build(self, structures: Sequence[Atoms], start: BlockModel | None = None) -> BlockModel:
        """Build the student, ready for fine-tuning with these forces.

        Args:
            structures: a new model's scale factors are fitted on some of them; others ignore them.
            start: the model named ``start``, where it is loaded already.

        Raises:
            ConfigError: something that the model does not have.
            CheckpointError: a model file that cannot be read.

        """
        if self.fresh:
            return self._drawn(structures)
        model = load(self.start) if start is None else start
        cut = Cut(model.block_ids if self.blocks is None else self.blocks, self.without, self.cutoff)
        return model if cut == Cut(model.block_ids) else cut.of(model)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> "Recipe":
        """Return what `as_dict` gave, also once it has been JSON."""
        blocks = plain["blocks"]
        return cls(
            **{
                **plain,
                "blocks": None if blocks is None else tuple(blocks),
                "without": tuple(plain["without"]),
            }
        )

    def _drawn(self, structures: Sequence[Atoms]) -> BlockModel:
        name, _, size = self.start.partition(" ")
        of = family(name)
        if size not in of.fresh_sizes():
            raise ConfigError(f"{self.start}: {of.title} has no such size: {', '.join(of.fresh_sizes()) or 'none'}")
        config, graph = of.fresh_sizes()[size]
        task = energy_and_forces(NAME, forces=self.forces, graph=graph)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = of.fresh(config, [task], {}).eval()
        _fit(of, model, structures)
        model.history = [{"operation": "draw weights", "changes outputs": True, "size": size, "seed": self.seed}]
        return model


def _fit(of: Family, model: BlockModel, structures: Sequence[Atoms]) -> None:
    """Fit what is fitted before training, if there is something to fit on."""
    some = list(structures[:: max(1, len(structures) // _FITTED_ON)][:_FITTED_ON])
    if some and not of.is_fitted(model):
        batch = from_ase([*some, *map(_of_many_elements, some)])
        of.fit(model, batch, model.topology(batch, NAME))


def _of_many_elements(atoms: Atoms) -> Atoms:
    """Return a copy with elements at random: identical atoms have no variance to scale by."""
    copy = atoms.copy()
    copy.numbers = np.random.default_rng(0).integers(1, 55, len(copy))
    return copy


def with_random_weights(model: BlockModel, seed: int = 0) -> BlockModel:
    """Return a copy whose weights are redrawn from normal distributions with the mean square of those they replace.

    So signals keep their scale in every family. Biases and other vectors, scales and references stay: they are fitted
    to data before training, too.
    """
    new, random = copy.deepcopy(model), np.random.default_rng(seed)
    with torch.no_grad():
        for weight in new.parameters():
            if weight.dim() > 1:
                drawn = torch.from_numpy(random.standard_normal(tuple(weight.shape)))
                weight.copy_(drawn * weight.double().square().mean().sqrt())
    new.history = [*model.history, {"operation": "draw weights", "changes outputs": True, "seed": seed}]
    return new


def as_trained(model: BlockModel, forces: Forces, elements: set[int]) -> BlockModel:
    """Return a student with the one task that training gives it: energies and forces, with its existing heads.

    Raises ConfigError for elements that no task of the model knows, and forces that it cannot have.
    """
    tasks = list(model.tasks.values())
    known = {task.name: known_elements(model.history, task) for task in tasks}
    best = min(tasks, key=lambda task: (bool(known[task.name] and elements - known[task.name]), not _has(task, forces)))
    wanted = energy_and_forces(NAME, forces=forces, graph=best.graph)
    return with_tasks(model, [wanted], reuse=best.name if _has(best, forces) else None)


def _has(task: Task, forces: Forces) -> bool:
    return task.of_kind("energy") is not None and (task.direct or forces == "conservative")


def unknown_elements(model: BlockModel, elements: set[int]) -> set[int]:
    """Return the elements that no task of a model was trained on; empty if unknown."""
    known = [known_elements(model.history, task) for task in model.tasks.values()]
    return set() if not all(known) else elements - set().union(*known)
