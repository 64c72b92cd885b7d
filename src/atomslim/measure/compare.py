"""Models side by side on one dataset: what each gets wrong, and what it costs."""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from atomslim.atoms import Sample, to_batch
from atomslim.data.splits import Split
from atomslim.errors import ConfigError
from atomslim.files import atomic_write
from atomslim.measure import page
from atomslim.measure.accuracy import Accuracy, Errors
from atomslim.measure.batches import TaskedData, batches, datasets, spread_out
from atomslim.measure.page import TextTable
from atomslim.measure.speed import Speed, measure_speed
from atomslim.models.block_model import BlockModel
from atomslim.models.checkpoint import load

Models: TypeAlias = (
    Mapping[str, "BlockModel | str | os.PathLike[str]"] | Sequence["BlockModel | str | os.PathLike[str]"]
)
"""Models or their files, by name or in a row; the first is what the others are compared with."""

CONVENTION = (
    "FLOPs are those of matrix products, multiply and add counted as two. Times are medians over repeats in which the "
    "models take turns; throughput includes building the graphs, latency is one structure on graphs that are there."
)


@dataclass(frozen=True)
class ComparedModel:
    """One model's errors and costs."""

    name: str
    blocks: int
    parameters: int
    errors: dict[str, dict[str, Errors]]
    """Task → target → errors."""
    by_element: dict[str, dict[str, float]]
    """Task → element → force MAE in eV/Å."""
    speed: Speed | None
    latency: float | None
    """Seconds for one structure."""

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        speed = None if self.speed is None else self.speed.as_dict()
        return {**asdict(self), "speed": speed}


