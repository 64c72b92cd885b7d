"""The Lightning module: a block model, what it is to learn, its optimiser."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import lightning
import torch
from torch import Tensor, nn

from atomslim.atoms.sample import HESSIAN
from atomslim.compress.distill import hessian_rows, tasks_in
from atomslim.data.loader import Batch
from atomslim.models.block_model import BlockModel, Trace
from atomslim.models.losses import Term, loss_sums, weighted_mean
from atomslim.models.tasks import Task
from atomslim.train.optimiser import make_optimiser
from atomslim.train.options import OptimiserOptions

Summed = Callable[[Tensor], Tensor]
"""Adds numbers up over all processes."""


def attend(model: BlockModel, batch: Batch, tasks: Iterable[str] | None = None) -> Trace:
    """Return what a model that learns makes of a batch for ``tasks`` (default: all), with the graph of its gradients.

    The heads of tasks that do not occur run, too, so that each weight has a gradient (zero there); derivatives of
    their energies are not computed: forces stand as zeros, and stress, like that of molecules, as NaN.
    """
    trace = model.trace(batch.atoms, batch.topology, tasks_in(batch), normalised=True, create_graph=True)
    names = model.tasks if tasks is None else tasks
    return replace(trace, outputs={name: _complete(model, trace, model.task(name), batch) for name in names})


def _complete(model: BlockModel, trace: Trace, task: Task, batch: Batch) -> dict[str, Tensor]:
    found = trace.outputs.get(task.name) or model.raw_outputs(trace.readout, task)
    forces = task.of_kind("conservative_forces")
    if forces is None:
        return found
    zeros = torch.zeros_like(batch.atoms.positions).to(trace.readout.node)
    nothing = zeros.new_full((batch.atoms.num_structures, 3, 3), torch.nan)
    return {forces.name: zeros, "stress": nothing, **found}


class Objective(Protocol):
    """What a model is to learn from a batch."""

    def loss(self, model: BlockModel, batch: Batch, summed: Summed) -> Tensor:
        """Return this process's part of the loss; the sum over processes is the loss of the whole batch."""
        ...

    @property
    def learned(self) -> nn.Module:
        """Weights of the objective's own that are trained along, if any; the saved model does not have them."""
        ...


class Labels:
    """Learning from labels.

    Every task's heads run on every batch, so that each weight has a gradient (zero where a task is absent) and all
    processes agree on which weights take part; derivatives are those of the batch's tasks only.
    """

    def __init__(self, terms: Sequence[Term], hessian: float = 0.0) -> None:
        """Learn these terms, and rows of the Hessian with this weight of their mean absolute error in eV/Å²."""
        self.terms, self.hessian = list(terms), hessian
        self.learned = nn.Module()

    def loss(self, model: BlockModel, batch: Batch, summed: Summed) -> Tensor:
        """Return this process's part of the weighted mean error."""
        names = dict.fromkeys(term.task for term in self.terms)
        outputs = attend(model, batch, names).outputs
        sums = loss_sums(self.terms, outputs, batch)
        loss = weighted_mean(self.terms, sums, summed(torch.stack([part.count for part in sums])))
        return loss + self.hessian * curvature(model, batch, summed) if self.hessian else loss


def curvature(model: BlockModel, batch: Batch, summed: Summed) -> Tensor:
    """Return this process's part of the mean absolute error of the Hessian times the labels' directions, in eV/Å²."""
    label = batch.targets[HESSIAN]
    there = torch.isfinite(label).all(-1, keepdim=True)
    direction, wanted = torch.where(there, label, 0.0).split(3, dim=-1)
    ours = hessian_rows(model, batch, direction, create_graph=True)
    error = torch.where(there, (ours - wanted).abs(), 0.0)
    return error.sum() / (3 * summed(there.sum())).clamp(min=1)


class TrainingModule(lightning.LightningModule):
    """Computes the loss of a batch; with several processes, exactly that of the whole batch on one.

    ``terms`` say what is validated, and what is learned unless an objective of its own says so.
    """

    def __init__(
        self,
        model: BlockModel,
        terms: Sequence[Term],
        optimiser: OptimiserOptions,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.terms = list(terms)
        self.options = optimiser
        self.objective = objective or Labels(terms)
        self.learned = self.objective.learned

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW with a group for every trainable part."""
        return make_optimiser(self.model, self.options, list(self.learned.parameters()))

    def training_step(self, batch: Batch, _batch_index: int) -> Tensor:
        """Return the loss of this process's part, so scaled that the mean over processes is the batch's loss."""
        return self.objective.loss(self.model, batch, self.summed) * self.trainer.world_size

    def summed(self, values: Tensor) -> Tensor:
        """Add up numbers over all processes; they carry no gradient."""
        if self.trainer.world_size == 1:
            return values.detach()
        total: Any = self.trainer.strategy.reduce(values.detach().clone(), reduce_op="sum")
        return total
