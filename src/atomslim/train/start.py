"""What a run starts from: graphs, and heads: fresh ones or those of one of the model's tasks, whichever fit better.

Reused heads keep their scales, so that before training they predict what they did. Only if the labels have a different
reference from the model (`atomslim.evaluation.reference_gap`) its references are shifted by a fit of label −
prediction, after the difference between the references of labels and model where that is large. Smaller differences are
left to training: one molecule cannot attribute them to its elements. With a learning rate of 0 nothing changes.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch

from atomslim.atoms import Sample
from atomslim.data.in_memory import Samples
from atomslim.data.info import DatasetInfo
from atomslim.data.normalise import TargetScale
from atomslim.data.references import SMALLEST, ReferenceGap, shifted
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.evaluation.errors import Errors, Results
from atomslim.evaluation.reference_gap import differences, find_gap, lowered
from atomslim.models.block_model import BlockModel
from atomslim.models.family import Family, family_of
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.tasks import Target, Task, matching
from atomslim.train.options import RunOptions
from atomslim.train.targets import SAME
from atomslim.train.tasks import LearningTask, loss_terms, spread_over
from atomslim.train.validation import Processes, mean_errors, model_errors, score

_OWN = {"set tasks", "set heads", "reduce neighbours"}
"""Operations after which a model's graph settings are its own, whatever its first file held."""


class GraphOptions(Protocol):
    """Options that override graph settings."""

    @property
    def cutoff(self) -> float | None:
        """Å, or None."""
        ...

    @property
    def neighbours(self) -> int | str | None:
        """Base number k, or None."""
        ...


def has_own_graphs(model: BlockModel) -> bool:
    """Say whether a model's graph settings are its own, or assumed because its checkpoint held none."""
    for entry in reversed(model.history):
        if entry.get("operation") in _OWN:
            return True
        if entry.get("graphs") == "assumed":
            return False
    return True


def graph_for(
    family: Family, model: BlockModel | None, options: GraphOptions, info: DatasetInfo, task: str | None = None
) -> GraphSettings:
    """Return the graphs of a new task on a dataset: the options', else those of a task of the model (none: its first).

    The dataset's own are for new models (None), or those whose checkpoint held none. Raises ConfigError
    for a cutoff or neighbours that the family cannot have.
    """
    own = own_graph(model, task)
    usual: tuple[float | None, int | None]
    if own is None:
        usual = (info.cutoff, info.neighbours)
        return family.graph(model, cutoff=options.cutoff, neighbours=options.neighbours, usual=usual)
    if options.neighbours is not None:
        family.require("neighbour caps")
        usual = (own.cutoff, own.neighbours)
        return family.graph(model, cutoff=options.cutoff, neighbours=options.neighbours, usual=usual)
    if model is None or options.cutoff is None:
        return own
    chosen = own.model_copy(update={"cutoff": options.cutoff})
    family.check_graph(model, chosen)
    return chosen


def own_graph(model: BlockModel | None, task: str | None = None) -> GraphSettings | None:
    """Return the graphs of a model's task (none: its first), or None where they are assumed."""
    if model is None or not has_own_graphs(model):
        return None
    return (model.task(task) if task else next(iter(model.tasks.values()))).graph


def graph_note(model: BlockModel, used: GraphSettings, info: DatasetInfo, task: str | None = None) -> str:
    """Say in one line which graph settings are used and which are not; empty if nothing differs."""
    own = own_graph(model, task)
    if own is None:
        return f"graphs: {_words(used)}: the model's file holds no settings"
    if used != own:
        return f"graphs: {_words(used)}, as the options say; the model has {_words(own)}"
    if used.cutoff != info.cutoff or used.neighbours not in {None, info.neighbours}:
        theirs = f"cutoff {info.cutoff:g} Å, {info.neighbours} neighbours"
        return f"graphs: {_words(used)}, the model's; the dataset's {theirs} are not used"
    return ""


def _words(graph: GraphSettings) -> str:
    smooth = graph.neighbours is None and graph.typical_neighbours is not None
    count = f"about {graph.typical_neighbours:g}" if smooth else graph.neighbours or "all"
    return f"cutoff {graph.cutoff:g} Å, {count} neighbours"


Model = TypeVar("Model", bound=BlockModel)

_KEPT = ("std", "mean", "references")
"""What a target keeps with its trained head."""


