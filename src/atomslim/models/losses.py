"""Losses on normalised errors, structure by structure, with missing labels left out.

| symbol | variable | meaning |
|---|---|---|
| x | raw | a head's number, or the derivative of the raw energy |
| y | label | the physical value, float64; NaN where a structure has none |
| μ + Σ E_Z | offset | mean and per-element references of the target |
| s | output_scale | physical = s · x + offset |
| σ | label_scale | spread of the labels |

error = (s x − (y − offset))/σ. One structure's loss is |error|, error², Huber's (δ = 1), or, for forces, the mean over
its atoms of the Euclidean norm ‖error‖₂ (arXiv 2310.16802: "structure-wise"). For binary labels (y is 1 or 0), it is
the binary cross-entropy of the logit z = s x + μ, −w y ln p − (1 − y) ln (1 − p) with p = 1/(1 + e^−z) and w the weight
of the positive class. The loss of a batch is the sum over targets of the weighted mean over the structures that have
the target, over all processes together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from atomslim.atoms import AtomsBatch
from atomslim.models.block_model import Predictions
from atomslim.models.outputs import physical
from atomslim.models.tasks import Target, Task

Loss = Literal["l1", "mse", "huber", "l2", "cross-entropy"]
"""Of one structure, see above; l2 is the norm of each atom's error, for forces, cross-entropy is for binary labels."""


class LabelledBatch(Protocol):
    """What the losses need to know of a batch."""

    @property
    def atoms(self) -> AtomsBatch:
        """The structures."""
        ...

    @property
    def tasks(self) -> Sequence[str]:
        """Task of each structure."""
        ...

    @property
    def targets(self) -> dict[str, Tensor]:
        """Labels by name: (b,), forces (n, 3), stress (b, 3, 3); NaN where a structure has none."""
        ...


@dataclass(frozen=True)
class Term:
    """One target of one task in the loss."""

    task: str
    name: str
    """Of the label and of the prediction."""
    weight: float
    loss: Loss
    output_scale: float
    label_scale: float
    offset: Target | None = None
    """The target whose mean and references are subtracted from the labels."""
    free_atoms_only: bool = True
    positive_weight: float = 1.0
    """For binary labels: factor on the loss of positive structures."""


@dataclass(frozen=True)
class LossSum:
    """Sum of a term's loss over the structures that have its label, and their number."""

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]


def loss_sums(terms: Sequence[Term], outputs: Predictions, batch: LabelledBatch) -> list[LossSum]:
    """Return what each term adds up to over this batch; ``outputs`` are normalised ones (raw numbers of the heads)."""
    return [_loss_sum(term, outputs[term.task][term.name], batch) for term in terms]


def weighted_mean(terms: Sequence[Term], sums: Sequence[LossSum], counts: Float[Tensor, " terms"]) -> Tensor:
    """Return Σ_terms weight · sum / N, N the number of structures that have this target in any task.

    ``counts`` are the terms' numbers of structures over all processes.
    """
    by_name: dict[str, Tensor] = {}
    for term, count in zip(terms, counts, strict=True):
        by_name[term.name] = by_name[term.name] + count if term.name in by_name else count
    parts = [term.weight * part.total / by_name[term.name].clamp(min=1) for term, part in zip(terms, sums, strict=True)]
    return torch.stack(parts).sum()


def _loss_sum(term: Term, raw: Tensor, batch: LabelledBatch) -> LossSum:
    label = batch.targets.get(term.name)
    if label is None:
        return LossSum(raw.sum() * 0.0, raw.new_zeros(()))
    of_task = torch.tensor([task == term.task for task in batch.tasks], device=label.device)
    if term.name == "forces":
        return _by_atom(term, raw, label, batch.atoms, of_task)
    if term.loss == "cross-entropy":
        return _cross_entropy(term, raw, label, of_task)
    if term.offset is not None:
        label = label - physical(torch.zeros_like(label), term.offset, batch.atoms)
    present = of_task & torch.isfinite(label.flatten(1) if label.dim() > 1 else label[:, None]).all(-1)
    usable = torch.isfinite(raw.detach().flatten(1)).all(-1) if term.name == "stress" else present
    error = _error(term, raw, label, present & usable)
    losses = _reduced(error.reshape(len(error), -1), term.loss)
    return LossSum(losses.sum(), (present & usable).sum().to(losses))


