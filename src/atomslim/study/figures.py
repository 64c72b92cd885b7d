"""Figures of a study: lists of panels, which its report puts side by side or below each other."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from atomslim.study.names import COLOURS, STRATEGIES, blocks, label
from atomslim.study.names import finer as finer_name
from atomslim.study.options import DISTILLED, FITS, Strategy
from atomslim.study.results import FULL_MODEL, Curve, Results, Spread, Variant

PANEL = (3.7, 3.1)
"""Inches."""

BRANCHES = {"node": "#1f8ad0", "edge": "#e69f00"}

_NEAR = 4.0
"""Ratio of the ends of an axis up to which its ticks are evenly spaced."""

_LONGEST = 32
"""Characters of the longest name up to which a legend has two columns."""

_TALL = 34
"""Characters of an axis label that fit beside a panel; longer ones are wrapped."""


def relevance(found: Mapping[str, Any]) -> list[Figure]:
    """Draw the relevance of every block, a panel for each dataset and one for the mix (Fig. 2)."""
    panels = [_relevance_panel(name, task["gradcam"], found["blocks"]) for name, task in found["tasks"].items()]
    if len(panels) == 1:
        return panels
    figure, axes = _panel("the mix", "block", "fraction of the relevance")
    axes.bar(range(len(found["blocks"])), found["mix"]["gradcam"], 0.7, color="#009e73", label="node and edge")
    _name_blocks(axes, found["blocks"])
    return [figure, *panels]


def pretraining(results: Results) -> list[Figure]:
    """Draw the force error against the blocks that are kept, a panel for each pre-training task (Table 1)."""
    if len(results.options.blocks) < 2:  # shown in a table
        return []
    strategies = list(dict.fromkeys(variant.strategy for variant in results.variants if variant.blocks is not None))
    return [
        _against_blocks(
            results, task, "force MAE (meV/Å)", strategies, lambda one, task=task: results.reduced(one, task)
        )
        for task in results.tasks
    ]


def finer(results: Results) -> list[Figure]:
    """Draw the force error of several cuts finer than blocks, a panel for each pre-training task."""
    return [
        _finer_panel(task, "force MAE (meV/Å)", results.finer, lambda one, task=task: results.reduced(one, task))
        for task in (results.tasks if _several(results.finer) else ())
    ]


def _several(variants: Sequence[Variant]) -> bool:
    """Say whether there are at least two cuts: one point says less than a table."""
    return len(set(map(finer_name, variants))) > 1


def learning(results: Results) -> list[Figure]:
    """Draw validation errors of forces in distillation against steps and, where asked for, against structures."""
    found = []
    for task in results.tasks:
        students = [one for one in results.variants if one.strategy in DISTILLED.values()]
        curves = [curve for one in students if len((curve := results.learned(one, task)).used) > 1]
        if curves:
            found.append(_learning_panel(results, task, curves))
        by_structures = results.by_structures(task)
        if len(by_structures) > 1:
            figure, axes = _panel(task, "training structures", "validation force MAE (meV/Å)")
            _line(axes, results.options.learning_curve[0], list(by_structures.items()))
            axes.set_xscale("log")
            found.append(_with_no_forces(results, task, figure))
    return found


def _learning_panel(results: Results, task: str, curves: Sequence[Curve]) -> Figure:
    figure, axes = _panel(task, "steps of distillation", "validation force MAE (meV/Å)")
    for curve in curves:
        axes.plot(curve.used, curve.errors, "o-", markersize=3, linewidth=1.3, label=label(curve.variant))
    return _with_no_forces(results, task, figure)


def _with_no_forces(results: Results, task: str, figure: Figure) -> Figure:
    """Add the error of predicting no forces, and finish the panel."""
    (axes,) = figure.axes
    nothing = results.no_forces(task)
    if nothing is not None:
        axes.axhline(nothing, color=COLOURS["full"], linestyle=":", linewidth=1, label="no forces")
    _errors_axis(axes)
    _legend(figure)
    return figure


def finer_downstream(results: Results) -> list[Figure]:
    """Draw the test error of cuts finer than blocks after fine-tuning, a panel for each dataset that has any."""
    found = []
    for part in results.options.downstream:
        variants = [one for one in results.tuned_variants(part) if finer_name(one)]
        label = f"test {results.quantity(part)}"
        if _several(variants):
            found.append(_finer_panel(part.name, label, variants, lambda one, part=part: results.tuned(part, one)))
    return found


def _finer_panel(title: str, label: str, variants: Sequence[Variant], error: Any) -> Figure:
    named = list(dict.fromkeys(map(finer_name, variants)))
    figure, axes = _panel(title, "", label)
    full: Spread | None = error(FULL_MODEL)
    if full is not None:
        axes.axhline(full.mean, color=COLOURS["full"], linestyle="--", linewidth=1, label=STRATEGIES["full"])
    for strategy in dict.fromkeys(variant.strategy for variant in variants):
        of_strategy = [variant for variant in variants if variant.strategy == strategy]
        points = [(named.index(finer_name(one)), error(one)) for one in of_strategy]
        _line(axes, strategy, points, joined=False)
    axes.set_xticks(range(len(named)), named, rotation=30, ha="right")
    _errors_axis(axes)
    _legend(figure)
    return figure


def downstream(results: Results) -> list[Figure]:
    """Draw the test error after fine-tuning against the blocks that are kept, a panel for each dataset (Fig. 3)."""
    figures = []
    for part in results.options.downstream if len(results.options.blocks) > 1 else ():
        strategies = [strategy for strategy in part.strategies if strategy != "full"]
        label = f"test {results.quantity(part)}"
        figures.append(
            _against_blocks(results, part.name, label, strategies, lambda one, part=part: results.tuned(part, one))
        )
    return figures


def convergence(results: Results) -> list[Figure]:
    """Draw validation errors against training, a panel for each dataset (Fig. 4): seconds, or steps if budgeted.

    Shown are the full model, and the cut ones from distillation where there is one, or else sliced.
    """
    figures = []
    for part in results.options.downstream:
        used = {"seconds": "seconds of training", "step": "steps of training"}[results.axis(part)]
        curves = shown_curves([curve for curve in results.curves(part) if len(curve.used) > 1])
        if not curves:
            continue
        figure, axes = _panel(part.name, used, f"validation {results.quantity(part)}")
        cut = [curve.variant for curve in curves if curve.variant != FULL_MODEL]
        cuts = list(dict.fromkeys(STRATEGIES[variant.strategy] for variant in cut))
        for curve in curves:
            _curve(axes, curve, cut, named=len(cuts) > 1)
        _errors_axis(axes)
        _legend(figure, title=f"cut ones: {cuts[0]}" if len(cuts) == 1 else "")
        figures.append(figure)
    return figures


def shown_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Choose one curve for each cut: distilled if there is one, or else sliced, or what there is."""
    order: list[Strategy] = ["full", *DISTILLED.values(), "sliced", *FITS, "random"]
    ranked = sorted(curves, key=lambda curve: order.index(curve.variant.strategy), reverse=True)
    best = {curve.variant.cut: curve for curve in ranked}
    in_order = sorted(best.values(), key=lambda curve: -(curve.variant.blocks or 0))
    return sorted(in_order, key=lambda curve: (curve.variant != FULL_MODEL, bool(finer_name(curve.variant))))


