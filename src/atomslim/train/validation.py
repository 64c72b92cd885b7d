"""Errors of a model, and of predicting the mean, on a set of each task."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from atomslim.data.loader import Batch, TopologyBuilder
from atomslim.errors import DataError
from atomslim.evaluation.accuracy import PER_ATOM, Accuracy, Errors
from atomslim.models.block_model import BlockModel
from atomslim.models.losses import Term
from atomslim.models.outputs import physical
from atomslim.train.feed import ordered_batches
from atomslim.train.options import RunOptions
from atomslim.train.tasks import LearningTask, Part

Results = dict[str, dict[str, Errors]]
"""Task → target → errors."""

SMALLEST_MAE = 1e-9
"""Smaller mean absolute errors, in the target's unit, count as this much."""


@dataclass(frozen=True)
class Processes:
    """One process among those that share a set."""

    rank: int = 0
    size: int = 1
    summed: Callable[[Tensor], Tensor] = torch.clone
    """Adds numbers up over all processes."""
    device: torch.device | str = "cpu"


def model_errors(
    model: BlockModel, tasks: Sequence[LearningTask], part: Part, options: RunOptions, processes: Processes
) -> Results:
    """Return the model's errors on a set of every task, in full precision; leaves the model's mode as it was."""
    with _evaluating(model):
        predict = partial(_predictions, model)
        return {task.name: _errors(model.topology, task, part, options, processes, predict) for task in tasks}


def mean_errors(tasks: Sequence[LearningTask], part: Part, options: RunOptions, processes: Processes) -> Results:
    """Return the errors of predicting the training labels' mean and references, and no forces or stress."""
    return {task.name: _errors(None, task, part, options, processes, partial(_means, task)) for task in tasks}


def score(results: Results, mean: Results, terms: Sequence[Term]) -> float:
    """Return what is minimised: the geometric mean of MAE / MAE of predicting the mean, weighted as in the loss.

    Halving the error of any target counts alike, however far it is from being learned: in a mean of the ratios
    themselves, those that cannot be learned would decide.
    """
    weighted = [
        (term.weight, _ratio(results[term.task][term.name].mae, mean[term.task][term.name].mae))
        for term in terms
        if term.weight and term.name in results[term.task]
    ]
    total = sum(weight for weight, _ in weighted)
    if not total:
        raise DataError("no target that has a weight is labelled in validation: choose another set, or other weights")
    return math.exp(sum(weight * math.log(ratio) for weight, ratio in weighted) / total)


def _ratio(error: float, mean: float) -> float:
    """Return how large an error is beside that of predicting the mean; both may be zero on very few structures."""
    return max(error, SMALLEST_MAE) / max(mean, SMALLEST_MAE)


def before_first_step(results: Results, mean: Results) -> list[str]:
    """Say for every task what the model has before it learns, beside predicting the mean."""
    return [
        f"{task}, before the first step (and predicting the mean): "
        + ", ".join(f"{name} {_shown(found[name])} ({_shown(mean[task][name])})" for name in found)
        for task, found in results.items()
    ]


def _shown(errors: Errors) -> str:
    return f"{errors.shown.mae:.4g} {errors.shown.unit}"


def flat(results: Results) -> dict[str, float]:
    """Return the mean absolute errors by ``task/target/mae``, for the metrics."""
    return {f"{task}/{name}/mae": value.mae for task, errors in results.items() for name, value in errors.items()}


def columns(tasks: Sequence[LearningTask]) -> list[str]:
    """Return the names that `flat` gives."""
    return [f"{task.name}/{name}/mae" for task in tasks for name in sorted(_compared(task.targets))]


def _compared(targets: Mapping[str, object]) -> list[str]:
    return [*targets, *([PER_ATOM] if "energy" in targets else [])]


def _errors(
    topology: TopologyBuilder | None,
    task: LearningTask,
    part: Part,
    options: RunOptions,
    processes: Processes,
    predict: Callable[[str, Batch], dict[str, Tensor]],
) -> dict[str, Errors]:
    accuracy = Accuracy(task.dataset.info.units, free_atoms_only=options.free_atoms_only)
    data = task.part(part)
    for batch in ordered_batches(data, options, topology, rank=processes.rank, world_size=processes.size):
        moved = batch.to(processes.device)
        accuracy.add(predict(task.name, moved), moved.targets, moved.atoms)
    if processes.size > 1:
        for name in _compared(task.targets):
            own = accuracy.sums.get(name, torch.zeros(3, dtype=torch.float64))
            accuracy.sums[name] = processes.summed(own.to(processes.device)).cpu()
    return accuracy.result()


def _predictions(model: BlockModel, task: str, batch: Batch) -> dict[str, Tensor]:
    return model.predict(batch.atoms, task, batch.topology)


def _means(data: LearningTask, _task: str, batch: Batch) -> dict[str, Tensor]:
    known = {target.name: target for target in data.task().targets}
    means = {}
    for name, label in batch.targets.items():
        means[name] = torch.zeros_like(label)
        if label.dim() == 1:
            means[name] = physical(means[name], known[name], batch.atoms)
    return means


@contextmanager
def _evaluating(model: BlockModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
