"""From a dataset to a task: its split, targets, normalisation, graphs and loss terms."""

import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from atomslim.atoms import Sample
from atomslim.data import Dataset, splits
from atomslim.data.check import unit_problems
from atomslim.data.in_memory import opened
from atomslim.data.mixing import TaskData
from atomslim.data.normalise import Normalisation, explain
from atomslim.data.splits import Split, evenly
from atomslim.data.survey import Survey, survey
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.evaluation.reference_gap import STRUCTURES, find_gap, lowered
from atomslim.models.block_model import BlockModel
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.losses import Term
from atomslim.models.tasks import Target, TargetKind, Task
from atomslim.train.options import SplitOptions, TargetOptions, TaskOptions
from atomslim.train.targets import (
    STRESS,
    Choice,
    Inherited,
    class_note,
    class_target,
    class_term,
    default_targets,
    normalise,
    require_classes,
    require_energy,
)

LOOKED_AT = 20_000
"""Structures whose composition is noted with a model."""

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class LearningTask:
    """A dataset to learn: targets and structures."""

    name: str
    dataset: Dataset
    split: Split
    targets: dict[str, TargetOptions]
    normalisation: Normalisation
    graph: GraphSettings
    others: dict[Part, Dataset] = field(default_factory=dict)
    """Separate datasets for validation or test, instead of the split's."""
    answered: bool = False
    """Whether labels for validation and test are a teacher's answers: probabilities, for binary targets."""
    unlabelled: bool = False
    """Whether the training structures need no labels."""
    validation_limit: int | None = None
    """At most so many structures of the validation set, evenly spaced."""

    besides: tuple[str, ...] = ()
    """Names of labels that are learned besides the targets, and that not every structure need have."""

    def part(self, name: Part) -> TaskData:
        """Return the structures of one set; raises DataError if it is empty."""
        own = self.others.get(name)
        indices = np.array(getattr(self.split, name) if own is None else range(len(own)), dtype=np.int64)
        if name == "validation" and self.validation_limit is not None and len(indices) > self.validation_limit:
            indices = indices[evenly(len(indices), self.validation_limit)]
        return TaskData(
            self.name,
            self.dataset if own is None else own,
            (*self.targets, *(self.besides if name == "train" else ())),
            indices,
            neighbours=self.graph.neighbours,
            labelled=name == "train" and not self.unlabelled,
        )

    def looked_at(self) -> Iterator[Sample]:
        """Give training structures for their composition: all, or `LOOKED_AT` of them, evenly spaced."""
        train = self.split.train
        return (self.dataset[train[index]] for index in evenly(len(train), LOOKED_AT))

    @property
    def has_test(self) -> bool:
        """Whether there are structures to test on."""
        return "test" in self.others or bool(self.split.test)

    @staticmethod
    def name_for(dataset: Dataset) -> str:
        """Return a name for a task on a dataset, without characters that have a meaning in files."""
        return re.sub(r"[^\w-]+", "_", dataset.name.partition("@")[0]).strip("_") or "data"

    @property
    def classes(self) -> list[str]:
        """Names of the targets that are labels of 0 and 1."""
        return [name for name, options in self.targets.items() if options.kind == "binary"]

    def task(self) -> Task:
        """Return the model's task: targets with their normalisation."""
        targets = [self._target(name, options) for name, options in self.targets.items() if options.kind != STRESS]
        return Task(name=self.name, targets=tuple(targets), graph=self.graph)

    def _target(self, name: str, options: TargetOptions) -> Target:
        kind: TargetKind = options.kind  # type: ignore[assignment] # stress, the only other one, is not a head's
        unit = "eV/Å" if name == "forces" else self.dataset.info.units.get(name, "eV")
        scale = self.normalisation.targets.get(name)
        if kind == "binary" and scale is not None:
            return class_target(name, options, scale)
        if scale is None or kind == "conservative_forces":
            return Target(name=name, kind=kind, reduction=options.reduction, unit=unit)
        return Target(
            name=name,
            kind=kind,
            reduction=options.reduction,
            unit=unit,
            mean=0.0 if kind == "direct_forces" else scale.mean,
            std=scale.std,
            references=scale.references,
        )


