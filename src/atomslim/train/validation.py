"""Errors of a model, and of predicting the mean or base rate, on a set of each task."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from atomslim.data.loader import Batch, TopologyBuilder
from atomslim.errors import DataError
from atomslim.evaluation.accuracy import Accuracy
from atomslim.evaluation.classification import FOLLOWED, MEAN_OF_LABELS, baseline_of
from atomslim.evaluation.errors import PER_ATOM, Errors, Results
from atomslim.models.block_model import BlockModel
from atomslim.models.losses import Term
from atomslim.models.modes import evaluating
from atomslim.models.outputs import physical
from atomslim.models.tasks import PROBABILITY
from atomslim.train.dataloaders import ordered_batches
from atomslim.train.options import RunOptions
from atomslim.train.tasks import LearningTask, Part


@dataclass(frozen=True)
class Processes:
    """One process among those that share a set."""

    rank: int = 0
    size: int = 1
    summed: Callable[[Tensor], Tensor] = torch.clone
    """Adds numbers up over all processes."""
    device: torch.device | str = "cpu"

    def together(self, values: Tensor) -> Tensor:
        """Add up numbers on the CPU over all processes."""
        return self.summed(values.to(self.device)).cpu()


def model_errors(
    model: BlockModel, tasks: Sequence[LearningTask], part: Part, options: RunOptions, processes: Processes
) -> Results:
    """Return the model's errors on a set of every task, in full precision; leaves the model's mode as it was."""
    with evaluating(model):
        predict = partial(_predictions, model)
        return {task.name: _errors(model.topology, task, part, options, processes, predict) for task in tasks}


def mean_errors(tasks: Sequence[LearningTask], part: Part, options: RunOptions, processes: Processes) -> Results:
    """Return the errors of predicting the training labels' mean and references or base rate, and no forces."""
    return {task.name: _errors(None, task, part, options, processes, partial(_means, task)) for task in tasks}


def score(results: Results, mean: Results, terms: Sequence[Term]) -> float:
    """Return what is minimised: the geometric mean of error / error of predicting the mean, weighted as in the loss.

    The error is the MAE; for binary labels, it is 1 − ROC-AUC, or the log loss if all are equal.
    Halving the error of any target counts equally, however large it is: in a mean of the ratios
    themselves, targets that cannot be learned would dominate.
    """
    weighted = [
        (term.weight, _ratio(results[term.task][term.name], mean[term.task][term.name]))
        for term in terms
        if term.weight and term.name in results[term.task]
    ]
    total = sum(weight for weight, _ in weighted)
    if not total:
        raise DataError("no target that has a weight is labelled in validation: choose another set, or other weights")
    return math.exp(sum(weight * math.log(ratio) for weight, ratio in weighted) / total)


def _ratio(found: Errors, mean: Errors) -> float:
    """Return an error relative to that of predicting the mean; both may be zero on very few structures."""
    return max(found.error, found.least) / max(mean.error, mean.least)


def before_first_step(results: Results, mean: Results) -> list[str]:
    """Report for every task the errors before training, beside those of predicting the mean."""
    return [
        f"{task}, before the first step (and predicting the {baseline_of(found.values())}): "
        + ", ".join(f"{name} {found[name]} ({mean[task][name]})" for name in found)
        for task, found in results.items()
    ]


def flat(results: Results) -> dict[str, float]:
    """Return the errors by ``task/target/mae``, of labels by ``task/label/roc_auc`` and so on, for the metrics."""
    return {
        f"{task}/{name}/{metric}": value
        for task, errors in results.items()
        for name, found in errors.items()
        for metric, value in found.metrics.items()
        if value is not None
    }


def columns(tasks: Sequence[LearningTask]) -> list[str]:
    """Return the names that `flat` gives."""
    return [
        f"{task.name}/{name}/{metric}"
        for task in tasks
        for name in [*sorted(_compared(task)), *_means_over(task)]
        for metric in (FOLLOWED if name in {*_classes(task), MEAN_OF_LABELS} else ("mae",))
    ]


def _compared(task: LearningTask) -> list[str]:
    return [*task.targets, *([PER_ATOM] if "energy" in task.targets else [])]


def _classes(task: LearningTask) -> list[str]:
    """Return the targets compared with binary labels, not with a teacher's probabilities."""
    return [] if task.answered else task.classes


def _means_over(task: LearningTask) -> list[str]:
    return [MEAN_OF_LABELS] if len(_classes(task)) > 1 else []


def _errors(
    topology: TopologyBuilder | None,
    task: LearningTask,
    part: Part,
    options: RunOptions,
    processes: Processes,
    predict: Callable[[str, Batch], dict[str, Tensor]],
) -> dict[str, Errors]:
    units = {**task.dataset.info.units, **dict.fromkeys(task.classes, PROBABILITY)}
    accuracy = Accuracy(units, free_atoms_only=options.free_atoms_only, labels=_classes(task))
    data = task.part(part)
    for batch in ordered_batches(data, options, topology, rank=processes.rank, world_size=processes.size):
        moved = batch.to(processes.device)
        accuracy.add(predict(task.name, moved), moved.targets, moved.atoms, moved.names)
    if processes.size > 1:
        accuracy.share(_compared(task), processes.rank, processes.size, processes.together)
    return accuracy.result()


def _predictions(model: BlockModel, task: str, batch: Batch) -> dict[str, Tensor]:
    return model.predict(batch.atoms, task, batch.topology)


def _means(data: LearningTask, _task: str, batch: Batch) -> dict[str, Tensor]:
    known = {target.name: target for target in data.task().targets}
    means = {}
    for name, label in batch.targets.items():
        means[name] = torch.zeros_like(label)
        if name in data.classes:
            means[name] = torch.full_like(label, data.normalisation.targets[name].mean)
        elif label.dim() == 1:
            means[name] = physical(means[name], known[name], batch.atoms)
    return means
