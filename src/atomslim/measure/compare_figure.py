"""The figure of a comparison: error against cost."""

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from atomslim.measure.compare import Comparison


def draw(comparison: "Comparison") -> Figure:
    """Draw one point per model, labelled, and the Pareto front: models that none beats in both error and cost."""
    from atomslim.measure.compare import main_error  # noqa: PLC0415 - it imports this file

    timed = all(model.latency for model in comparison.models)
    points = [
        (1e3 * (model.latency or 0.0) if timed else model.parameters / 1e6, main_error(model), model.name)
        for model in comparison.models
    ]
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    front = pareto([(cost, error) for cost, error, _ in points])
    axes.step([cost for cost, _ in front], [error for _, error in front], where="post", color="#999999", linewidth=1)
    for cost, error, name in points:
        axes.plot(cost, error, "o", color="#0072b2" if (cost, error) in front else "#e69f00", markersize=6)
        axes.annotate(name, (cost, error), xytext=(6, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel("latency of one structure (ms)" if timed else "parameters (millions)")
    target = "forces" if "forces" in next(iter(comparison.models[0].errors.values())) else "first target"
    axes.set_ylabel(f"MAE, {target} (eV/Å)" if target == "forces" else f"MAE, {target}")
    axes.set_yscale("log")
    axes.margins(x=0.15, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in both numbers, by ascending first number; smaller is better."""
    front: list[tuple[float, float]] = []
    for cost, error in sorted(points):
        if not front or error < front[-1][1]:
            front.append((cost, error))
    return front