def prepare_task(
    dataset: Dataset,
    options: TaskOptions,
    split: Split | None = None,
    normalisation: Normalisation | None = None,
    known: Mapping[str, Normalisation] | None = None,
    inherited: Inherited | None = None,
    *,
    graph: GraphSettings,
    labelled: bool = True,
) -> LearningTask:
    """Split a dataset, choose its targets and fit their normalisation on the training set.

    ``graph`` is how the task's graphs are made (`train.start`), ``split`` and ``normalisation`` are those of an
    earlier run that is continued, ``known`` those of tasks whose references this one may take, ``inherited`` the
    references of the model that learns it. The validation set is only checked if it must be ``labelled``.

    Raises:
        ConfigError: targets that contradict each other, a split that the data cannot give, or references of a task
            that has none.
        DataError: a target that no training structure has, or that is the same (zero, say) in all of them.

    """
    given: dict[Part, str] = {"validation": options.validation_data, "test": options.test_data}
    others = {part: opened(name, options.options) for part, name in given.items() if name}
    chosen = (split or _named_split(dataset, options.split, others)).limited(options.train_limit)
    chosen.require(len(dataset), dataset.name)
    if not chosen.validation and "validation" not in others:
        raise ConfigError(
            f"{dataset.name}: the split has no validation set, by which the best model is chosen: give "
            "split.validation a size, or name validation_data"
        )
    found = survey(dataset, chosen.train)
    targets = dict(options.targets) or default_targets(found, options.forces, dataset.info, options.class_weights)
    require_energy(targets, found)
    require_classes(targets, options, dataset.name)
    if normalisation is None and found.structures == found.total:  # otherwise they are searched in all structures below
        for label in targets:
            found.require([label])
    name = options.name or LearningTask.name_for(dataset)
    train = TaskData(name, dataset, tuple(targets), np.array(chosen.train, dtype=np.int64))
    choice = Choice(options.e0s, known or {}, inherited or Inherited())
    scales = normalisation or normalise(train, targets, choice)
    if normalisation is None:
        _warn_of_units(dataset, chosen)
        _warn_of_other_names(found)
    limit = options.validation_limit
    made = LearningTask(name, dataset, chosen, targets, scales, graph, others, validation_limit=limit)
    if labelled:
        require_validation(made)
    return made


def require_validation(task: LearningTask) -> None:
    """Warn of targets that no structure for validation has; raises DataError if these are all."""
    found, weighted = validation_labels(task), [name for name, options in task.targets.items() if options.weight]
    missing = [name for name in weighted if not found.counts[name]]
    if missing and len(missing) == len(weighted):
        raise DataError(
            f"task {task.name}: of {found.structures} structures for validation in {found.name} none has a label "
            f"{' or '.join(missing)}: choose another split, or name validation_data"
        )
    if missing:
        text = f"task {task.name}: no structure for validation has {' or '.join(missing)}: the best model is chosen by "
        warn(
            text + f"{', '.join(name for name in weighted if name not in missing)} alone", AtomslimWarning, stacklevel=3
        )


def validation_labels(task: LearningTask) -> Survey:
    """Count the labels of the structures for validation."""
    part = task.part("validation")
    return survey(part.dataset, part.numbers)


def reference_notes(data: LearningTask) -> list[str]:
    """Say which references energies get, one line each, or that a single mean makes them non-additive.

    For binary labels, it says how many are 1, and how they are weighted.
    """
    notes = []
    for name, options in data.targets.items():
        scale = data.normalisation.targets[name]
        if options.kind == "binary":
            notes.append(class_note(name, scale, options.class_weights))
        elif scale.references:
            notes.append(explain(name, scale))
        elif options.kind == "energy":
            text = f"{explain(name, scale)}; one mean for every structure: energies are not additive"
            notes.append(f"{text}; e0s=fit gives every element its reference")
    return notes


