"""What is learned and how: the Lightning module, objectives, AdamW, learning rates, averages of the weights."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Protocol

import lightning
import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomslim.atoms.batch import LAST_ELEMENT
from atomslim.atoms.sample import ENERGIES, HESSIAN
from atomslim.compress.distill import hessian_rows, tasks_in
from atomslim.data.loader import Batch
from atomslim.errors import ConfigError
from atomslim.models.atom_energies import energies_of_atoms
from atomslim.models.block_model import BlockModel, Trace
from atomslim.models.losses import Term, loss_sums, weighted_mean
from atomslim.models.tasks import Task
from atomslim.train.options import OptimiserOptions, ScheduleOptions
from atomslim.train.run_state import Budget, Clock


def rate_of_part(part: str, model: BlockModel, options: OptimiserOptions) -> float:
    """Return the factor on the learning rate for ``embedding``, ``block 2``, ``readout`` or ``head NAME``.

    Rates know blocks by their number in the original model, so that pruned models keep the rates of their blocks.
    """
    rates = options.rates
    if rates is None:
        rates = dict(model.family.rates) if model.family is not None else {}
    if part.startswith("block "):
        part = f"block {model.block_ids[int(part.removeprefix('block ')) - 1]}"
    return rates.get(part, 1.0)


def make_optimiser(
    model: BlockModel, options: OptimiserOptions, others: Sequence[nn.Parameter] = ()
) -> torch.optim.AdamW:
    """Freeze parameter groups, and return AdamW with one group for each trainable one.

    ``others`` are weights outside the model that are trained as well. Every group has its factor under
    ``rate``. Raises ConfigError for an unknown parameter group, or nothing to train.
    """
    parts = model.parts()
    for name in options.freeze:
        _freeze(name, parts)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "name": part, "rate": rate_of_part(part, model, options)}
        for part, modules in parts.items()
        if (parameters := [weight for weight in _parameters(modules) if weight.requires_grad])
    ]
    if not groups:
        raise ConfigError("all parameter groups are frozen: leave one to train")
    if others:
        groups.append({"params": list(others), "name": "objective", "rate": 1.0})
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, weight_decay=options.weight_decay)


def set_rates(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its learning rate: ``rate`` times its own factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]


def _freeze(name: str, parts: dict[str, list[nn.Module]]) -> None:
    if name not in parts:
        near = get_close_matches(name, parts, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(parts)}"
        raise ConfigError(f"freeze {name!r}: the model has no such parameter group ({hint})")
    for weight in _parameters(parts[name]):
        weight.requires_grad_(False)


def _parameters(modules: list[nn.Module]) -> Iterator[nn.Parameter]:
    for module in modules:
        yield from module.parameters()


@dataclass
class Plateau:
    """Lowers the rate by a factor when `patience` validations in a row brought no improvement."""

    factor: float
    patience: int
    scale: float = 1.0
    best: float = math.inf
    waited: int = 0

    def observe(self, value: float) -> None:
        """Take in the result of one validation, smaller is better."""
        if value < self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale *= self.factor
            self.waited = 0

    def state(self) -> dict[str, float]:
        """What changes during a run."""
        return {"scale": self.scale, "best": self.best, "waited": self.waited}


def rate_factor(options: ScheduleOptions, budget: Budget, clock: Clock) -> float:
    """Return the current factor on the learning rate, without the plateau's.

    With u the completed fraction of the warm-up and c that of the cosine:
    f = f₀ + (1 − f₀) u during the warm-up, then f = f₁ + (1 − f₁)(1 + cos πc)/2, and f₁ after the cosine. The cosine
    counts from the start of the run, as in JMP, so that at the end of the warm-up it is a little below one.
    """
    warm = budget.used(options.warmup, clock)
    if warm < 1:
        return options.warmup_factor + (1 - options.warmup_factor) * warm
    if options.cosine is None:
        return 1.0
    cosine = min(budget.used(options.cosine, clock), 1.0)
    return options.cosine_factor + (1 - options.cosine_factor) * (1 + math.cos(math.pi * cosine)) / 2


def plateau_rules(options: ScheduleOptions, budget: Budget, clock: Clock) -> bool:
    """Say whether only the plateau still lowers the rate: warm-up and cosine are over."""
    parts = [options.warmup] if options.cosine is None else [options.warmup, options.cosine]
    return all(budget.used(part, clock) >= 1 for part in parts)


class Averages:
    """a ← d a + (1 − d) w after every step, for every trainable weight w."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the averages with the weights after a step."""
        for name, weight in model.named_parameters():
            self.values[name].lerp_(weight, 1 - self.decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averages into the model temporarily; its own weights are restored exactly."""
        own = {name: weight.data for name, weight in model.named_parameters()}
        for name, weight in model.named_parameters():
            weight.data = self.values[name]
        try:
            yield
        finally:
            for name, weight in model.named_parameters():
                weight.data = own[name]

    def state(self) -> dict[str, Tensor]:
        """All averages by the weight's name."""
        return self.values

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over saved averages."""
        for name, value in state.items():
            self.values[name].copy_(value)


Summed = Callable[[Tensor], Tensor]
"""Adds numbers up over all processes."""


def attend(model: BlockModel, batch: Batch, tasks: Iterable[str] | None = None) -> Trace:
    """Return the outputs of a model in training for ``tasks`` (default: all), with the graph of its gradients.

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
    """The loss of a batch."""

    def loss(self, model: BlockModel, batch: Batch, summed: Summed) -> Tensor:
        """Return this process's part of the loss; the sum over processes is the loss of the whole batch."""
        ...

    @property
    def learned(self) -> nn.Module:
        """Weights of the objective that are trained as well, if any; the saved model does not have them."""
        ...


class Labels:
    """Learning from labels.

    Every task's heads run on every batch, so that each weight has a gradient (zero where a task is absent) and all
    processes agree on which weights take part; derivatives are those of the batch's tasks only.
    """

    def __init__(self, terms: Sequence[Term], hessian: float = 0.0, energies: float = 0.0) -> None:
        """Take the terms of the loss.

        ``hessian`` and ``energies`` are weights of the mean absolute errors of rows of the Hessian (eV/Å²), and of
        energies of atoms (eV) by the first term's task.
        """
        self.terms, self.hessian, self.energies = list(terms), hessian, energies
        self.learned = nn.Module()

    def loss(self, model: BlockModel, batch: Batch, summed: Summed) -> Tensor:
        """Return this process's part of the weighted mean error."""
        names = dict.fromkeys(term.task for term in self.terms)
        trace = attend(model, batch, names)
        sums = loss_sums(self.terms, trace.outputs, batch)
        loss = weighted_mean(self.terms, sums, summed(torch.stack([part.count for part in sums])))
        if self.energies:
            ours = energies_of_atoms(model, trace.readout, model.task(self.terms[0].task))
            loss = loss + self.energies * sharing(ours, batch, summed).to(loss)
        return loss + self.hessian * curvature(model, batch, summed) if self.hessian else loss


def sharing(ours: Float[Tensor, " n"], batch: Batch, summed: Summed) -> Tensor:
    """Return this process's part of the mean absolute error of energies of atoms, in eV.

    A common shift of all atoms of an element is ignored: only energies of structures determine it.
    """
    label, numbers = batch.targets[ENERGIES], batch.atoms.numbers
    there = torch.isfinite(label)
    difference = torch.where(there, ours - label, 0.0)
    own = torch.stack([there.to(difference), difference.detach()], dim=1)
    count, total = summed(own.new_zeros(LAST_ELEMENT + 1, 2).index_add(0, numbers, own)).unbind(1)
    error = torch.where(there, (difference - (total / count.clamp(min=1))[numbers]).abs(), 0.0)
    return error.sum() / count.sum().clamp(min=1)


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

    ``terms`` define validation, and training unless there is another objective.
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
        """Return AdamW with a group for every trainable parameter group."""
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