def with_tasks(
    model: Model,
    tasks: list[Task],
    *,
    reuse: Mapping[str, str] | str | None = None,
    seed: int = 0,
    dropout: float | None = None,
    edge_dropout: float | None = None,
) -> Model:
    """Return an independent copy of a model that has these tasks, and no others.

    Heads start fresh (drawn with ``seed``), or are those of the task ``reuse``, target by target of the same kind;
    these also keep ``std``, ``mean`` and references, so that they predict what they did. A mapping does so for each new
    task; others start fresh, and so do, with a warning, targets of a kind that the old task lacks.
    What no task reads any more is removed. Changes outputs.

    Raises ConfigError for a family that cannot do this, an unknown task, or one without any head that is asked for.
    """
    family = family_of(model)
    sources = reuse if isinstance(reuse, Mapping) else dict.fromkeys((task.name for task in tasks), reuse)
    olds = {name: model.task(source) for name, source in sources.items() if source is not None}
    if any(task.direct for task in tasks):
        family.require("direct forces")
    new_kinds = {task.name: _without_source(task, olds[task.name]) for task in tasks if task.name in olds}
    if any(task.name not in olds or new_kinds[task.name] for task in tasks):
        family.require("fresh heads")
    for name, targets in new_kinds.items():
        _say_fresh(name, targets, olds[name])
    kept = [_with_old_scales(task, olds[task.name]) if task.name in olds else task for task in tasks]
    rates = {"dropout": dropout, "edge_dropout": edge_dropout}
    given = {name: rate for name, rate in rates.items() if rate is not None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = cast("Model", family.with_heads(model, kept, olds, given))
    new.history = [*model.history, _entry(kept, {name: old.name for name, old in olds.items()})]
    return new


def _without_source(task: Task, old: Task) -> list[Target]:
    """Return the targets that no head of the old task gives; raises ConfigError if that is all of them."""
    headed = [target for target in task.targets if target.kind != "conservative_forces"]
    missing = [target for target in headed if matching(target, old) is None]
    if missing and len(missing) == len(headed):
        kinds = ", ".join(sorted({target.kind for target in missing}))
        raise ConfigError(
            f"target {missing[0].name}: task {old.name} of the model has no head of the kind {kinds} to reuse: "
            "start with fresh heads"
        )
    return missing


def _say_fresh(name: str, targets: list[Target], old: Task) -> None:
    for target in targets:
        warnings.warn(
            f"{name}/{target.name}: task {old.name} of the model has no head of the kind {target.kind} to reuse: it "
            "starts with a fresh one",
            AtomslimWarning,
            stacklevel=3,
        )


def _with_old_scales(task: Task, old: Task) -> Task:
    targets = [
        target.model_copy(update={name: getattr(source, name) for name in _KEPT})
        if (source := matching(target, old)) and target.kind != "conservative_forces"
        else target
        for target in task.targets
    ]
    return task.model_copy(update={"targets": tuple(targets)})


def _entry(tasks: list[Task], reused: dict[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "operation": "set heads",
        "changes outputs": True,
        "heads": "reused" if reused else "fresh",
        "tasks": [task.name for task in tasks],
    }
    return entry | {"from": reused} if reused else entry


TRIED = 8
"""Training structures on which starts are compared: each costs a forward pass of the whole model."""

SHIFTED = 64
"""Training structures for label − prediction if the first few predictions are far from the labels."""


class StartOptions(Protocol):
    """Options that a start depends on."""

    @property
    def heads(self) -> str:
        """Fresh ones, those of the model, or the better of the two."""
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
    """The same with equal weights: among heads equal in forces, it prefers those right in energies."""

    def __str__(self) -> str:
        """Say whose heads these are."""
        return "fresh ones" if self.reused is None else f"those of the model's task {self.reused}"


def choose_start(
    model: BlockModel, data: LearningTask, options: StartOptions, run: RunOptions
) -> tuple[Start, list[str]]:
    """Return the heads that a task starts with, and notes on them.

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
    """Say whether a head fits a target: scalars must agree in name, and a sum is not a mean."""
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
    """Shift the references of a model's task if the labels have others; return the gap."""
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
    if gap.before < SAME or not scale.references:  # the model's references are close: adding the difference is enough
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
    """Return training structures that have labels, evenly spaced."""
    return [sample for sample in spread_over(data.part("train"), count) if sample.targets]


def _measured(model: BlockModel, data: LearningTask, run: RunOptions) -> tuple[Results, float, float]:
    """Return errors on some training structures, and their two scores relative to predicting the mean."""
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
