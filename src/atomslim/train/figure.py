"""The learning curve of a run: validation errors against steps and against training time."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from atomslim.evaluation.classification import parsed
from atomslim.evaluation.errors import Errors
from atomslim.files import atomic_write
from atomslim.parsing import parse_json

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#000000")


def draw_learning_curve(folder: str | os.PathLike[str]) -> Path:
    """Draw what a finished run's metrics and summary say into `learning_curve.png` beside them, and return its path.

    One row of panels for each target: validation errors (mean absolute ones, of labels 1 − ROC-AUC) of all tasks
    against steps, and against seconds of training; dashed: predicting the mean or base rate; stars: the best model on
    the test set.
    """
    place = Path(folder)
    rows = _validations(place / "metrics.csv")
    results = parse_json((place / "summary.json").read_text(encoding="utf-8"))["rows"]
    targets = list(dict.fromkeys(row["target"] for row in results if row["target"] != "energy"))
    tasks = dict.fromkeys(row["task"] for row in results)
    colours = {task: _COLOURS[number % len(_COLOURS)] for number, task in enumerate(tasks)}
    figure = Figure(figsize=(9.0, 2.9 * len(targets) + 0.4), layout="constrained")
    panels = figure.subplots(len(targets), 2, squeeze=False, sharey="row")
    for target, (steps, seconds) in zip(targets, panels, strict=True):
        chosen = [row for row in results if row["target"] == target]
        _panel(steps, rows, chosen, colours, "step", "steps")
        _panel(seconds, rows, chosen, colours, "seconds", "seconds of training")
        steps.set_ylabel(f"validation {_measure(chosen)}, {target}{_unit(chosen)}", fontsize=8)
    lines = [Line2D([], [], color=colour, marker="o", markersize=3, label=task) for task, colour in colours.items()]
    lines.append(Line2D([], [], color="0.4", linestyle="--", linewidth=0.8, label="predicting the mean or base rate"))
    if any(row["test"] for row in results):
        lines.append(Line2D([], [], color="0.4", marker="*", markersize=9, linestyle="", label="best model, test set"))
    figure.legend(handles=lines, loc="outside upper center", ncols=5, fontsize=7, frameon=False)
    path = place / "learning_curve.png"
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return path


def _validations(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["score"]]


def _panel(
    axes: Axes,
    rows: list[dict[str, str]],
    results: list[dict[str, Any]],
    colours: dict[str, str],
    column: str,
    label: str,
) -> None:
    for result in results:
        colour = colours[result["task"]]
        name = error_column(result)
        points = [(float(row[column]), float(row[name])) for row in rows if row.get(name)]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3, linewidth=1.2)
        if result["mean_baseline"]:
            axes.axhline(parsed(result["mean_baseline"]).error, color=colour, linestyle="--", linewidth=0.8)
        if result["test"]:
            axes.plot(points[-1][0], parsed(result["test"]).error, "*", color=colour, markersize=9)
    axes.set_yscale("log")
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=7, which="both")
    axes.spines[["top", "right"]].set_visible(False)


def error_column(row: Mapping[str, Any]) -> str:
    """Return the name under which metrics have the error of a summary's row."""
    measured: Mapping[str, Any] = next((row[kind] for kind in ("mean_baseline", "after", "test") if row[kind]), {})
    return f"{row['task']}/{row['target']}/{'error' if 'roc_auc' in measured else 'mae'}"


def _measure(results: list[dict[str, Any]]) -> str:
    found = _first(results)
    return "MAE" if found is None else found.measure


def _unit(results: list[dict[str, Any]]) -> str:
    found = _first(results)
    return f" ({found.unit})" if found is not None and found.measure == "MAE" else ""


def _first(results: list[dict[str, Any]]) -> Errors | None:
    found = next(
        (row["mean_baseline"] or row["after"] for row in results if row["mean_baseline"] or row["after"]), None
    )
    return None if found is None else parsed(found)
