"""Errors of a model on a labelled dataset."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from atomslim.arguments import checked
from atomslim.atoms import Sample
from atomslim.data import Dataset
from atomslim.data.in_memory import Data, opened
from atomslim.data.references import ReferenceGap
from atomslim.data.splits import Split
from atomslim.data.survey import survey
from atomslim.errors import ConfigError, DataError
from atomslim.evaluation.accuracy import Accuracy
from atomslim.evaluation.baseline import Baseline
from atomslim.evaluation.batches import batches, predicted
from atomslim.evaluation.classification import BASE_RATE, class_errors, class_table
from atomslim.evaluation.errors import Errors, own_unit
from atomslim.evaluation.reference_gap import MARK, REMEDY, EnergyDifferences, marked
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load
from atomslim.models.modes import evaluating
from atomslim.models.scope import Watch
from atomslim.progress import tracked
from atomslim.report.shown import Shown
from atomslim.words import number_of

Part = Literal["all", "train", "validation", "test"]


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """Errors by target, of the model and of predicting the ``mean``; `units_in_file` are the dataset's own.

    Of labels of 0 and 1, ``mean`` is the base rate.
    """

    data: str
    task: str
    part: Part
    structures: int
    errors: dict[str, Errors]
    mean: dict[str, Errors]
    units_in_file: str
    gap: ReferenceGap | None = None
    """Between the reference energies of labels and model: errors of energies are then those after a fit per element."""

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and texts."""
        parts = {"errors": self.errors, "mean": self.mean}
        plain = {what: {name: vars(value) for name, value in part.items()} for what, part in parts.items()}
        return {**vars(self), **plain, "gap": None if self.gap is None else vars(self.gap)}

    def words(self) -> Iterator[str]:
        """List the errors, one per line."""
        yield f"{self.data} ({self.part}): {number_of(self.structures, 'structure')} with task {self.task}"
        for name, value in self.errors.items():
            yield f"{marked(name, self.gap)}: {value}"
        if self.gap is not None:
            yield f"{MARK} after this fit: {self.gap}; {REMEDY}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show it as tables: numbers, and labels of 0 and 1."""
        del console, options
        yield f"{self.data} ({self.part}): {number_of(self.structures, 'structure')} with task {self.task}"
        if len(class_errors(self.errors)) < len(self.errors):
            yield self._numbers()
        if (labels := class_table({"model": self.errors, BASE_RATE: self.mean})) is not None:
            yield labels.rich()
            yield labels.note
        if self.gap is not None:
            yield f"{MARK} after this fit: {self.gap}; {REMEDY}"

    def _numbers(self) -> Table:
        """Return the errors of all numerical targets."""
        table = Table("target", "MAE", "RMSE", "MAE, dataset's unit", "MAE of predicting the mean", "numbers")
        labels = class_errors(self.errors)
        for name, value in self.errors.items():
            if name in labels:
                continue
            shown, own = value.shown, own_unit(value, self.units_in_file)
            cells = f"{shown.mae:.4g} {shown.unit}", f"{shown.rmse:.4g} {shown.unit}", f"{own.mae:.4g} {own.unit}"
            mean = self.mean[name].shown
            table.add_row(marked(name, self.gap), *cells, f"{mean.mae:.4g} {mean.unit}", str(value.count))
        return table


@checked
def evaluate(  # noqa: PLR0913 - what is compared, and how
    model: BlockModel | str | os.PathLike[str],
    data: Data,
    *,
    task: str | None = None,
    part: Part | None = None,
    split: Split | str | os.PathLike[str] | None = None,
    batch_size: int = 16,
    free_atoms_only: bool = True,
    options: dict[str, str] | None = None,
    strict: bool = False,
) -> Evaluation:
    """Compare a model's predictions with the labels of a dataset.

    Args:
        model: the model, or its file.
        data: name of a dataset, an open one, or labelled structures.
        task: the model's task; default: its only one.
        part: all structures, or one set of ``split``; default: the test set of a split, all without one.
        split: a split, or the file of one (`split.TASK.json` in a run's folder).
        batch_size: structures per batch.
        free_atoms_only: leave out the forces on fixed atoms.
        options: options of the dataset's reader.
        strict: refuse structures outside of what the task was trained on, or with a charge or spin.

    Raises:
        ConfigError: an unknown task, a part without a split, or all structures with one.
        DataError: a dataset that is missing or broken, or has no label that the task predicts.
        StructureError: a structure that no model can take.

    """
    loaded = load(model) if isinstance(model, str | os.PathLike) else model
    name = loaded.task(task).name
    dataset = opened(data, options)
    units, classes = dataset.info.units, loaded.task(name).labels
    accuracy = Accuracy(units, free_atoms_only=free_atoms_only, labels=classes)
    baseline = Baseline(units, free_atoms_only=free_atoms_only, classes=classes)
    energies = EnergyDifferences()
    structures = 0
    part = part or ("all" if split is None else "test")
    chosen = Watch.over(loaded, name, strict=strict).samples(_chosen(dataset, part, split))
    total = len(dataset) if part == "all" else None
    with evaluating(loaded):
        for batch in tracked(batches(loaded, name, chosen, batch_size), "evaluate", total, size=len):
            outputs = loaded.predict(batch.atoms, name, batch.topology)
            accuracy.add(outputs, batch.targets, batch.atoms, batch.names)
            energies.add_batch(outputs, batch.targets, batch.atoms)
            baseline.add(batch.targets, batch.atoms)
            structures += len(batch)
    if not structures:
        raise DataError(f"{dataset.name}: there are no structures to compare with: check the file and the split")
    if not accuracy.compared:
        survey(dataset).require(predicted(loaded, name))
    gap, mean = energies.gap(), baseline.result()
    errors = accuracy.result() | ({} if gap is None else energies.errors(gap))
    return Evaluation(dataset.name, name, part, structures, errors, mean, dataset.info.units_in_file, gap)


def _chosen(dataset: Dataset, part: Part, split: Split | str | os.PathLike[str] | None) -> Iterator[Sample]:
    if part == "all" and split is not None:
        raise ConfigError("part all: a split has no use where all structures are taken: leave one of them out")
    if part == "all":
        return iter(dataset)
    if split is None:
        raise ConfigError(f"part {part}: say of which split (split.TASK.json in a run's folder)")
    read = split if isinstance(split, Split) else Split.load(split)
    read.require(len(dataset), dataset.name)
    return (dataset[number] for number in getattr(read, part))
