"""Batches of labelled structures for one task after the other: what evaluation, scores and calibration read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from atomslim.atoms import Sample
from atomslim.data import Dataset
from atomslim.data.in_memory import Data, opened
from atomslim.data.loader import Batch, collate
from atomslim.data.splits import evenly
from atomslim.data.survey import survey
from atomslim.errors import ConfigError, DataError
from atomslim.models.block_model import BlockModel

TaskedData: TypeAlias = Data | Mapping[str, Data]
"""Data for the model's only task, or for tasks by name."""


def datasets(
    model: BlockModel, data: TaskedData, options: dict[str, str] | None = None, *, labelled: bool = True
) -> dict[str, Dataset]:
    """Open the data of each task.

    Raises:
        ConfigError: data without a task's name for a model that has several tasks, or a task that it does not have.
        DataError: a dataset that is missing, has no structures, or, if it is to be ``labelled``, none of the labels
            that its task predicts.

    """
    given: Mapping[str, Data] = data if isinstance(data, Mapping) else {"": data}
    found = {model.task(name or None).name: opened(part, options) for name, part in given.items()}
    if not found:
        raise ConfigError("no data: name a dataset for each task, as in oc20=xyz:frames.xyz")
    for name, dataset in found.items():
        if not len(dataset):
            raise DataError(f"{dataset.name}: has no structures for task {name}: check the file")
        if labelled:
            survey(dataset).require(predicted(model, name))
    return found


def spread_out(dataset: Dataset, limit: int | None) -> list[Sample]:
    """Read at most `limit` structures, evenly over the dataset, since neighbours in a file are often similar."""
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit}: give the number of structures to read, 1 or more")
    count = len(dataset)
    return [dataset[index] for index in evenly(count, count if limit is None else limit)]


def batches(model: BlockModel, task: str, samples: Iterable[Sample], batch_size: int) -> Iterator[Batch]:
    """Put structures side by side, with their graphs and with the labels that the task predicts."""
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: give the number of structures to take at once, 1 or more")
    stream = iter(samples)
    while chunk := list(islice(stream, batch_size)):
        yield _batch(model, task, chunk)


def predicted(model: BlockModel, task: str) -> list[str]:
    """Name what a task predicts: its targets, and the stress where it has one."""
    targets = [target.name for target in model.task(task).targets]
    return [*targets, "stress"] if model.gives_stress(model.task(task)) else targets


def _batch(model: BlockModel, task: str, samples: Sequence[Sample]) -> Batch:
    batch = collate(samples, [task] * len(samples), {task: predicted(model, task)}, model.topology)
    return batch.to(next(model.parameters()).device)
