"""The result of a comparison of models, as tables, sentences, a figure and files."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console, ConsoleOptions, RenderResult

from atomslim.benchmarking.speed import Speed
from atomslim.benchmarking.turns import BUSY
from atomslim.data.references import ReferenceGap
from atomslim.errors import ConfigError
from atomslim.evaluation.classification import (
    BASE_RATE,
    CLASSES,
    MEAN_OF_LABELS,
    ClassErrors,
    class_errors,
    class_table,
)
from atomslim.evaluation.compared import ComparedModel
from atomslim.evaluation.errors import PER_ATOM, Errors
from atomslim.evaluation.reference_gap import MARK, REMEDY, marked
from atomslim.files import atomic_files
from atomslim.report import page
from atomslim.report.cells import plain_rows
from atomslim.report.page import TextTable, number
from atomslim.report.shown import Shown
from atomslim.validation.columns import column_table, sentence

MEAN = "predicting the mean"

CAPTION = (
    "Error against cost. Blue: the Pareto front; orange: another model is better in both. Bars, where times are shown: "
    "half their interquartile range."
)

FILES = ("compare.json", "compare.csv", "compare.md", "compare.html", "compare.png")
"""What is written."""

CONVENTION = (
    "FLOPs are those of matrix products, multiply and add counted as two, for one structure. Times are the shortest of "
    "many repeats in which the models take turns, ± half their interquartile range; throughput includes building the "
    "graphs, latency is one structure on existing graphs. Speed-ups are medians of the rounds' ratios, with "
    "their spread, and unclear where that exceeds ± 15 %. Models of one architecture share one time. × floor compares "
    "a batch's time with its FLOPs at the measured rate of the model's largest dense layer."
)


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
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
    """Tasks whose labels have a different reference from the first model's energies, which was subtracted."""
    files: dict[str, str] = field(default_factory=dict)
    """Model → its file, which the page links to."""

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
        checked = {model.name: model.validation for model in self.models if model.validation}
        made += [column_table(checked)] if checked else []
        return [*made, *(self._elements(task) for task in self.data if self.models[0].by_element.get(task))]

    def parts(self) -> Iterator[str]:
        """Give the figure where there is something to compare, and the tables."""
        if len(self.models) > 1:
            yield page.picture(self.plot(), CAPTION)
        yield from (table.html() for table in self.tables())

    def plot(self) -> Figure:
        """Draw error against time (or parameters, where no time was measured) with the Pareto front."""
        from atomslim.evaluation.compare_figure import draw  # noqa: PLC0415 - matplotlib takes half a second

        return draw(self.models, *self.main_target, several=len(self.data) > 1)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write compare.json, .csv, .md, .html and, for several models, .png into a folder."""
        tables = self.tables()
        content: dict[str, Any] = {"data": self.data, "structures": self.structures, "machine": self.machine}
        means = {task: {name: asdict(one) for name, one in found.items()} for task, found in self.mean.items()}
        content[MEAN] = means
        content |= {"conventions": CONVENTION, "main target": list(self.main_target)}
        content |= {"reference gaps": {task: asdict(gap) for task, gap in self.gaps.items()}}
        content |= {"models": [{**model.as_dict(), **self._speed_ups(model)} for model in self.models]}
        body = [page.summary(self.words()), page.links(self.files, folder), *self.parts()]
        texts = {
            "compare.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n",
            "compare.csv": self.csv(),
            "compare.md": "\n".join([*(table.markdown() for table in tables), CONVENTION, ""]),
            "compare.html": page.page("Models side by side", [*body, f"<p class=note>{CONVENTION}</p>"]),
        }
        several = len(self.models) > 1
        with atomic_files(folder, FILES if several else texts) as temporary:
            for name, text in texts.items():
                temporary[name].write_text(text, encoding="utf-8")
            if several:
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
        """Summarise in sentences what the smaller models cost and gain."""
        first, (task, target) = self.models[0], self.main_target
        sentences = []
        for model in self.models[1:]:
            parts = [f"{model.parameters / first.parameters:.0%} of the parameters"]
            if model.single is not None and first.single is not None:
                parts.append(model.single.gain(first.single, graphs=False).words())
            before, now = (one.errors[task][target] for one in (first, model))
            if before.error:
                what = target if before.measure == "MAE" else f"{target} ({before.measure})"
                parts.append(f"{now.error / before.error:.2f} × the error of {what}")
            sentences.append(f"{model.name}, against {first.name}: {', '.join(parts)}.")
        shown = f"{_error(first.errors[task][target])} of {target} with {first.name}"
        data = ", ".join(dict.fromkeys(self.data.values()))
        sentences.append(f"Errors: {shown}, on {self.structures} structures of {data}.")
        sentences += self._gap_notes()
        sentences += [sentence(model.name, model.validation) for model in self.models if model.validation]
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
        kinds += ["ROC-AUC (the log loss where all labels are equal)"] if class_errors(shown) else []
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
            note += " The error of a label of 0 and 1 is 1 − ROC-AUC, or its log loss where all labels are equal."
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


def main_target(models: Sequence[Mapping[str, Mapping[str, Errors]]]) -> tuple[str, str]:
    """Return the task and target to compare models' errors by.

    That is forces, energy per atom, the mean over labels of 0 and 1, or another target that all have.
    Raises ConfigError if there is none.
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
