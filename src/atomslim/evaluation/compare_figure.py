"""The figure of a comparison: error against cost."""

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from atomslim.evaluation.compare import Comparison

WIDE = 3.0
"""Ratio of the largest to the smallest error from which on the axis is logarithmic."""


def draw(comparison: "Comparison") -> Figure:
    """Draw one point per model, labelled, and the Pareto front: models that none beats in both error and cost."""
    task, target = comparison.main_target
    models = comparison.models
    errors = [model.errors[task][target] for model in models]
    shown = [error.milli or error for error in errors]
    timed = all(model.latency for model in models)
    costs = [1e3 * (model.latency or 0.0) if timed else model.parameters / 1e6 for model in models]
    points = [(cost, error.mae, model.name) for cost, error, model in zip(costs, shown, models, strict=True)]
    figure = Figure(figsize=(5.8, 3.8), layout="constrained")
    axes = figure.subplots()
    _points(axes, points)
    axes.set_xlabel("latency of one structure (ms)" if timed else "parameters (millions)")
    axes.set_ylabel(f"MAE of {target}" + (f", {task}" if len(comparison.data) > 1 else "") + f" ({shown[0].unit})")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


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
    """Write names beside points, towards the middle of the figure and in turn above and below, so that few collide."""
    costs = [cost for cost, _, _ in points]
    middle = (min(costs) + max(costs)) / 2
    for place, (cost, error, name) in enumerate(sorted(points)):
        left = cost > middle
        axes.annotate(
            name,
            (cost, error),
            xytext=(-6 if left else 6, -12 if place % 2 else 6),
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
