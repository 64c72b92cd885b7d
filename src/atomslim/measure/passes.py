"""The passes whose cost is measured.

| mode | what runs |
|---|---|
| energy | a prediction without forces: no derivative, no head for forces |
| forces | a prediction of everything that the task has |
| train | a training step without the optimiser: prediction, loss against zeros, gradients of all weights |

Precision 32 leaves the model as it is; bf16 lets torch's autocast narrow the dense layers, as training does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.errors import ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.losses import loss_sums, task_terms, weighted_mean
from atomslim.models.tasks import Task

Mode = Literal["energy", "forces", "train"]
Precision = Literal["32", "bf16"]


@dataclass(frozen=True)
class Job:
    """One kind of pass through one model."""

    model: BlockModel
    task: str
    mode: Mode = "forces"
    precision: Precision = "32"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the dense layers compute in."""
        return torch.bfloat16 if self.precision == "bf16" else next(self.model.parameters()).dtype

    def problem(self) -> str | None:
        """Say why there is no such pass, or None."""
        task = self.model.task(self.task)
        if self.mode == "forces" and not (task.direct or task.conservative):
            return f"task {task.name} has no forces"
        if self.mode == "energy" and not _without_forces(task).targets:
            return f"task {task.name} has nothing but forces"
        if self.precision == "bf16" and self.mode != "energy" and task.conservative:
            return f"derivatives need full precision, and the forces of task {task.name} are conservative"
        return None

    def on(self, batch: AtomsBatch, topology: Any) -> Callable[[], object]:
        """Return the pass over a batch with its graphs, as a function; the model's weights and gradients stay."""
        made = {"energy": _energy, "forces": _everything, "train": _training}[self.mode]
        run = made(self.model, batch, topology, self.model.task(self.task))

        def narrowed() -> object:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                return run()

        return narrowed


@dataclass(frozen=True)
class _Zeros:
    """A batch all of whose labels are zero."""

    atoms: AtomsBatch
    tasks: tuple[str, ...]
    targets: dict[str, Tensor]


def _energy(model: BlockModel, batch: AtomsBatch, topology: Any, task: Task) -> Callable[[], object]:
    plain = _without_forces(task)

    def run() -> object:
        with torch.no_grad():
            readout = model.read(model.features(batch, topology))
            return model.physical_outputs(model.raw_outputs(readout, plain), plain, batch)

    return run


def _everything(model: BlockModel, batch: AtomsBatch, topology: Any, task: Task) -> Callable[[], object]:
    return lambda: model.predict(batch, task.name, topology)


def _training(model: BlockModel, batch: AtomsBatch, topology: Any, task: Task) -> Callable[[], object]:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise ConfigError("a training step: all weights of the model are frozen; let some be trained")
    terms = task_terms(task)
    shapes = {name: batch.positions.shape if name == "forces" else (batch.num_structures,) for name in _names(task)}
    zeros = {name: batch.positions.new_zeros(shape) for name, shape in shapes.items()}
    labelled = _Zeros(batch, (task.name,) * batch.num_structures, zeros)

    def run() -> object:
        was_training = model.training
        model.train()
        try:
            sums = loss_sums(terms, model(batch, topology, [task.name], normalised=True), labelled)
            loss = weighted_mean(terms, sums, torch.stack([part.count for part in sums]))
            return torch.autograd.grad(loss, weights, allow_unused=True)
        finally:
            model.train(was_training)

    return run


def _names(task: Task) -> list[str]:
    return [target.name for target in task.targets]


def _without_forces(task: Task) -> Task:
    return task.model_copy(update={"targets": tuple(part for part in task.targets if "forces" not in part.kind)})