def make_split(dataset: Dataset, options: SplitOptions, others: Collection[Part] = ()) -> Split:
    """Split as asked: a saved one, given sizes, or as the original does; where there is none, 80 %, 10 %, 10 %.

    If validation or test have separate datasets (``others``) and no sizes are given, all the rest is for
    training, except a tenth if validation has none.
    """
    if options.file is not None:
        return Split.load(options.file)
    count = len(dataset)
    if others and options.train is None:
        held = 0 if "validation" in others else max(count // 10, 1)
        return splits.random(count, count - held, held, 0, seed=options.seed)
    if options.by != "structure":
        return _by_groups(dataset, options)
    if options.train is not None and options.validation is not None:
        return splits.random(count, options.train, options.validation, options.test, seed=options.seed)
    variant = dataset.name.partition("@")[0].partition(":")[2]
    try:
        groups = dataset.groups if dataset.info.name == "ani1x" else None
        return splits.original(dataset.info.name, variant, count, groups, _classes(dataset, variant))
    except ConfigError:
        if dataset.info.name in {"rmd17", "md17", "md22", "qm9"}:  # there is a rule, but the data is too small for it
            raise
    return splits.random(count, 0.8, 0.1, seed=options.seed)


def _by_groups(dataset: Dataset, options: SplitOptions) -> Split:
    """Keep groups together: 80 % and 10 % of the structures unless sizes are given."""
    train = 0.8 if options.train is None else options.train
    validation = 0.1 if options.validation is None else options.validation
    if options.by == "scaffold":
        return splits.by_scaffold(dataset.groups, train, validation)
    return splits.by_group(dataset.groups, train, validation, seed=options.seed)


def _classes(dataset: Dataset, variant: str) -> NDArray[np.float64] | None:
    """Return the classes of all structures where a benchmark's folds depend on them."""
    name = variant.lower().removeprefix("matbench_") or next(iter(dataset[0].targets), "")
    if dataset.info.name != "matbench" or not dataset.info.is_label(name):
        return None
    return np.array([float(sample.targets.get(name, np.nan)) for sample in dataset])


def loss_terms(data: LearningTask, task: Task, *, free_atoms_only: bool = True) -> list[Term]:
    """Return what the task contributes to the loss; ``task`` is the model's, whose scales may be those of old heads."""
    energy = task.of_kind("energy")
    targets = {target.name: target for target in task.targets}
    terms = []
    for name, options in data.targets.items():
        spread = data.normalisation.targets[name].std
        derived = options.kind in {"conservative_forces", STRESS}
        head = energy if derived else targets[name]
        if head is None:
            raise ConfigError(f"task {task.name}: {name} is a derivative, and there is no energy: add the energy")
        if options.kind == "binary":
            terms.append(class_term(task.name, head, options, data.normalisation.targets[name]))
            continue
        offset = None if derived or options.kind == "direct_forces" else head
        terms.append(Term(task.name, name, options.weight, options.loss, head.std, spread, offset, free_atoms_only))
    if not any(term.weight for term in terms):
        raise ConfigError(f"task {task.name}: every target has weight 0: there is nothing to learn")
    return terms


def _named_split(dataset: Dataset, options: SplitOptions, others: Collection[Part]) -> Split:
    """Split as `make_split` does; its errors name the dataset."""
    if not len(dataset):
        raise DataError(f"{dataset.name}: has no structures: check the file")
    try:
        return make_split(dataset, options, others)
    except ConfigError as error:
        raise ConfigError(f"{dataset.name}: {error}") from error


def _warn_of_units(dataset: Dataset, split: Split) -> None:
    for problem in unit_problems(dataset, sorted(split.train)):
        text = f"{dataset.name}: {problem.what}: {problem.text}"
        warn(f"{text}; the model learns it so: mend the data, see `atomslim data check`", AtomslimWarning, stacklevel=2)


def _warn_of_other_names(found: Survey) -> None:
    """Say which fields may be forces where none are known as such."""
    fields = found.remarks.forces_like()
    if fields and not found.counts["forces"]:
        text = f"{found.name}: no structure has forces by a known name: if {fields[0]} are forces, give the option "
        warn(f"{text}forces_key={fields[0]}; they are not learned", AtomslimWarning, stacklevel=3)


# -- labels on the references of a model


class Lowered:
    """A dataset whose energies lack per-element references."""

    def __init__(self, dataset: Dataset, references: dict[int, float]) -> None:
        self.dataset, self.references = dataset, references
        self.name, self.info = dataset.name, dataset.info

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.dataset)

    def __getitem__(self, number: int) -> Sample:
        """Structure `number`."""
        return lowered(self.dataset[number], self.references)

    def __iter__(self) -> Iterator[Sample]:
        """All structures in order."""
        return (lowered(sample, self.references) for sample in self.dataset)

    @property
    def natoms(self) -> NDArray[np.int64]:
        """Number of atoms of every structure."""
        return self.dataset.natoms

    @property
    def groups(self) -> list[str]:
        """Group of every structure."""
        return self.dataset.groups


def on_reference_of_model(data: LearningTask, model: BlockModel) -> LearningTask:
    """Return the task with energies on the model's reference; warns if the labels have another."""
    gap = find_gap(model, data.name, spread_over(data.part("train"), STRUCTURES))
    if gap is None:
        return data
    text = f"task {data.name}: {gap}; labels are lowered by it, and errors of energies are those after this fit"
    warnings.warn(text + "; fine-tune to move the model to the labels' reference", AtomslimWarning, stacklevel=2)
    gap = replace(
        gap, references={number: round(value, 4) for number, value in gap.references.items()}
    )  # the same when resumed
    others: dict[Part, Dataset] = {part: Lowered(dataset, gap.references) for part, dataset in data.others.items()}
    return replace(data, dataset=Lowered(data.dataset, gap.references), others=others)


def spread_over(data: TaskData, count: int) -> list[Sample]:
    """Return at most so many structures of a set, evenly spaced."""
    return [data[index] for index in evenly(len(data), count)]
