"""What fine-tuning starts from: fresh heads, or those of a task that the model has, whichever errs less.

Reused heads keep their scales, so that without a step they predict what they did. Only where the labels are on another
reference than the model (`atomslim.evaluation.reference_gap`) its references are shifted by a fit of label −
prediction, after the difference between the references of labels and model where that is large. Smaller differences are
for training: one molecule does not say which of its elements they belong to. With a learning rate of 0 all stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from atomslim.atoms import Sample
from atomslim.data.in_memory import Samples
from atomslim.data.normalise import TargetScale
from atomslim.data.reference_gap import SMALLEST, ReferenceGap
from atomslim.data.references import shifted
from atomslim.errors import ConfigError
from atomslim.evaluation.errors import Errors
from atomslim.evaluation.reference_gap import differences, find_gap, lowered
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.tasks import Target, Task
from atomslim.train.graphs import graph_for
from atomslim.train.heads import with_tasks
from atomslim.train.lowered import spread_over
from atomslim.train.options import RunOptions
from atomslim.train.references import SAME
from atomslim.train.tasks import LearningTask, loss_terms
from atomslim.train.validation import Processes, Results, mean_errors, model_errors, score

TRIED = 8
"""Training structures on which starts are compared: each costs a forward pass of the whole model."""

SHIFTED = 64
"""Training structures on which label − prediction is looked at where the first few are far from the labels."""


class StartOptions(Protocol):
    """Options that a start depends on."""

    @property
    def heads(self) -> str:
        """Fresh ones, those of the model, or the better of both."""
        ...

    @property
    def task(self) -> str | None:
        """Whose heads, or None."""
        ...

    @property
    def cutoff(self) -> float | None:
        """Å, or None."""
        ...

    @property
    def neighbours(self) -> int | str | None:
        """Base number k, a smooth graph, or None."""
        ...


@dataclass(frozen=True)
class Start:
    """A task with its heads, ready to be learned."""

    task: Task
    reused: str | None
    """The model's task whose heads these are; None: fresh ones."""
    gap: ReferenceGap | None = None
    """Between labels and the reused heads before their references were shifted."""
    errors: Results = field(default_factory=dict)
    score: float = np.inf
    """Errors relative to predicting the mean, weighted as in the loss, see `train.validation.score`."""
    even_score: float = np.inf
    """The same with all targets of one weight: of heads alike in forces, those right in energies."""

    def __str__(self) -> str:
        """Say whose heads these are."""
        return "fresh ones" if self.reused is None else f"those of the model's task {self.reused}"


def choose_start(
    model: BlockModel, data: LearningTask, options: StartOptions, run: RunOptions
) -> tuple[Start, list[str]]:
    """Return the heads that a task starts with, and what is to be said of them.

    Raises ConfigError if heads are to be reused and no task of the model has them.
    """
    starts = [_start(model, data, name, options, run) for name in _candidates(model, data, options)]
    own = min((start for start in starts if start.reused is not None), key=_preference, default=None)
    fresh = next((start for start in starts if start.reused is None), None)
    best = min((start for start in (own, fresh) if start is not None), key=lambda start: start.score)
    chosen = fresh if options.heads == "fresh" and fresh is not None else best
    return chosen, list(_notes(chosen, own, fresh, data.name))


def _preference(start: Start) -> tuple[bool, float]:
    """Order tasks whose heads may be reused: first those on the labels' reference, whose energies need no shift."""
    return start.gap is not None, start.even_score


def _candidates(model: BlockModel, data: LearningTask, options: StartOptions) -> list[str | None]:
    """Return the tasks whose heads may be reused, and None for fresh ones."""
    tasks = [model.task(options.task)] if options.task else list(model.tasks.values())
    own = [task.name for task in tasks if _has_heads(task, data.task())]
    if options.heads == "reuse":
        if not own:
            wanted = ", ".join(f"{target.name} ({target.kind})" for target in data.task().targets)
            raise ConfigError(f"heads reuse: no task of the model has heads for {wanted}: start with fresh ones")
        return list(own)
    if options.heads == "better" and own and "fresh heads" not in family_of(model).capabilities:
        return list(own)
    return [None, *own]


def _has_heads(old: Task, new: Task) -> bool:
    needed = [target for target in new.targets if target.kind != "conservative_forces"]
    return bool(needed) and all(
        any(_fits(target, other) for other in old.targets if other.kind == target.kind) for target in needed
    )


def _fits(new: Target, old: Target) -> bool:
    """Tell whether a head gives what is wanted: scalars are told apart by name, and a sum is no mean."""
    return (
        new.reduction == old.reduction
        and new.unit == old.unit
        and (new.kind not in {"scalar", "binary"} or new.name == old.name)
    )