def _cross_entropy(
    term: Term, raw: Float[Tensor, " b"], label: Float[Tensor, " b"], of_task: Bool[Tensor, " b"]
) -> LossSum:
    """Compare logits with labels of 0 and 1; structures without a label add nothing."""
    present = of_task & torch.isfinite(label)
    mean = 0.0 if term.offset is None else term.offset.mean
    logit = torch.where(present, raw * term.output_scale + mean, 0.0)
    wanted = torch.where(present, label, 0.0).to(logit.dtype)
    weight = logit.new_tensor(term.positive_weight)
    losses = functional.binary_cross_entropy_with_logits(logit, wanted, reduction="none", pos_weight=weight)
    return LossSum(torch.where(present, losses, 0.0).sum(), present.sum().to(losses))


def _by_atom(
    term: Term, raw: Float[Tensor, "n 3"], label: Float[Tensor, "n 3"], atoms: AtomsBatch, of_task: Bool[Tensor, " b"]
) -> LossSum:
    """Average over each structure's atoms first, so that small and large structures count equally."""
    counted = of_task[atoms.batch] & torch.isfinite(label).all(-1)
    if term.free_atoms_only:
        counted = counted & ~atoms.fixed
    losses = _reduced(_error(term, raw, label, counted), term.loss)
    number = torch.bincount(atoms.batch[counted], minlength=atoms.num_structures).to(losses)
    by_structure = losses.new_zeros(atoms.num_structures).index_add(0, atoms.batch, losses) / number.clamp(min=1)
    return LossSum(by_structure.sum(), (number > 0).sum().to(losses))


def _error(term: Term, raw: Tensor, label: Tensor, present: Bool[Tensor, " rows"]) -> Tensor:
    """Return the normalised error, exactly zero in rows without a label."""
    mask = present.reshape(-1, *[1] * (raw.dim() - 1))
    wanted = torch.where(mask, label / term.label_scale, 0.0).to(raw.dtype)
    scaled = torch.where(mask, raw * (term.output_scale / term.label_scale), 0.0)
    return scaled - wanted


def _reduced(error: Float[Tensor, "rows columns"], loss: Loss) -> Float[Tensor, " rows"]:
    """Return one number for each row; rows of zeros give zero."""
    if loss == "l2":
        return torch.linalg.vector_norm(error, dim=-1)
    if loss == "mse":
        return error.square().mean(-1)
    if loss == "huber":
        return functional.huber_loss(error, torch.zeros_like(error), reduction="none").mean(-1)
    return error.abs().mean(-1)


def task_terms(task: Task, *, force_weight: float = 1.0) -> list[Term]:
    """Return the loss of a task's own targets: absolute errors, per-atom norms of forces, binary cross-entropy.

    Errors are relative to each target's ``std``; those of conservative forces, which have none, are in eV/Å.
    """
    energy = task.of_kind("energy")
    terms = []
    for target in task.targets:
        if target.kind == "conservative_forces" and energy is not None:
            terms.append(Term(task.name, target.name, force_weight, "l2", energy.std, 1.0))
        elif target.kind == "direct_forces":
            terms.append(Term(task.name, target.name, force_weight, "l2", target.std, target.std))
        elif target.kind == "binary":
            terms.append(Term(task.name, target.name, 1.0, "cross-entropy", target.std, target.std, target))
        else:
            terms.append(Term(task.name, target.name, 1.0, "l1", target.std, target.std, target))
    return terms
