"""Distillation: a cut model learns from the full one on the same trainer as everything else (arXiv 2504.19538)."""

import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast
from warnings import warn

import torch
from ase.calculators.calculator import Calculator as AseCalculator
from pydantic import Field
from torch import Tensor, nn

from atomslim.arguments import checked
from atomslim.compress.answers import Layout
from atomslim.compress.distill import (
    Part,
    Weights,
    distillation_parts,
    graphs_apart,
    hessian_part,
    on_graphs_of,
    projections,
    rattled,
    require_pair,
    require_smaller,
    teach,
    without_edges,
)
from atomslim.data.in_memory import Data, opened
from atomslim.data.loader import Batch
from atomslim.data.splits import Split
from atomslim.errors import AtomslimWarning, ConfigError, StructureError
from atomslim.models.block_model import BlockModel, Trace
from atomslim.models.elsewhere import CALCULATOR
from atomslim.models.losses import Term, loss_sums, weighted_mean
from atomslim.models.model_file import load
from atomslim.models.scope import Watch
from atomslim.report.console import plain_console
from atomslim.train.dataloaders import with_batch_cost
from atomslim.train.optimisation import Summed, attend
from atomslim.train.options import (
    Duration,
    OptimiserOptions,
    RoundOptions,
    ScheduleOptions,
    TaskOptions,
    parse_duration,
    validated,
)
from atomslim.train.reporting import announced, said, say_labels
from atomslim.train.run_folder import RunFolder, note_task, noted
from atomslim.train.run_state import data_identity, model_digest, origin
from atomslim.train.start import graph_note
from atomslim.train.targets import own_scales, own_targets
from atomslim.train.tasks import (
    LearningTask,
    loss_terms,
    on_reference_of_model,
    prepare_task,
    require_validation,
    validation_labels,
)
from atomslim.train.tasks import Part as SetName
from atomslim.train.teacher_cache import Answers, kept_answers, labelled_by, passes, training_size
from atomslim.train.trainer import is_first, train

CACHE_LIMIT = 2e9
"""Bytes up to which a teacher's answers are kept by default."""


class DistillOptions(RoundOptions):
    """Options of distillation, those of the run included; the optimiser is pre-training's."""

    student: str = Field(default="", description="file of the cut model")
    teacher: str = Field(default="", description="file of the full model")
    tasks: tuple[TaskOptions, ...] = Field(default=(), description="datasets by the models' tasks; targets are theirs")
    weights: Weights = Field(default=Weights(), description="of the terms of the loss")
    labels: float = Field(default=0.0, ge=0, description="weight of the loss on labels beside the teacher's; 0: none")
    strict: bool = Field(
        default=False, description="refuse what the teacher was not trained on, charges, spins, and a larger student"
    )
    validate_against: Literal["auto", "labels", "teacher"] = Field(
        default="auto",
        description="what validation compares with; the teacher needs no labels; auto: labels where there are any",
    )
    teacher_precision: Literal["32", "bf16"] = Field(default="32", description="bf16: teachers with direct forces only")
    teacher_cache: Literal["auto"] | bool = Field(
        default="auto",
        description="keep the teacher's answers in the run's folder; auto: below 2 GB, where steps or epochs say that "
        "each structure is seen twice or more",
    )
    rattle: float = Field(default=0.0, ge=0, description="Å; every other batch is displaced by so much")
    strain: float = Field(default=0.0, ge=0, description="every other batch: standard deviation of the strain")
    optimiser: OptimiserOptions = OptimiserOptions(learning_rate=3e-4, rates={}, clip_by="norm")
    schedule: ScheduleOptions = ScheduleOptions(warmup_factor=0.2)
    ema: float | None = Field(default=0.99, gt=0, lt=1, description="decay of averaged weights; none: no averaging")
    validate_every: Duration = Field(default=parse_duration("10%"), description="in steps, epochs or % of the run")


