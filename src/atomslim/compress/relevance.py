"""Block relevance: which interaction blocks a trained model needs least (arXiv 2504.19538, Fig. 2).

    scores = atomslim.block_relevance(model, {"oc20": "xyz:frames.xyz"})
    scores.plot("relevance.png")

The paper's score is GradCAM's: with L₀ = Σ_targets α |error|/σ on labelled data, r = ReLU(f ⊙ ∂L₀/∂f), averaged over
the features of a block and over the atoms (edges) of a batch. Node scores and edge scores are divided by their sums
over blocks; their mean is the normalised sum of both. The mix is the mean of the tasks' normalised scores.

For comparison: the first-order Taylor score, the influence of a block on the features (1 − cosine), and the
actual errors when a block is left out and the readout sliced. Finer units are scored on the same scales, and a shorter
cutoff or fewer channels by their effect on the errors. Only measures; changes nothing.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from atomslim.arguments import checked
from atomslim.atoms import Sample
from atomslim.compress import scores
from atomslim.compress.block_scores import Score, TaskRelevance
from atomslim.compress.cutoff import require_cutoffs, with_cutoff
from atomslim.compress.prune import keep_blocks
from atomslim.compress.relevance_report import Relevance
from atomslim.compress.width import checked_widths, narrow
from atomslim.data.loader import Batch
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.evaluation.batches import TaskedData, batches, datasets, spread_out
from atomslim.evaluation.errors import Errors
from atomslim.evaluation.evaluate import evaluate
from atomslim.evaluation.reference_gap import on_reference_of
from atomslim.models.block_model import BlockModel
from atomslim.models.family import Change
from atomslim.models.losses import Term, loss_sums, task_terms, weighted_mean
from atomslim.models.modes import differentiable
from atomslim.models.scope import Watch
from atomslim.progress import tracked

BRANCHES = ("node", "edge")

_BY_GRADIENT = {"gradcam", "taylor"}
"""Scores that depend on a gradient of the loss."""


@dataclass
class _Rows:
    """Scores of the batches so far: one row of blocks per batch, by score and branch."""

    found: dict[str, dict[str, list[Tensor]]]

    def add(self, score: str, branch: str, value: Float[Tensor, " blocks"]) -> None:
        self.found.setdefault(score, {}).setdefault(branch, []).append(value.detach().double().cpu())

    def score(self, name: str) -> dict[str, Score]:
        return {branch: Score.of(torch.stack(rows).numpy()) for branch, rows in self.found.get(name, {}).items()}


@checked
def block_relevance(  # noqa: PLR0913 - what is scored, and how
    model: BlockModel,
    data: TaskedData,
    *,
    limit: int | None = 256,
    batch_size: int = 8,
    force_weight: float = 1.0,
    leave_out: bool = True,
    cutoffs: Sequence[float] = (),
    widths: Mapping[str, float] | None = None,
    options: dict[str, str] | None = None,
    strict: bool = False,
) -> Relevance:
    """Score every block and finer unit of a model on labelled data.

    Args:
        model: the model; blocks are named as in the original model (`block_ids`), the embedding is 0.
        data: labelled structures, by task if the model has several.
        limit: at most this many structures per task, evenly spaced over its data.
        batch_size: structures per batch; scores are means over batches, and their spread is over batches.
        force_weight: α of forces; everything else has weight 1.
        leave_out: also measure the errors without each block or finer unit, and with each cutoff (one evaluation each).
        cutoffs: also measure errors with these shorter cutoffs (Å), everything else unchanged.
        widths: also measure errors with these smaller widths, one at a time: channels to keep, or a fraction of them
            below 1. They are chosen on the same structures, without their labels.
        options: options of the datasets' readers.
        strict: refuse structures outside of what a task was trained on, or with a charge or spin.

    Raises:
        ConfigError: a model without blocks, a task that it does not have, data without a task's name where there
            are several, or cutoffs or widths that the model cannot have.
        DataError: a dataset that is missing or broken, or one without labels.

    """
    if not model.num_blocks:
        raise ConfigError("the model has no interaction blocks that could be scored: give the model before it was cut")
    if (cutoffs or widths) and not leave_out:
        what = "cutoffs" if cutoffs else "widths"
        raise ConfigError(f"{what} are only scored by their errors: leave them out, or measure leave-out")
    cutoffs = tuple(dict.fromkeys(cutoffs))
    require_cutoffs(model, cutoffs)
    sizes = checked_widths(model, widths) if widths else {}
    named = datasets(model, data, options)
    samples = {
        name: list(Watch.over(model, name, strict=strict).samples(spread_out(dataset, limit)))
        for name, dataset in named.items()
    }
    smaller = chain(
        (with_cutoff(model, cutoff) for cutoff in cutoffs),
        (narrow(model, {name: size}, samples, batch_size=batch_size) for name, size in sizes.items()),
    )
    left = _errors_by_task(smaller, model, samples, batch_size) if leave_out else dict.fromkeys(samples)
    tasks = {
        name: replace(_task_relevance(model, name, given, batch_size, force_weight, left[name]), data=named[name].name)
        for name, given in samples.items()
    }
    for name, found in tasks.items():
        if found.answers_labels:
            warnings.warn(
                f"task {name}: the labels are the model's own answers, so that its loss and the loss's gradients are "
                "rounding: use leave-out and influence only, or give other labels for GradCAM and Taylor",
                AtomslimWarning,
                stacklevel=2,
            )
    others = [f"cutoff {cutoff:g} Å" for cutoff in cutoffs] + [f"{name} {size}" for name, size in sizes.items()]
    return Relevance((0, *model.block_ids), tasks, (*model.fine_units, *others))


def batch_scores(model: BlockModel, batch: Batch, terms: Sequence[Term]) -> dict[str, dict[str, Tensor]]:
    """Return score → branch → (b + 1,) of one batch, embedding first; a branch without atoms or edges is left out.

    Under "unit" are the scores of the model's ``fine_units``, NaN where a family has none.

    Raises DataError if no structure of the batch has a label of the terms.
    """
    names = list(dict.fromkeys(term.task for term in terms))
    noting: AbstractContextManager[dict[str, list[Change]]] = (
        nullcontext({}) if model.family is None else model.family.unit_changes(model)
    )
    with differentiable(model), noting as changes:
        trace = model.trace(batch.atoms, batch.topology, names, normalised=True, create_graph=True)
        sums = loss_sums(terms, trace.outputs, batch)
        counts = torch.stack([part.count for part in sums])
        if not bool(counts.any()):
            raise DataError(f"{batch.names[0]}: has no label of task {names[0]}: relevance needs labelled structures")
        loss = weighted_mean(terms, sums, counts.detach())
        by_branch = {"node": trace.features.node, "edge": trace.features.edge}
        features = [block for branch in BRANCHES for block in by_branch[branch]]
        features += [change.after for unit in changes.values() for change in unit]
        gradients = iter(torch.autograd.grad(loss, features, materialize_grads=True, allow_unused=True))
    found: dict[str, dict[str, Tensor]] = {"gradcam": {}, "taylor": {}, "influence": {}}
    for branch, blocks in by_branch.items():
        values = [block.detach() for block in blocks]
        slopes = [next(gradients) for _ in blocks]
        if any(len(value) for value in values):
            found["gradcam"][branch] = scores.gradcam(values, slopes)
            found["taylor"][branch] = scores.taylor(values, slopes)
            found["influence"][branch] = scores.influence(values)
    if model.fine_units:
        atoms = batch.atoms.num_atoms
        by_unit = {
            name: scores.unit_scores(unit, [next(gradients) for _ in unit], atoms) for name, unit in changes.items()
        }
        missing = (loss.new_tensor(torch.nan),) * 2
        both = zip(*(by_unit.get(name, missing) for name in model.fine_units), strict=True)
        found["gradcam"]["unit"], found["taylor"]["unit"] = (torch.stack(values) for values in both)
    return found


def _task_relevance(
    model: BlockModel,
    task: str,
    samples: list[Sample],
    batch_size: int,
    force_weight: float,
    smaller: Sequence[dict[str, Errors]] | None,
) -> TaskRelevance:
    """Score the blocks on a task; errors of smaller cutoffs and widths are None where nothing is left out."""
    samples = on_reference_of(model, task, samples)
    terms = task_terms(model.task(task), force_weight=force_weight)
    rows = _Rows({})
    mean_size = len(samples) / -(-len(samples) // batch_size)
    given = batches(model, task, samples, batch_size)
    for batch in tracked(given, f"scores of blocks, {task}", len(samples), size=len):
        if not _labelled(batch, terms):
            continue
        for score, by_branch in batch_scores(model, batch, terms).items():
            # the loss is a mean, so that gradients are larger in a last batch of fewer structures
            share = len(batch) / mean_size if score in _BY_GRADIENT else 1.0
            for branch, value in by_branch.items():
                rows.add(score, branch, share * value)
    left, others = smaller is not None, smaller or ()
    errors = _errors([model], task, samples, batch_size)[0] if left else {}
    without = _errors(_without_each(model), task, samples, batch_size, model.num_blocks) if left else []
    units = _without_each_unit(model)
    finer = [*_errors(units, task, samples, batch_size, len(model.fine_units)), *others] if left else []
    found = {name: rows.score(name) for name in ("gradcam", "taylor", "influence")}
    by_unit = {name: by_branch.pop("unit") for name, by_branch in found.items() if "unit" in by_branch}
    return TaskRelevance(
        structures=len(samples),
        gradcam=found["gradcam"],
        taylor=found["taylor"],
        influence=found["influence"],
        units={name: score.followed_by(len(others)) for name, score in by_unit.items()},
        errors=errors,
        left_out={name: _changes(name, error, without) for name, error in errors.items()},
        units_left_out={name: _changes(name, error, finer)[1:] for name, error in errors.items()},
    )


def _labelled(batch: Batch, terms: Sequence[Term]) -> bool:
    """Whether each structure of the batch has a label of the loss; the others do not count."""
    return any(bool(batch.present[term.name].any()) for term in terms if term.name in batch.present)


def _without_each(model: BlockModel) -> Iterator[BlockModel]:
    """Give the model without block 1, without block 2, …."""
    for removed in model.block_ids:
        yield keep_blocks(model, [block for block in model.block_ids if block != removed])


def _without_each_unit(model: BlockModel) -> Iterator[BlockModel]:
    """Give the model without each of its finer units."""
    for unit in model.fine_units:
        yield keep_blocks(model, model.block_ids, without=[unit])


def _errors_by_task(
    models: Iterable[BlockModel], model: BlockModel, samples: Mapping[str, list[Sample]], batch_size: int
) -> dict[str, list[dict[str, Errors]]]:
    """Return the errors of models on all tasks; one model at a time is in memory."""
    given = {task: on_reference_of(model, task, some) for task, some in samples.items()}
    found = [{task: _errors([one], task, some, batch_size)[0] for task, some in given.items()} for one in models]
    return {task: [errors[task] for errors in found] for task in samples}


def _errors(
    models: Iterable[BlockModel], task: str, samples: list[Sample], batch_size: int, total: int = 1
) -> list[dict[str, Errors]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AtomslimWarning)  # said once, for the whole model
        shown = tracked(models, f"errors without each block, {task}", total, unit="models")
        return [evaluate(model, samples, task=task, batch_size=batch_size).errors for model in shown]


def _changes(name: str, full: Errors, without: list[dict[str, Errors]]) -> NDArray[np.float64]:
    """Return what leaving out each block adds to the MAE (log loss of labels), (b + 1,); NaN for the embedding."""
    return np.array([np.nan, *(errors[name].smooth_error - full.smooth_error for errors in without)])