def _start(model: BlockModel, data: LearningTask, name: str | None, options: StartOptions, run: RunOptions) -> Start:
    graph = graph_for(family_of(model), model, options, data.dataset.info, name or options.task)
    task = data.task().model_copy(update={"graph": graph})
    tuned = with_tasks(model, [task], reuse=name, seed=run.seed)
    gap = move_to_labels(tuned, data) if name is not None and run.optimiser.learning_rate > 0 else None
    return Start(tuned.task(data.name), name, gap, *_measured(tuned, data, run))


def move_to_labels(model: BlockModel, data: LearningTask) -> ReferenceGap | None:
    """Shift the references of a model's task where the labels are on another; return the gap that there was."""
    if differences(model, data.name, _labelled(data, TRIED), TRIED).apart() < SMALLEST:
        return None
    gap = find_gap(model, data.name, _labelled(data, SHIFTED))
    if gap is not None:
        model.tasks = {**model.tasks, data.name: _on_labels_reference(model, data, gap)}
    return gap


def _on_labels_reference(model: BlockModel, data: LearningTask, gap: ReferenceGap) -> Task:
    """Return the task with references (or, where labels have none, a mean) that bring predictions to the labels."""
    task = model.task(data.name)
    energy = task.of_kind("energy")
    if energy is None:
        return task
    samples = _labelled(data, SHIFTED)
    scale = data.normalisation.targets[energy.name]
    if gap.before < SAME or not scale.references:  # the model's own references are near: what is missing is enough
        changed = _raised(energy, gap.references)
    else:
        changed = _shifted(model, energy, scale, samples, data.name)
    targets = tuple(changed if target.name == energy.name else target for target in task.targets)
    return task.model_copy(update={"targets": targets})


def _shifted(model: BlockModel, energy: Target, scale: TargetScale, samples: list[Sample], task: str) -> Target:
    first = {number: value - energy.references.get(number, 0.0) for number, value in scale.references.items()}
    fit = differences(model, task, [lowered(sample, first) for sample in samples], 16).fit()
    return _raised(energy, shifted(first, {**dict.fromkeys(first, 0.0), **fit}))


def _raised(energy: Target, shift: dict[int, float]) -> Target:
    """Return an energy with references raised by element; those of elements that the data lack stay."""
    references = {**energy.references, **shifted(energy.references, shift)}
    return energy.model_copy(update={"references": dict(sorted(references.items()))})


def _labelled(data: LearningTask, count: int) -> list[Sample]:
    """Return training structures that have labels, evenly over the set."""
    return [sample for sample in spread_over(data.part("train"), count) if sample.targets]


def _measured(model: BlockModel, data: LearningTask, run: RunOptions) -> tuple[Results, float, float]:
    """Return errors on some training structures, and their two scores beside predicting the mean."""
    samples = Samples(_labelled(data, TRIED), data.dataset.name)
    samples.info = data.dataset.info
    probe = replace(data, others={**data.others, "validation": samples}, graph=model.task(data.name).graph)
    device = next(model.parameters()).device
    options = RunOptions(steps=1, batch_size=run.batch_size, free_atoms_only=run.free_atoms_only)
    mean = mean_errors([probe], "validation", options, Processes(device=device))
    errors = model_errors(model, [probe], "validation", options, Processes(device=device))
    terms = loss_terms(data, model.task(data.name))
    even = [replace(term, weight=min(term.weight, 1.0)) for term in terms]
    return errors, score(errors, mean, terms), score(errors, mean, even)


def _notes(chosen: Start, own: Start | None, fresh: Start | None, task: str) -> Iterator[str]:
    if own is not None and fresh is not None:
        beside = fresh if chosen.reused else own
        numbers = ", ".join(
            f"{name} {_against(error, beside.errors[task][name])}"
            for name, error in chosen.errors[task].items()
            if name in beside.errors[task] and error.shown.unit == beside.errors[task][name].shown.unit
        )
        yield f"heads: {chosen}; at the start, against {beside}: {numbers}; {_remedy(chosen, own)}"
    if chosen.gap is not None:
        yield f"energies: {chosen.gap}; the references of the reused heads are shifted by it"


def _against(error: Errors, other: Errors) -> str:
    if error.measure != "MAE":
        return f"{error} against {other}"
    return f"{error.shown.mae:.4g} against {other.shown.mae:.4g} {error.shown.unit}"


def _remedy(chosen: Start, own: Start) -> str:
    if chosen.reused is not None:
        return "heads=fresh starts with new ones"
    return f"heads=reuse keeps the model's{', which start better' if own.score < chosen.score else ''}"
