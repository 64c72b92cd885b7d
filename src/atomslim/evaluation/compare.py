"""Models side by side on one dataset: errors and costs."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from atomslim.arguments import checked
from atomslim.atoms import Sample, to_batch
from atomslim.benchmarking.machine import machine
from atomslim.benchmarking.speed import Speed, measure_speed
from atomslim.data.in_memory import Samples
from atomslim.data.loader import collate
from atomslim.data.splits import Split
from atomslim.errors import ConfigError, DataError
from atomslim.evaluation.accuracy import Accuracy
from atomslim.evaluation.baseline import Baseline
from atomslim.evaluation.batches import TaskedData, batches, datasets, spread_out
from atomslim.evaluation.compared import ComparedModel
from atomslim.evaluation.comparison import Comparison, main_target
from atomslim.evaluation.reference_gap import find_gap, without_gap
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load
from atomslim.models.modes import parameter_count
from atomslim.models.registry import model_in
from atomslim.models.scope import Watch
from atomslim.progress import tracked
from atomslim.validation.checks import chosen_checks
from atomslim.validation.columns import outcomes
from atomslim.validation.inputs import named as structures_by_name
from atomslim.validation.run import validate

AnyModel: TypeAlias = BlockModel | str | os.PathLike[str]
"""A model or its file."""

Named = TypeVar("Named", bound=AnyModel)

CHECKED = 3
"""Structures that the physics of models is checked on, evenly over those compared."""

Models: TypeAlias = Mapping[str, AnyModel] | Sequence[AnyModel]
"""Models or their files, by name or in a row; the first is what the others are compared with."""


@checked
def compare(  # noqa: PLR0913 - what is compared, and how
    models: Models,
    data: TaskedData,
    *,
    split: Split | str | os.PathLike[str] | None = None,
    limit: int | None = 256,
    batch_size: int = 8,
    speed: bool = True,
    repeats: int = 10,
    options: dict[str, str] | None = None,
    strict: bool = False,
    checks: str | Sequence[str] = (),
) -> Comparison:
    """Measure errors and costs of several models on the same structures.

        report = atomslim.compare({"full": model, "4 blocks": small}, "rmd17:aspirin")

    Args:
        models: models or their files; the first is what the others are compared with.
        data: labelled structures, by task if the models have several.
        split: only the test set of this split (`split.TASK.json` in a run's folder), for data of one task.
        limit: at most this many structures per task, evenly spaced over its data.
        batch_size: structures per batch, also for throughput.
        speed: also measure FLOPs, times and memory, on the first structures.
        repeats: minimum number of timing rounds; short runs are repeated until they fill a second.
        options: options of the datasets' readers.
        strict: refuse structures outside of what one of the models was trained on, or with a charge or spin.
        checks: also what `atomslim.validate` checks, ``quick``, ``full`` or names of checks, on three of the first
            task's structures: the first model alone, the others against it.

    Raises:
        ConfigError: no models, an unknown check, a task that one of them does not have, targets in different units, or
            none in common.
        CheckpointError: a model file that cannot be read.
        DataError: a dataset that is missing or has no labels to compare with.

    """
    if checks:
        chosen_checks(checks)  # refuses unknown checks before anything is measured
    loaded = _loaded(models)
    first = next(iter(loaded.values()))
    sets = datasets(first, data, options)
    _require_same(loaded, list(sets))
    samples = {task: _chosen(dataset, split, limit) for task, dataset in sets.items()}
    for name, model in loaded.items():
        _look_at(model, name, samples, strict=strict)
    found_gaps = {task: find_gap(first, task, samples[task], batch_size) for task in sets}
    samples = {task: without_gap(samples[task], gap) for task, gap in found_gaps.items()}
    found = {
        name: {task: _accuracy(model, task, samples[task], batch_size, sets[task].info.units) for task in sets}
        for name, model in loaded.items()
    }
    errors = {name: {task: accuracy.result() for task, accuracy in by_task.items()} for name, by_task in found.items()}
    main_target(list(errors.values()))
    baselines = {task: _baseline(first, task, samples[task], sets[task].info.units) for task in sets}
    speeds: dict[str, Speed] = {}
    single: dict[str, Speed] = {}
    if speed:
        task, chosen = next(iter(samples.items()))
        speeds = measure_speed(loaded, to_batch(chosen[:batch_size]), task=task, repeats=repeats)
        single = measure_speed(loaded, to_batch(chosen[:1]), task=task, repeats=repeats)
    validations = _validations(loaded, samples, checks) if checks else {}
    rows = tuple(
        ComparedModel(
            name=name,
            blocks=model.num_blocks,
            parameters=parameter_count(model),
            errors=errors[name],
            by_element={task: accuracy.by_element() for task, accuracy in found[name].items()},
            speed=speeds.get(name),
            single=single.get(name),
            validation=validations.get(name, {}),
        )
        for name, model in loaded.items()
    )
    names = {task: dataset.name for task, dataset in sets.items()}
    return Comparison(
        names,
        sum(map(len, samples.values())),
        machine(next(first.parameters()).device),
        rows,
        {task: baseline.result() for task, baseline in baselines.items()},
        {task: baseline.by_element() for task, baseline in baselines.items()},
        {task: gap for task, gap in found_gaps.items() if gap is not None},
        model_files(models),
    )


def model_files(models: Models) -> dict[str, str]:
    """Return model → file, of those models that are named by a file or a folder."""
    by_name = models if isinstance(models, Mapping) else named(models)
    paths = {name: Path(model) for name, model in by_name.items() if not isinstance(model, BlockModel)}
    return {name: str(model_in(path) if path.is_dir() else path) for name, path in paths.items() if path.exists()}


def _validations(
    models: Mapping[str, BlockModel], samples: Mapping[str, list[Sample]], checks: str | Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return the outcomes of the checks: of the first model alone, of the others against it."""
    task, given = next(iter(samples.items()))
    structures = structures_by_name(spread_out(Samples(given), CHECKED))
    first = next(iter(models.values()))
    return {
        name: outcomes(
            validate(
                model, structures, against=None if model is first else first, checks=checks, task=task, progress=False
            )
        )
        for name, model in models.items()
    }


def _loaded(models: Models) -> dict[str, BlockModel]:
    if not models:
        raise ConfigError("no models to compare: name one or more")
    if isinstance(models, Mapping):
        return {name: _open(model) for name, model in models.items()}
    return {name: _open(model) for name, model in named(models).items()}


def named(models: Sequence[Named]) -> dict[str, Named]:
    """Name models by their files: best, or kd/best where several are called best, or best (2) if those coincide."""
    paths = [None if isinstance(model, BlockModel) else Path(model).absolute() for model in models]
    stems = [f"model {number}" if path is None else _stem(path) for number, path in enumerate(paths, start=1)]
    found: dict[str, Named] = {}
    for number, (model, path, stem) in enumerate(zip(models, paths, stems, strict=True), start=1):
        homes = {other.parent for other in paths if other is not None and other.stem == stem}
        name = f"{path.parent.name}/{stem}" if path is not None and len(homes) > 1 else stem
        found[f"{name} ({number})" if name in found else name] = model
    return found


def _stem(path: Path) -> str:
    """Return a file's name without its ending; names that families give (family:1.0) have none."""
    return path.name if path.is_dir() or (":" in path.name and not path.is_file()) else path.stem


def _open(model: AnyModel) -> BlockModel:
    return model if isinstance(model, BlockModel) else load(model)


def _require_same(models: Mapping[str, BlockModel], tasks: Iterable[str]) -> None:
    """Require that all models have the tasks, with the same units."""
    first = next(iter(models))
    for task in tasks:
        units = {target.name: target.unit for target in models[first].task(task).targets}
        for name, model in models.items():
            if task not in model.tasks:
                raise ConfigError(f"{name}: has no task {task}, which {first} has: it has {', '.join(model.tasks)}")
            for target in model.task(task).targets:
                if units.get(target.name, target.unit) != target.unit:
                    raise ConfigError(
                        f"{name}: gives {target.name} in {target.unit}, {first} in {units[target.name]}: compare "
                        "models of the same units"
                    )


def _chosen(dataset: Any, split: Split | str | os.PathLike[str] | None, limit: int | None) -> list[Sample]:
    if split is None:
        return spread_out(dataset, limit)
    read = split if isinstance(split, Split) else Split.load(split)
    read.require(len(dataset), dataset.name)
    if not read.test:
        raise DataError(f"{dataset.name}: the split has no test set: compare on all structures, or make a new split")
    return [dataset[number] for number in read.test[:limit]]


def _look_at(model: BlockModel, name: str, samples: Mapping[str, list[Sample]], *, strict: bool) -> None:
    for task, given in samples.items():
        for _ in Watch.over(model, task, strict=strict, who=name).samples(given):
            pass


def _accuracy(
    model: BlockModel, task: str, samples: list[Sample], batch_size: int, units: Mapping[str, str]
) -> Accuracy:
    accuracy = Accuracy(units, labels=model.task(task).labels)
    given = batches(model.eval(), task, samples, batch_size)
    for batch in tracked(given, f"errors with {model.num_blocks} blocks", len(samples), size=len):
        accuracy.add(model.predict(batch.atoms, task, batch.topology), batch.targets, batch.atoms, batch.names)
    return accuracy


def _baseline(model: BlockModel, task: str, samples: list[Sample], units: Mapping[str, str]) -> Baseline:
    baseline = Baseline(units, classes=model.task(task).labels)
    targets = [*(target.name for target in model.task(task).targets), "stress"]
    for sample in samples:
        batch = collate([sample], [task], {task: targets})
        baseline.add(batch.targets, batch.atoms)
    return baseline