class Distillation:
    """Learning from a teacher, and from labels too if ``options.labels`` says so.

    The teacher is not a part of the trained module: it is not saved, averaged or sent around.
    """

    def __init__(
        self,
        student: BlockModel,
        teacher: BlockModel,
        terms: list[Term],
        options: DistillOptions,
        answers: Answers | None = None,
    ) -> None:
        self._teacher, self.answers = teacher.eval().requires_grad_(False), answers
        self.terms, self.options = terms, options
        self.own_graphs = bool(graphs_apart(student, teacher))
        self.weights = options.weights.model_copy(update={"edge": 0.0}) if self.own_graphs else options.weights
        self.learned: nn.Module = projections(student, teacher)

    def loss(self, model: BlockModel, batch: Batch, summed: Summed) -> Tensor:
        """Return this process's part of λ L₀ + L_KD."""
        given, batch = batch, self._perhaps_rattled(model, batch)
        theirs = self._answer(batch, kept=batch is given)
        ours = attend(model, batch)
        maps = cast("nn.ModuleDict", self.learned)
        parts = list(distillation_parts(model, self._teacher, ours, theirs, batch, self.weights, maps))
        if self.weights.hessian:
            teacher = self._teacher.to(batch.atoms.device)  # with kept answers only, it is not loaded yet
            parts.append(hessian_part(model, teacher, batch, self.weights.hessian, taught=self._taught(batch)))
        loss = _weighted(parts, summed)
        if self.options.labels:
            sums = loss_sums(self.terms, ours.outputs, batch)
            counts = summed(torch.stack([part.count for part in sums]))
            loss = loss + self.options.labels * weighted_mean(self.terms, sums, counts)
        return loss

    def _answer(self, batch: Batch, *, kept: bool) -> Trace:
        """Return the teacher's answer, from the cache if possible."""
        known = self.answers if kept else None
        found = None if known is None else known.trace(batch, same_edges=not self.own_graphs)
        found = found or teach(self._teacher, self._taught(batch), self.weights, self.options.teacher_precision)
        return without_edges(found) if self.own_graphs else found

    def _taught(self, batch: Batch) -> Batch:
        """Return the batch as the teacher sees it."""
        return on_graphs_of(self._teacher, batch) if self.own_graphs else batch

    def _perhaps_rattled(self, model: BlockModel, batch: Batch) -> Batch:
        """Displace every other batch, counted by its position in the run, so that a resumed run does the same."""
        options = self.options
        if not (options.rattle or options.strain) or batch.plan is None or batch.plan.position % 2:
            return batch
        try:
            return rattled(batch, model, displacement=options.rattle, strain=options.strain)
        except StructureError:  # atoms ended on top of each other: this batch is used unchanged
            return batch


@checked
def distill(
    student: BlockModel | str | os.PathLike[str],
    teacher: BlockModel | str | os.PathLike[str],
    data: Data | Mapping[str, Data] | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    known: Mapping[str, str] | None = None,
    **options: Any,
) -> BlockModel:
    """Train a copy of a pruned model to reproduce its teacher; return the one with the best validation error.

        small = atomslim.keep_blocks(model, 4)
        small = atomslim.distill(small, model, {"oc20": "oc20:200k"}, budget="2h")

    Args:
        student: the pruned model, or its file.
        teacher: the model it was made from, or its file.
        data: structures by task, or for the only task; replaces the option ``tasks``.
        output: folder of the run; default `runs/distill-DATE`.
        resume: continue the run in `output`.
        progress: show baselines, a progress bar and the summary.
        known: identities of `student` and `teacher` for resuming, if they are recomputed; default:
            their content.
        options: fields of `DistillOptions`: ``budget="2h"``, ``weights={"blocks": 1.0}``, ``labels=0.1``, ….

    Raises:
        ConfigError: a teacher of another family, or with other tasks or units; invalid options.
        DataError: a dataset that is missing or cannot be trained on.
        CheckpointError: a model file that cannot be read.

    """
    _require_model(teacher)
    models = {"student": student, "teacher": teacher}
    named = {name: str(model) for name, model in models.items() if not isinstance(model, BlockModel)}
    config = validated(DistillOptions, named | options)
    folder = RunFolder(output or Path("runs") / time.strftime("distill-%Y%m%d-%H%M%S"))
    with folder.claimed(resume=resume, first=is_first(config.devices * config.nodes, os.environ)):
        if config.rounds > 1:
            return _in_rounds(student, teacher, data, config, folder, resume=resume, progress=progress, known=known)
        shown = {"progress": progress, "notes": progress}
        return _distilled(student, teacher, data, config, folder, resume=resume, known=known, **shown)


