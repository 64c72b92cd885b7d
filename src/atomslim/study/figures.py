"""Figures of a study, as SVG texts for its report."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atomslim.study.options import DownstreamOptions, Strategy
from atomslim.study.results import Results, Spread, Variant

COLOURS: dict[Strategy, str] = {
    "full": "#555555",
    "sliced": "#0072b2",
    "random": "#e69f00",
    "least-squares": "#009e73",
    "distilled": "#cc79a7",
}
"""Told apart with any colour vision (Okabe and Ito)."""

PANEL = (3.6, 2.9)
"""Inches."""


def pretraining(results: Results) -> Figure:
    """Draw the force error against the blocks that are kept, a panel for each pre-training task (Table 1)."""
    tasks = [task.name for task in results.options.mix]
    figure, panels = _panels(len(tasks))
    for task, axes in zip(tasks, panels, strict=True):
        full = results.reduced(Variant("full", None), task)
        if full is not None:
            axes.axhline(full.mean, color=COLOURS["full"], linestyle="--", linewidth=1, label="full")
        for strategy in {variant.strategy: None for variant in results.variants if variant.blocks is not None}:
            points = [(blocks, results.reduced(Variant(strategy, blocks), task)) for blocks in results.options.blocks]
            _line(axes, strategy, points)
        _finish(axes, task, "blocks kept", "force MAE (meV/Å)", blocks=results.options.blocks)
    _legend(panels[0], size=7)
    return figure


def downstream(results: Results) -> Figure:
    """Draw the test error after fine-tuning against the blocks that are kept, a panel for each dataset (Fig. 3)."""
    parts = results.options.downstream
    figure, panels = _panels(len(parts))
    for part, axes in zip(parts, panels, strict=True):
        full = results.tuned(part, Variant("full", None))
        if full is not None:
            axes.axhline(full.mean, color=COLOURS["full"], linestyle="--", linewidth=1, label="full")
        for strategy in part.strategies:
            if strategy != "full":
                points = [(blocks, results.tuned(part, Variant(strategy, blocks))) for blocks in results.options.blocks]
                _line(axes, strategy, points)
        _finish(axes, part.name, "blocks kept", f"test MAE, {part.target} (milli-units)", results.options.blocks)
    _legend(panels[0], size=7)
    return figure


def convergence(results: Results) -> Figure:
    """Draw validation errors against seconds of training, a panel for each dataset (Fig. 4)."""
    parts = results.options.downstream
    figure, panels = _panels(len(parts))
    for part, axes in zip(parts, panels, strict=True):
        for curve in results.curves(part):
            axes.plot(
                curve.seconds,
                curve.errors,
                color=COLOURS[curve.variant.strategy],
                linewidth=1.2,
                alpha=1.0 if curve.variant.blocks is None else 0.3 + 0.1 * curve.variant.blocks,
                label=label(curve.variant),
            )
        _finish(axes, part.name, "seconds of training", f"validation MAE, {part.target} (milli-units)")
        _legend(axes, size=6)
    return figure


def label(variant: Variant) -> str:
    """Name a variant for people."""
    return "full" if variant.blocks is None else f"{variant.blocks} blocks, {variant.strategy}"


def has_curves(results: Results, parts: Sequence[DownstreamOptions]) -> bool:
    """Say whether anything was fine-tuned yet."""
    return any(results.curves(part) for part in parts)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[count:]:
        unused.set_visible(False)
    return figure, panels[:count]


def _line(axes: Axes, strategy: Strategy, points: Sequence[tuple[int, Spread | None]]) -> None:
    known = [(blocks, spread) for blocks, spread in points if spread is not None]
    if known:
        axes.errorbar(
            [blocks for blocks, _ in known],
            [spread.mean for _, spread in known],
            yerr=[spread.deviation or 0.0 for _, spread in known],
            color=COLOURS[strategy],
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.2,
            label=strategy,
        )


def _finish(axes: Axes, title: str, x: str, y: str, blocks: Sequence[int] = ()) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.set_yscale("log")
    axes.tick_params(labelsize=7, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    if blocks:
        axes.set_xticks(sorted(blocks))
        axes.invert_xaxis()


def _legend(axes: Axes, size: int) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=size, frameon=False)
