"""The passes whose cost is measured.

| mode | what runs |
|---|---|
| energy | a prediction without forces: no derivative, nothing that only forces are read from |
| forces | a prediction of everything that the task has |
| train | a training step: prediction, loss against zeros, gradients of all weights, clipping, AdamW |

Their precision is one of the policies or number formats of `atomslim.models.precision`. A training step in a
narrow format computes in it as Lightning's mixed precision does: the prediction and the loss, with scaled gradients in
fp16.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch
from atomslim.errors import AtomslimError, ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.losses import loss_sums, task_terms, weighted_mean
from atomslim.models.precision import NARROW, Format, Precision, computing, format_of, refusal
from atomslim.models.tasks import Task
from atomslim.threads import fitting_threads

Mode = Literal["energy", "forces", "train"]

CLIP = 1.0
"""Largest norm of the gradients of a training step."""


@dataclass(frozen=True)
class Job:
    """One kind of pass through one model."""

    model: BlockModel
    task: str
    mode: Mode = "forces"
    precision: Precision | None = None
    """None: the model's."""

    @property
    def weight(self) -> Tensor:
        """One of the model's weights: all are on one device, in one dtype."""
        return next(self.model.parameters())

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.weight.device

    @property
    def format(self) -> Format:
        """The precision; raises ConfigError if the weights or the device do not allow it."""
        return format_of(self.precision or self.model.precision, self.weight)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the dense layers."""
        return NARROW.get(self.format, self.weight.dtype)

    def problem(self) -> str | None:
        """Say why there is no such pass, or None."""
        task = self.model.task(self.task)
        if self.mode == "forces" and not (task.direct or task.conservative):
            return f"task {task.name} has no forces"
        if self.mode == "energy" and not _without_forces(task).targets:
            return f"task {task.name} has nothing but forces"
        refused = refusal(self.precision or self.model.precision, self.weight)
        if refused is not None or not task.conservative or self.mode == "energy":
            return refused
        if self.format == "fp16" or (self.format == "bf16" and self.mode == "train"):
            return f"derivatives need a wider format, and the forces of task {task.name} are conservative"
        return None

    def on(self, batch: AtomsBatch, topology: Any) -> Callable[[], object]:
        """Return the pass over a batch with its graphs, as a function; the model's weights and gradients stay."""
        made = {"energy": _energy, "forces": _everything, "train": _training}[self.mode]
        run = made(self, batch, topology)

        def fitting() -> object:
            with fitting_threads(self.model, batch.num_atoms):
                return run()

        return fitting


@dataclass(frozen=True)
class _Zeros:
    """A batch all of whose labels are zero."""

    atoms: AtomsBatch
    tasks: tuple[str, ...]
    targets: dict[str, Tensor]


def _energy(job: Job, batch: AtomsBatch, topology: Any) -> Callable[[], object]:
    model, task = job.model, _without_forces(job.model.task(job.task))

    def run() -> object:
        with torch.no_grad(), computing(job.format, job.device):
            readout = model.read(model.features(batch, topology, edges=False))
            return model.physical_outputs(model.raw_outputs(readout, task), task, batch)

    return run


def _everything(job: Job, batch: AtomsBatch, topology: Any) -> Callable[[], object]:
    return lambda: job.model.predict(batch, job.task, topology, precision=job.precision)


def _training(job: Job, batch: AtomsBatch, topology: Any) -> Callable[[], object]:
    """Return a training step with learning rate zero: it costs as much as any step, and keeps the weights."""
    model, number_format = job.model, job.format
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise ConfigError("a training step: all weights of the model are frozen; let some be trained")
    optimiser = torch.optim.AdamW(weights, lr=0.0)
    scaler = torch.amp.GradScaler(job.device.type, enabled=number_format == "fp16")
    terms, labelled = task_terms(model.task(job.task)), _zeros(batch, model.task(job.task))

    def run() -> None:
        with _trained(model, weights):
            optimiser.zero_grad()
            with computing(number_format, job.device):
                outputs = model(batch, topology, [job.task], normalised=True, create_graph=True)
                sums = loss_sums(terms, outputs, labelled)
                loss = weighted_mean(terms, sums, torch.stack([part.count for part in sums]))
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            norm = nn.utils.clip_grad_norm_(weights, CLIP)
            if not scaler.is_enabled() and not bool(norm.isfinite()):
                raise AtomslimError("a training step gives gradients that are not finite: check the model's weights")
            scaler.step(optimiser)
            scaler.update()

    return run


@contextmanager
def _trained(model: BlockModel, weights: list[nn.Parameter]) -> Iterator[None]:
    """Put the model into training mode, and afterwards restore its mode and its gradients."""
    was_training, gradients = model.training, [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    model.train()
    try:
        yield
    finally:
        model.train(was_training)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient


def _zeros(batch: AtomsBatch, task: Task) -> _Zeros:
    shapes = {"forces": batch.positions.shape}
    targets = {
        target.name: batch.positions.new_zeros(shapes.get(target.name, (batch.num_structures,)))
        for target in task.targets
    }
    return _Zeros(batch, (task.name,) * batch.num_structures, targets)


def _without_forces(task: Task) -> Task:
    return task.model_copy(update={"targets": tuple(part for part in task.targets if "forces" not in part.kind)})