def _in_rounds(
    student: BlockModel | str | os.PathLike[str],
    teacher: BlockModel | str | os.PathLike[str],
    data: Data | Mapping[str, Data] | None,
    config: DistillOptions,
    folder: RunFolder,
    *,
    resume: bool,
    progress: bool,
    known: Mapping[str, str] | None,
) -> BlockModel:
    """Prune the teacher part of the way to the student, distil, and repeat (`atomslim.train.rounds`)."""
    from atomslim.train.rounds import in_rounds  # noqa: PLC0415 - cuts models, which a single run does not

    goal, full = (load(one) if isinstance(one, str | os.PathLike) else one for one in (student, teacher))
    require_pair(goal, full)
    given = {task.name: opened(part, task.options) for task, part in _given(goal, data, config)}
    folder.create(config.model_dump(mode="json"), resume=resume)

    notes = iter([progress])  # the first round shows them

    def learn(model: BlockModel, part: DistillOptions, run: RunFolder) -> BlockModel:
        of = {"student": model_digest(goal), **(known or {})}
        shown = {"progress": progress, "notes": next(notes, False)}
        return _distilled(model, full, data, part, run, resume=run.has_run, known=of, **shown)

    return in_rounds(goal, full, given, config, folder, learn, progress=progress)


def _require_model(teacher: object) -> None:
    """Raise ConfigError for a teacher that is a calculator, with how to learn from one."""
    name = os.fspath(teacher) if isinstance(teacher, str | os.PathLike) else type(teacher).__name__
    if isinstance(teacher, AseCalculator) or name.startswith(CALCULATOR):
        raise ConfigError(
            f"{name}: a calculator has labels and no features to distil: let it label the structures (atomslim label "
            "DATA --teacher … -o labelled/), then fine-tune on them (atomslim finetune STUDENT labelled/)"
        )


