"""Models side by side on one dataset: what each gets wrong, and what it costs."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from matplotlib.figure import Figure
from rich.console import Console, ConsoleOptions, RenderResult

from atomslim.atoms import Sample, to_batch
from atomslim.benchmarking.machine import machine
from atomslim.benchmarking.speed import Speed, measure_speed
from atomslim.benchmarking.turns import BUSY
from atomslim.data.loader import collate
from atomslim.data.splits import Split
from atomslim.errors import ConfigError, DataError
from atomslim.evaluation.accuracy import Accuracy
from atomslim.evaluation.baseline import Baseline
from atomslim.evaluation.batches import TaskedData, batches, datasets, spread_out
from atomslim.evaluation.class_table import BASE_RATE, CLASSES, class_errors, class_table
from atomslim.evaluation.classification import MEAN_OF_LABELS, ClassErrors
from atomslim.evaluation.compared import ComparedModel
from atomslim.evaluation.errors import PER_ATOM, Errors
from atomslim.evaluation.reference_gap import MARK, REMEDY, ReferenceGap, find_gap, marked, without_gap
from atomslim.files import atomic_files
from atomslim.models.block_model import BlockModel
from atomslim.models.model_file import load
from atomslim.models.scope import Watch
from atomslim.report import page
from atomslim.report.cells import plain_rows
from atomslim.report.page import TextTable, number

AnyModel: TypeAlias = BlockModel | str | os.PathLike[str]
"""A model or its file."""

Named = TypeVar("Named", bound=AnyModel)

Models: TypeAlias = Mapping[str, AnyModel] | Sequence[AnyModel]
"""Models or their files, by name or in a row; the first is what the others are compared with."""

MEAN = "predicting the mean"

FILES = ("compare.json", "compare.csv", "compare.md", "compare.html", "compare.png")
"""What is written."""

CONVENTION = (
    "FLOPs are those of matrix products, multiply and add counted as two, for one structure. Times are the shortest of "
    "many repeats in which the models take turns, ± half their interquartile range; throughput includes building the "
    "graphs, latency is one structure on graphs that are there. Speed-ups are medians of the rounds' ratios, with "
    "their spread, and unclear where that exceeds ± 15 %. Models of one architecture share one time. × floor compares "
    "a batch's time with its FLOPs at the measured rate of the model's largest dense layer."
)


@dataclass(frozen=True)
class Comparison:
    """Models side by side, the first of them the one that the others are compared with."""

    data: dict[str, str]
    """Task → dataset."""
    structures: int
    machine: str
    """What times and memory were measured on."""
    models: tuple[ComparedModel, ...]
    mean: dict[str, dict[str, Errors]]
    """Task → target → errors of predicting the mean, see `atomslim.evaluation.baseline`."""
    mean_by_element: dict[str, dict[str, float]]
    """Task → element → mean absolute force in eV/Å."""
    gaps: dict[str, ReferenceGap] = field(default_factory=dict)
    """Tasks whose labels have another reference than the first model's energies, by which the labels were lowered."""

    @property
    def main_target(self) -> tuple[str, str]:
        """The task and target that figures show: forces where all models have them, else the first that all have."""
        return main_target([model.errors for model in self.models])

    def tables(self) -> list[TextTable]:
        """Return errors, costs, both relative to the first model, and force errors by element as tables of texts."""
        classes = class_table(
            {**{model.name: self._flat(model.errors) for model in self.models}, BASE_RATE: self._flat(self.mean)}
        )
        made = [self._errors(), *([classes] if classes is not None else []), self._costs()]
        made += [self._relative()] if len(self.models) > 1 else []
        return [*made, *(self._elements(task) for task in self.data if self.models[0].by_element.get(task))]

    def plot(self) -> Figure:
        """Draw error against time (or parameters, where no time was measured) with the Pareto front."""
        from atomslim.evaluation.compare_figure import draw  # noqa: PLC0415 - matplotlib takes half a second

        return draw(self.models, *self.main_target, several=len(self.data) > 1)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write compare.json, compare.csv, compare.md, compare.html and compare.png into a folder."""
        tables = self.tables()
        content: dict[str, Any] = {"data": self.data, "structures": self.structures, "machine": self.machine}
        means = {task: {name: asdict(one) for name, one in found.items()} for task, found in self.mean.items()}
        content[MEAN] = means
        content |= {"conventions": CONVENTION, "main target": list(self.main_target)}
        content |= {"reference gaps": {task: asdict(gap) for task, gap in self.gaps.items()}}
        content |= {"models": [{**model.as_dict(), **self._speed_ups(model)} for model in self.models]}
        body = [
            page.summary(self.words()),
            page.picture(
                self.plot(), "Error against cost; blue: the Pareto front, orange: beaten in both by another model."
            ),
        ]
        body += [table.html() for table in tables]
        texts = {
            "compare.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n",
            "compare.csv": self.csv(),
            "compare.md": "\n".join([*(table.markdown() for table in tables), CONVENTION, ""]),
            "compare.html": page.page("Models side by side", [*body, f"<p class=note>{CONVENTION}</p>"]),
        }
        with atomic_files(folder, FILES) as temporary:
            for name, text in texts.items():
                temporary[name].write_text(text, encoding="utf-8")
            self.plot().savefig(temporary["compare.png"], format="png", dpi=150)

    def csv(self) -> str:
        """Write one line of plain numbers per model, in SI units, eV and Å as the heads of the columns say."""
        rows = plain_rows(model.row() for model in self.models)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def words(self) -> list[str]:
        """Say in plain sentences what the smaller models cost and gain."""
        first, (task, target) = self.models[0], self.main_target
        count = f"{len(self.models)} models" if len(self.models) > 1 else "1 model"
        sentences = [f"{count} on {self.structures} structures of {', '.join(dict.fromkeys(self.data.values()))}."]
        for model in self.models[1:]:
            parts = [f"{model.parameters / first.parameters:.0%} of the parameters"]
            if model.single is not None and first.single is not None:
                parts.append(model.single.gain(first.single, graphs=False).words())
            before, now = (one.errors[task][target] for one in (first, model))
            if before.error:
                what = target if before.measure == "MAE" else f"{target} ({before.measure})"
                parts.append(f"{now.error / before.error:.2f} × the error of {what}")
            sentences.append(f"{model.name}, against {first.name}: {', '.join(parts)}.")
        sentences += self._gap_notes()
        if first.speed is not None:
            sentences.append(f"Measured on {self.machine}.")
        return sentences

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show errors and costs as tables."""
        del console, options
        for table in self.tables():
            yield table.rich()
            if table.title == CLASSES:
                yield table.note

    def _speed_ups(self, model: ComparedModel) -> dict[str, Any]:
        first = self.models[0]
        if not (first.single and first.speed and model.single and model.speed):
            return {}
        gains = {"one": model.single.gain(first.single, graphs=False), "batch": model.speed.gain(first.speed)}
        return {"speed-up": {name: gain.as_dict() for name, gain in gains.items()}}

    def _flat(self, errors: Mapping[str, Mapping[str, Errors]]) -> dict[str, Errors]:
        """Return errors by target, with the task's name where there are several."""
        several = len(self.data) > 1
        return {
            f"{task}, {name}" if several else name: one for task, found in errors.items() for name, one in found.items()
        }

    def _targets(self) -> list[tuple[str, str]]:
        found = ((task, name) for model in self.models for task in model.errors for name in model.errors[task])
        return list(dict.fromkeys(found))

    def _heads(self) -> list[str]:
        names = [(task, marked(name, self.gaps.get(task))) for task, name in self._targets()]
        return [f"{task}, {name}" if len(self.data) > 1 else name for task, name in names]

    def _gap_notes(self) -> list[str]:
        return [
            f"{MARK} {task}, after the fit to {self.models[0].name}: {gap}; {REMEDY}."
            for task, gap in self.gaps.items()
        ]

    def _errors(self) -> TextTable:
        rows = [
            (model.name, *(_error(model.errors.get(task, {}).get(name)) for task, name in self._targets()))
            for model in self.models
        ]
        rows.append((MEAN, *(_error(self.mean[task].get(name)) for task, name in self._targets())))
        what = f"{MEAN}: of these labels, by element for energies, the base rate for labels of 0 and 1; no forces."
        note = " ".join([f"{self._measures()} on the same structures.", what, *self._gap_notes()])
        return TextTable("Errors", note, ("model", *self._heads()), tuple(rows))

    def _measures(self) -> str:
        shown = self._flat(self.models[0].errors)
        kinds = ["Mean absolute errors"] if len(class_errors(shown)) < len(shown) else []
        kinds += ["ROC-AUC (the log loss where all labels are alike)"] if class_errors(shown) else []
        return " and ".join(kinds)

    def _costs(self) -> TextTable:
        rows = []
        for model in self.models:
            cells = [model.name, str(model.blocks), number(model.parameters / 1e6)]
            if model.speed is not None and model.single is not None:
                cells += [number(model.speed.flops / 1e9), _spread(model.single), _rate(model.speed)]
                cells += ["" if model.speed.memory is None else number(model.speed.memory / 2**20)]
                cells += ["" if model.speed.over_floor is None else number(model.speed.over_floor)]
            rows.append(tuple(cells))
        first = self.models[0].speed
        columns: tuple[str, ...] = ("model", "blocks", "M parameters")
        if first is None:
            return TextTable("Costs", "Speed was not measured.", columns, tuple(rows))
        columns += ("GFLOPs", "latency / ms", "structures/s", "peak / MiB", "× floor")
        note = f"structures/s, peak memory and × floor: batches of {first.structures} ({first.atoms} atoms)."
        return TextTable("Costs", note, columns, tuple(rows))

    def _relative(self) -> TextTable:
        first = self.models[0]
        measured = first.speed is not None
        rows = []
        for model in self.models[1:]:
            cells = [f"{model.parameters / first.parameters:.3f}"]
            if model.speed is not None and first.speed is not None:
                cells.append(_ratio(model.speed.flops, first.speed.flops))
                cells += _gains(first, model)
            for task, name in self._targets():
                now, before = (one.errors.get(task, {}).get(name) for one in (model, first))
                cells.append(_ratio(_value(now), _value(before)))
            rows.append((model.name, *cells))
        columns = ("model", "parameters", *(("FLOPs", "speed-up, one", "speed-up, batch") if measured else ()))
        columns += tuple(f"error, {head}" for head in self._heads())
        note = f"Ratios; a speed-up above 1 is faster, an error above 1 is larger; unclear: {BUSY}."
        if class_errors(self._flat(first.errors)):
            note += " The error of a label of 0 and 1 is 1 − ROC-AUC, or its log loss where all labels are alike."
        return TextTable(f"Relative to {first.name}", note, columns, tuple(rows))

    def _elements(self, task: str) -> TextTable:
        """Give each element a row: there may be ninety."""
        found = {
            **{model.name: model.by_element.get(task, {}) for model in self.models},
            MEAN: self.mean_by_element[task],
        }
        rows = tuple(
            (element, *(number(1e3 * errors[element]) if element in errors else "" for errors in found.values()))
            for element in self.models[0].by_element[task]
        )
        title = f"Force error by element, {task}"
        return TextTable(title, "Mean absolute error in meV/Å.", ("element", *found), rows)


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
) -> Comparison:
    """Measure errors and costs of several models on the same structures.

        report = atomslim.compare({"full": model, "4 blocks": small}, "rmd17:aspirin")

    Args:
        models: models or their files; the first is what the others are compared with.
        data: labelled structures, by task where the models have several.
        split: only the test set of this split (`split.TASK.json` in a run's folder), for data of one task.
        limit: at most so many structures of each task, evenly over its data.
        batch_size: structures at once, also for throughput.
        speed: also measure FLOPs, times and memory, on the first structures.
        repeats: rounds of the times, at least; short passes are repeated until they fill a second.
        options: options of the datasets' readers.
        strict: refuse structures outside of what one of the models was trained on, or with a charge or spin.

    Raises:
        ConfigError: no models, a task that one of them does not have, targets in different units, or none in common.
        CheckpointError: a model file that cannot be read.
        DataError: a dataset that is not there or has no labels to compare with.

    """
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
    rows = tuple(
        ComparedModel(
            name=name,
            blocks=model.num_blocks,
            parameters=sum(weight.numel() for weight in model.parameters()),
            errors=errors[name],
            by_element={task: accuracy.by_element() for task, accuracy in found[name].items()},
            speed=speeds.get(name),
            single=single.get(name),
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
    )


def main_target(models: Sequence[Mapping[str, Mapping[str, Errors]]]) -> tuple[str, str]:
    """Return the task and target to compare models' errors by.

    That is forces, energy per atom, the mean over labels of 0 and 1, or what else all have. Raises ConfigError if
    there is none.
    """
    shared = [
        (task, name)
        for task, errors in models[0].items()
        for name in sorted(errors, key=lambda name: {"forces": 0, PER_ATOM: 1, MEAN_OF_LABELS: 2}.get(name, 3))
        if all(name in model[task] for model in models)
    ]
    if not shared:
        raise ConfigError("the models have no target in common that the data labels: compare each on its own data")
    return shared[0]


def _loaded(models: Models) -> dict[str, BlockModel]:
    if not models:
        raise ConfigError("no models to compare: name one or more")
    if isinstance(models, Mapping):
        return {name: _open(model) for name, model in models.items()}
    return {name: _open(model) for name, model in named(models).items()}


def named(models: Sequence[Named]) -> dict[str, Named]:
    """Name models by their files: best, or kd/best where several are called best, or best (2) for the very same."""
    paths = [None if isinstance(model, BlockModel) else Path(model).absolute() for model in models]
    stems = [f"model {place}" if path is None else _stem(path) for place, path in enumerate(paths, start=1)]
    found: dict[str, Named] = {}
    for place, (model, path, stem) in enumerate(zip(models, paths, stems, strict=True), start=1):
        homes = {other.parent for other in paths if other is not None and other.stem == stem}
        name = f"{path.parent.name}/{stem}" if path is not None and len(homes) > 1 else stem
        found[f"{name} ({place})" if name in found else name] = model
    return found


def _stem(path: Path) -> str:
    """Return a file's name without its ending; names that families give (family:1.0) have none."""
    return path.name if ":" in path.name and not path.is_file() else path.stem


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
        raise DataError(f"{dataset.name}: the split has no test set: compare on all structures, or split anew")
    return [dataset[number] for number in read.test[:limit]]


def _look_at(model: BlockModel, name: str, samples: Mapping[str, list[Sample]], *, strict: bool) -> None:
    for task, given in samples.items():
        for _ in Watch.over(model, task, strict=strict, who=name).samples(given):
            pass


def _accuracy(
    model: BlockModel, task: str, samples: list[Sample], batch_size: int, units: Mapping[str, str]
) -> Accuracy:
    accuracy = Accuracy(units, labels=model.task(task).labels)
    for batch in batches(model.eval(), task, samples, batch_size):
        accuracy.add(model.predict(batch.atoms, task, batch.topology), batch.targets, batch.atoms, batch.names)
    return accuracy


def _baseline(model: BlockModel, task: str, samples: list[Sample], units: Mapping[str, str]) -> Baseline:
    baseline = Baseline(units, classes=model.task(task).labels)
    targets = [*(target.name for target in model.task(task).targets), "stress"]
    for sample in samples:
        batch = collate([sample], [task], {task: targets})
        baseline.add(batch.targets, batch.atoms)
    return baseline


def _value(errors: Errors | None) -> float | None:
    return None if errors is None else errors.error


def _ratio(above: float | None, below: float | None) -> str:
    return "" if above is None or not below else f"{above / below:.2f}"


def _spread(single: Speed) -> str:
    return f"{number(1e3 * single.seconds)} ± {number(1e3 * single.spread, 2)}"


def _rate(speed: Speed) -> str:
    return f"{number(speed.throughput)} ± {speed.spread / speed.seconds:.0%}"


def _gains(first: ComparedModel, model: ComparedModel) -> list[str]:
    """Return the speed-ups of one structure and of a batch."""
    pairs = ((first.single, model.single, False), (first.speed, model.speed, True))
    return [
        "" if before is None or after is None else str(after.gain(before, graphs=graphs))
        for before, after, graphs in pairs
    ]


def _error(errors: Errors | None) -> str:
    if errors is None:
        return ""
    shown = errors.shown
    return str(errors) if isinstance(errors, ClassErrors) else f"{number(shown.mae, 4)} {shown.unit}"