@dataclass(frozen=True)
class Comparison:
    """Models side by side, the first of them the one that the others are compared with."""

    data: dict[str, str]
    """Task → dataset."""
    structures: int
    models: tuple[ComparedModel, ...]

    def tables(self) -> list[TextTable]:
        """Return errors, costs, and force errors by element as tables of texts."""
        made = [self._errors(), self._costs()]
        return [*made, *(self._elements(task) for task, found in self.models[0].by_element.items() if found)]

    def plot(self) -> Figure:
        """Draw error against time (or parameters, where no time was measured) with the Pareto front."""
        from atomslim.measure.compare_figure import draw  # noqa: PLC0415 - matplotlib takes half a second

        return draw(self)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write compare.json, compare.csv, compare.md, compare.html and compare.png into a folder."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        tables = self.tables()
        content = {"data": self.data, "structures": self.structures, "conventions": CONVENTION}
        content |= {"models": [model.as_dict() for model in self.models]}
        _write(place / "compare.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        _write(place / "compare.md", "\n".join([*(table.markdown() for table in tables), CONVENTION, ""]))
        body = [
            page.summary(self.words()),
            page.picture(self.plot(), "Error against cost; the line is the Pareto front."),
        ]
        body += [table.html() for table in tables]
        _write(place / "compare.html", page.page("Models side by side", [*body, f"<p class=note>{CONVENTION}</p>"]))
        with (
            atomic_write(place / "compare.csv") as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            for table in tables[:2]:
                csv.writer(file).writerows([table.columns, *table.rows, ()])
        with atomic_write(place / "compare.png") as temporary:
            self.plot().savefig(temporary, format="png", dpi=150)

    def words(self) -> list[str]:
        """Say in plain sentences what the smaller models cost and gain."""
        first = self.models[0]
        sentences = [f"{len(self.models)} models on {self.structures} structures of {', '.join(self.data.values())}."]
        for model in self.models[1:]:
            parts = [f"{model.parameters / first.parameters:.0%} of the parameters"]
            if model.latency and first.latency:
                parts.append(f"{first.latency / model.latency:.2f} × the speed")
            if main_error(first) and main_error(model):
                parts.append(f"{main_error(model) / main_error(first):.2f} × the error")
            sentences.append(f"{model.name} has {', '.join(parts)} of {first.name}.")
        return sentences

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show errors and costs as tables."""
        del console, options
        for table in self.tables():
            shown = Table(*table.columns, title=table.title)
            for row in table.rows:
                shown.add_row(*row)
            yield shown

    def _errors(self) -> TextTable:
        kinds = list(
            dict.fromkeys(
                (task, name) for model in self.models for task, found in model.errors.items() for name in found
            )
        )
        rows = [
            (model.name, *(_error(model.errors.get(task, {}).get(name)) for task, name in kinds))
            for model in self.models
        ]
        columns = [f"{task}, {name}" if len(self.data) > 1 else name for task, name in kinds]
        return TextTable("Errors", "Mean absolute errors on the same structures.", ("model", *columns), tuple(rows))

    def _costs(self) -> TextTable:
        first = self.models[0]
        rows = []
        for model in self.models:
            cells = [model.name, str(model.blocks), f"{model.parameters / 1e6:.4g}"]
            if model.speed is not None and model.latency is not None:
                memory = "" if model.speed.memory is None else f"{model.speed.memory / 2**20:.0f}"
                cells += [f"{model.speed.flops / 1e9:.3g}", f"{1e3 * model.latency:.3g}"]
                cells += [f"{model.speed.throughput:.3g}", memory, f"{(first.latency or 0.0) / model.latency:.2f} ×"]
            rows.append(tuple(cells))
        measured = first.speed is not None
        columns: tuple[str, ...] = ("model", "blocks", "parameters / M")
        columns += ("GFLOPs", "latency / ms", "structures/s", "peak memory / MiB", "speed-up") if measured else ()
        return TextTable("Costs", "The speed-up is that of the latency.", columns, tuple(rows))

    def _elements(self, task: str) -> TextTable:
        elements = list(self.models[0].by_element[task])
        rows = [
            (model.name, *(f"{1e3 * model.by_element[task][element]:.4g}" for element in elements))
            for model in self.models
        ]
        title = f"Force error by element, {task}"
        return TextTable(title, "Mean absolute error in meV/Å.", ("model", *elements), tuple(rows))


def compare(
    models: Models,
    data: TaskedData,
    *,
    split: Split | str | os.PathLike[str] | None = None,
    limit: int | None = 256,
    batch_size: int = 8,
    speed: bool = True,
    repeats: int = 5,
    options: dict[str, str] | None = None,
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
        repeats: of the times.
        options: options of the datasets' readers.

    Raises:
        ConfigError: no models, a task that one of them does not have, or targets in different units.
        CheckpointError: a model file that cannot be read.
        DataError: a dataset that is not there or has no labels to compare with.

    """
    loaded = _loaded(models)
    first = next(iter(loaded.values()))
    sets = datasets(first, data, options)
    _require_same(loaded, list(sets))
    samples = {task: _chosen(dataset, split, limit) for task, dataset in sets.items()}
    speeds: dict[str, Speed] = {}
    single: dict[str, Speed] = {}
    if speed:
        task, chosen = next(iter(samples.items()))
        speeds = measure_speed(loaded, to_batch(chosen[:batch_size]), task=task, repeats=repeats)
        single = measure_speed(loaded, to_batch(chosen[:1]), task=task, repeats=repeats)
    made = []
    for name, model in loaded.items():
        found = {task: _accuracy(model, task, samples[task], batch_size, sets[task].info.units) for task in sets}
        made.append(
            ComparedModel(
                name=name,
                blocks=model.num_blocks,
                parameters=sum(weight.numel() for weight in model.parameters()),
                errors={task: accuracy.result() for task, accuracy in found.items()},
                by_element={task: accuracy.by_element() for task, accuracy in found.items()},
                speed=speeds.get(name),
                latency=single[name].seconds if speed else None,
            )
        )
    names = {task: dataset.name for task, dataset in sets.items()}
    return Comparison(names, sum(map(len, samples.values())), tuple(made))


def main_error(model: ComparedModel) -> float:
    """Return the error that figures show: of forces if there are any, else of the first target; first task."""
    errors = next(iter(model.errors.values()))
    chosen = errors.get("forces") or errors.get("energy per atom") or next(iter(errors.values()))
    return chosen.mae


def _loaded(models: Models) -> dict[str, BlockModel]:
    if not models:
        raise ConfigError("no models to compare: name one or more")
    if isinstance(models, Mapping):
        return {name: _open(model) for name, model in models.items()}
    found: dict[str, BlockModel] = {}
    for number, model in enumerate(models, start=1):
        name = f"model {number}" if isinstance(model, BlockModel) else Path(model).stem
        if name in found:
            name = f"{name} ({number})"
        found[name] = _open(model)
    return found


def _open(model: "BlockModel | str | os.PathLike[str]") -> BlockModel:
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
    return [dataset[number] for number in read.test[:limit]]


def _accuracy(
    model: BlockModel, task: str, samples: list[Sample], batch_size: int, units: Mapping[str, str]
) -> Accuracy:
    accuracy = Accuracy(units)
    for batch in batches(model.eval(), task, samples, batch_size):
        accuracy.add(model.predict(batch.atoms, task, batch.topology), batch.targets, batch.atoms)
    return accuracy


def _error(errors: Errors | None) -> str:
    if errors is None:
        return ""
    shown = errors.milli or errors
    return f"{shown.mae:.4g} {shown.unit}"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