def _distilled(  # noqa: PLR0913 -- what `distill` takes, and what is to be said
    student: BlockModel | str | os.PathLike[str],
    teacher: BlockModel | str | os.PathLike[str],
    data: Data | Mapping[str, Data] | None,
    config: DistillOptions,
    folder: RunFolder,
    *,
    resume: bool,
    progress: bool,
    notes: bool,
    known: Mapping[str, str] | None,
) -> BlockModel:
    """Distil in the run's folder; `notes` on data and graphs are shown first."""
    small = load(student) if isinstance(student, str | os.PathLike) else _copied(student)
    full = load(teacher) if isinstance(teacher, str | os.PathLike) else _copied(teacher)
    full.eval().requires_grad_(False)
    require_pair(small, full)
    require_smaller(small, full, strict=config.strict)
    _require_precision(full, config)
    with announced("reading the data", shown=progress):
        tasks = [
            _learning_task(task, given, small, full, config, folder if resume else None)
            for task, given in _given(small, data, config)
        ]
    say_labels(tasks, shown=notes)
    _look_at(tasks, full, strict=config.strict)
    began = origin({"student": small, "teacher": full}, tasks, known)
    small.requires_grad_(True)
    terms = [term for task in tasks for term in loss_terms(task, small.task(task.name))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        objective = Distillation(small, full, terms, config)
    config = with_batch_cost(config, small, tasks, folder, objective)
    folder.create(config.model_dump(mode="json"), resume=resume, origin=began)
    for task in tasks:
        note_task(folder, task)
    with announced("asking the teacher", shown=progress):
        kept = config.model_copy(update={"weights": objective.weights})
        objective.answers = _answers(full, tasks, kept, folder)
    said(graphs_apart(small, full), shown=notes)
    said(
        filter(None, (graph_note(small, task.graph, task.dataset.info, task.name) for task in tasks)),
        shown=notes,
    )
    summary = train(small, tasks, config, folder, operation="distil", show=progress, objective=objective)
    if progress:
        plain_console(stderr=True).print(summary)
    return load(folder.path / "best.safetensors", device=next(small.parameters()).device)


def _look_at(tasks: list[LearningTask], teacher: BlockModel, *, strict: bool) -> None:
    for task in tasks:
        for _ in Watch.over(teacher, task.name, strict=strict, who="the teacher").samples(task.looked_at()):
            pass


def _weighted(parts: list[Part], summed: Summed) -> Tensor:
    """Return Σ weight · sum / rows; the same output of several tasks shares its rows."""
    counts = summed(torch.stack([part.sum.count for part in parts]))
    kinds = [part.name.rpartition("/")[2] for part in parts]
    rows = {kind: sum(count for other, count in zip(kinds, counts, strict=True) if other == kind) for kind in kinds}
    shares = [
        part.weight * part.sum.total / torch.as_tensor(rows[kind]).clamp(min=1)
        for part, kind in zip(parts, kinds, strict=True)
    ]
    return torch.stack(shares).sum()


def _answers(
    teacher: BlockModel, tasks: list[LearningTask], config: DistillOptions, folder: RunFolder
) -> Answers | None:
    """Return the teacher's kept answers, or None to ask it at every step; raises ConfigError if they cannot be."""
    if config.weights.blocks and config.teacher_cache is True:
        raise ConfigError("teacher_cache true: features of blocks are not kept: set weights.blocks to 0, or no cache")
    if config.teacher_cache == "auto":
        size = Layout.of(teacher, config.weights).size(*training_size(tasks))
        wanted = not config.weights.blocks and size < CACHE_LIMIT and passes(tasks, config) >= 2
    else:
        wanted = config.teacher_cache
    if not wanted:
        return None
    path = folder.path / "teacher.answers"
    return kept_answers(path, teacher, tasks, config, config.weights, precision=config.teacher_precision)


def _given(
    student: BlockModel, data: Data | Mapping[str, Data] | None, config: DistillOptions
) -> list[tuple[TaskOptions, Data]]:
    """Return each task's options with its data; raises ConfigError if there is none."""
    if data is None:
        if not config.tasks:
            raise ConfigError("name the data: a dataset for each task that the student keeps")
        return [
            (task.model_copy(update={"name": student.task(task.name or None).name}), task.data) for task in config.tasks
        ]
    named = data if isinstance(data, Mapping) else {student.task().name: data}
    known = {task.name: task for task in config.tasks}
    return [(known.get(name, TaskOptions(name=student.task(name).name)), given) for name, given in named.items()]


def _learning_task(
    options: TaskOptions,
    data: Data,
    student: BlockModel,
    teacher: BlockModel,
    config: DistillOptions,
    folder: RunFolder | None,
) -> LearningTask:
    task = student.task(options.name)
    dataset = opened(data, options.options)
    if folder is not None:  # before a split is applied to data that it was not made for
        folder.require_origin({"data": {options.name: data_identity(dataset)}})
    split: Split | None = None if folder is None else noted(folder, options.name)[0]
    ours = {"cutoff": task.graph.cutoff, "neighbours": task.graph.neighbours}
    given = {name: value for name in ours if (value := getattr(options, name)) is not None}
    if any(value != ours[name] for name, value in given.items()):
        text = f"task {task.name}: {given} of the options are not used: graphs are those of the student, {ours}"
        warnings.warn(text, AtomslimWarning, stacklevel=2)
    wanted = options.model_copy(update={"targets": own_targets(task, options.targets)})
    prepared = prepare_task(dataset, wanted, split, own_scales(task), graph=task.graph, labelled=False)
    made = replace(prepared, unlabelled=not config.labels)
    if config.labels and config.validate_against == "teacher":
        raise ConfigError("validate against labels, or leave the loss on labels out")
    if config.labels or config.validate_against == "labels":
        require_validation(made)
        return on_reference_of_model(made, teacher)
    if config.validate_against == "auto" and _has_labels(made):
        require_validation(made)
        return on_reference_of_model(made, teacher)
    if config.validate_against == "auto":
        text = f"task {task.name}: no structure for validation has labels: compared with the teacher's answers instead"
        warn(text, AtomslimWarning, stacklevel=3)
    parts: list[SetName] = ["validation", "test"] if made.has_test else ["validation"]
    answers = {part: labelled_by(teacher, made.part(part), task.name, config.batch_size) for part in parts}
    return replace(made, others={**made.others, **answers}, answered=True)


def _has_labels(task: LearningTask) -> bool:
    counts = validation_labels(task).counts
    return any(counts[name] for name, options in task.targets.items() if options.weight)


def _require_precision(teacher: BlockModel, config: DistillOptions) -> None:
    conservative = next((task.name for task in teacher.tasks.values() if task.conservative), None)
    if config.teacher_precision == "bf16" and conservative:
        raise ConfigError(f"teacher_precision bf16: task {conservative} has conservative forces: use 32")


def _copied(model: BlockModel) -> BlockModel:
    """Return an independent copy with all its blocks."""
    copied = model.with_blocks(range(1, model.num_blocks + 1))
    copied.history = list(model.history)
    return copied