def _relevance_panel(name: str, by_branch: Mapping[str, Any], numbers: Sequence[int]) -> Figure:
    figure, axes = _panel(name, "block", "fraction of the relevance")
    width = 0.8 / len(by_branch)
    for number, (branch, score) in enumerate(by_branch.items()):
        mean, deviation = (np.array(score[what], dtype=float) for what in ("mean", "deviation"))
        total = np.nansum(mean) or 1.0
        error = np.nan_to_num(deviation) / total / score["batches"] ** 0.5 if score["batches"] > 1 else None
        at = np.arange(len(numbers)) + (number - (len(by_branch) - 1) / 2) * width
        axes.bar(at, mean / total, width, yerr=error, color=BRANCHES[branch], label=branch, error_kw={"linewidth": 0.8})
    _name_blocks(axes, numbers)
    return figure


def _name_blocks(axes: Axes, numbers: Sequence[int]) -> None:
    axes.set_xticks(range(len(numbers)), [str(block) if block else "emb." for block in numbers])
    axes.legend(fontsize=8, frameon=False)


def _against_blocks(results: Results, title: str, label: str, strategies: Sequence[Strategy], error: Any) -> Figure:
    figure, axes = _panel(title, "blocks kept", label)
    full: Spread | None = error(FULL_MODEL)
    if full is not None:
        axes.axhline(full.mean, color=COLOURS["full"], linestyle="--", linewidth=1, label=STRATEGIES["full"])
    counts = sorted(results.options.blocks)
    for strategy in strategies:
        _line(axes, strategy, [(count, error(Variant(strategy, count))) for count in counts])
    axes.set_xticks(counts)
    axes.set_xlim(max(counts) + 0.3, min(counts) - 0.3)
    _errors_axis(axes)
    _legend(figure)
    return figure


def _line(axes: Axes, strategy: Strategy, points: Sequence[tuple[int, Spread | None]], *, joined: bool = True) -> None:
    known = [(count, spread) for count, spread in points if spread is not None]
    if known:
        axes.errorbar(
            [count for count, _ in known],
            [spread.mean for _, spread in known],
            yerr=[spread.deviation or 0.0 for _, spread in known]
            if any(spread.deviation for _, spread in known)
            else None,
            color=COLOURS[strategy],
            marker="s" if strategy in DISTILLED.values() else "o",
            markersize=4,
            capsize=2,
            linewidth=1.4,
            linestyle="-" if joined else "none",
            label=STRATEGIES[strategy],
        )


def _curve(axes: Axes, curve: Curve, cuts: Sequence[Variant], *, named: bool) -> None:
    """Draw one model's errors, ``named`` by what it was cut with, too."""
    variant = curve.variant
    colours = ["#1f8ad0", "#009e73", "#e69f00", "#cc79a7", "#d55e00", "#56b4e9"]
    colour = colours[cuts.index(variant) % len(colours)] if variant in cuts else COLOURS["full"]
    name = finer_name(variant) or ("full" if variant.blocks is None else blocks(variant.blocks))
    name += f", {STRATEGIES[variant.strategy]}" if named and variant in cuts else ""
    axes.plot(curve.used, curve.errors, "o-", color=colour, markersize=3, linewidth=1.3, label=name)


def _panel(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(textwrap.fill(y, _TALL), fontsize=9)
    axes.tick_params(labelsize=8, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure, title: str = "") -> None:
    """Put the legend below the panel, out of the way."""
    if labels := [label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]:
        columns = 2 if max(map(len, labels)) <= _LONGEST else 1
        figure.legend(loc="outside lower center", ncols=columns, fontsize=7.5, frameon=False, title=title or None)
        figure.legends[0].get_title().set_fontsize(7.5)


def _errors_axis(axes: Axes) -> None:
    """Give errors a logarithmic axis with a handful of plain numbers, however close to each other they are."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(MaxNLocator(5) if high / low < _NEAR else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _plain(value: float) -> str:
    """Format the position of a tick with all its digits and no exponent, so that no two ticks look the same."""
    return np.format_float_positional(value, precision=4, fractional=False, trim="-")
