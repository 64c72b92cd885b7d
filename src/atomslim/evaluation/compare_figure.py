"""The figure of a comparison: error against cost."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atomslim.evaluation.compared import ComparedModel

LATENCY = "latency of one structure (ms)"

WIDE = 3.0
"""Ratio of the largest to the smallest error from which on the axis is logarithmic."""


def draw(models: Sequence[ComparedModel], task: str, target: str, *, several: bool) -> Figure:
    """Draw one point per model, labelled, and the Pareto front: models that none beats in both error and cost.

    Errors are those of a target of a task, which is named where there are ``several``.
    """
    errors = [model.errors[task][target] for model in models]
    shown = [error.milli or error for error in errors]
    label, costs = _costs(models)
    points = [(cost, error.error, model.name) for cost, error, model in zip(costs, shown, models, strict=True)]
    figure = Figure(figsize=(5.8, 3.8), layout="constrained")
    axes = figure.subplots()
    _points(axes, points)
    if label == LATENCY:
        _bars(axes, points, models)
    axes.set_xlabel(label)
    unit = f" ({shown[0].unit})" if shown[0].measure == "MAE" else ""
    axes.set_ylabel(f"{shown[0].measure} of {target}" + (f", {task}" if several else "") + unit)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _costs(models: Sequence[ComparedModel]) -> tuple[str, list[float]]:
    """Return what is drawn as cost: latencies if all are reliable, else FLOPs, or parameters if not measured."""
    single = [model.single for model in models if model.single is not None]
    if len(single) < len(models):
        return "parameters (millions)", [model.parameters / 1e6 for model in models]
    if all(speed.steady and speed.gain(single[0], graphs=False).reliable for speed in single):
        return LATENCY, [1e3 * speed.seconds for speed in single]
    return "GFLOPs of one structure (the machine was too busy to time)", [speed.flops / 1e9 for speed in single]


def _bars(axes: Axes, points: list[tuple[float, float, str]], models: Sequence[ComparedModel]) -> None:
    """Draw the spread of latencies."""
    for (cost, error, _), model in zip(points, models, strict=True):
        spread = 0.0 if model.single is None else 1e3 * model.single.spread
        axes.errorbar(cost, error, xerr=spread, fmt="none", ecolor="#999999", elinewidth=1, capsize=2, zorder=1)


def _points(axes: Axes, points: list[tuple[float, float, str]]) -> None:
    front = pareto([(cost, error) for cost, error, _ in points])
    axes.step(*zip(*front, strict=True), where="post", color="#999999", linewidth=1, zorder=1)
    for cost, error, _ in points:
        axes.plot(cost, error, "o", color="#0072b2" if (cost, error) in front else "#e69f00", markersize=6)
    errors = [error for _, error, _ in points]
    if min(errors) > 0 and max(errors) > WIDE * min(errors):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.2, y=0.2)
    _label(axes, points)


def _label(axes: Axes, points: list[tuple[float, float, str]]) -> None:
    """Write names beside points, towards the middle of the figure and in turn above and below, so that few overlap."""
    costs = [cost for cost, _, _ in points]
    middle = (min(costs) + max(costs)) / 2
    for index, (cost, error, name) in enumerate(sorted(points)):
        left = cost > middle
        axes.annotate(
            name,
            (cost, error),
            xytext=(-6 if left else 6, -12 if index % 2 else 6),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
        )


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in both numbers, by ascending first number; smaller is better."""
    front: list[tuple[float, float]] = []
    for cost, error in sorted(points):
        if not front or error < front[-1][1]:
            front.append((cost, error))
    return front
