"""The figure of block relevance."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atomslim.compress.block_scores import SCORES, BlockScores

NODE, EDGE, SUM = "#0072b2", "#e69f00", "#009e73"
"""Colours for any colour vision (Okabe and Ito)."""


def draw(relevance: BlockScores) -> Figure:
    """Draw one panel of GradCAM scores for each task, one for the mix, and one that compares all scores."""
    panels = [*relevance.tasks, *(["mix"] if len(relevance.tasks) > 1 else []), "compare"]
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.3 * columns, 2.8 * rows), layout="constrained")
    axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[len(panels) :]:
        unused.set_visible(False)
    for name, panel in zip(panels, axes, strict=False):
        if name == "compare":
            _compare(panel, relevance)
        else:
            _scores(panel, relevance, name)
    return figure


def _scores(axes: Axes, relevance: BlockScores, name: str) -> None:
    positions = np.arange(len(relevance.blocks))
    if name in relevance.tasks:
        by_branch = relevance.tasks[name].gradcam
        width = 0.8 / len(by_branch)
        for number, (branch, score) in enumerate(by_branch.items()):
            share = score.normalised
            error = np.nan_to_num(share.deviation) / max(share.batches, 1) ** 0.5
            colour = NODE if branch == "node" else EDGE
            at = positions + (number - (len(by_branch) - 1) / 2) * width
            axes.bar(at, share.mean, width, yerr=error, color=colour, label=branch, error_kw={"linewidth": 0.8})
    else:
        axes.bar(positions, relevance.mix("gradcam"), 0.7, color=SUM, label="node and edge")
    _finish(axes, relevance, f"GradCAM, {name}", "fraction of the relevance")


def _compare(axes: Axes, relevance: BlockScores) -> None:
    names = [*map(str, relevance.blocks[1:]), *relevance.units]
    positions = np.arange(1, len(names) + 1)
    width = 0.8 / len(relevance.scores)
    for number, (name, colour) in enumerate(zip(relevance.scores, (SUM, NODE, EDGE, "#cc79a7"), strict=False)):
        finer = relevance.unit_mix(name) if name in relevance.unit_scores else np.full(len(relevance.units), np.nan)
        values = np.append(relevance.mix(name)[1:], finer)
        top = np.nanmax(np.abs(values)) or 1.0
        at = positions + (number - (len(relevance.scores) - 1) / 2) * width
        axes.bar(at, values / top, width, color=colour, label=SCORES[name])
    axes.axhline(0, color="#555555", linewidth=0.6)
    _finish(axes, relevance, "all scores, mix", "score, largest = 1")
    axes.set_xlim(0.4, len(names) + 0.6)
    axes.set_ylim(top=1.4)  # room for the legend
    if relevance.units:
        axes.set_xticks(positions, names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_xlabel("block or finer unit", fontsize=8)
        axes.axvline(len(relevance.blocks) - 0.5, color="#555555", linewidth=0.6, linestyle=":")


def _finish(axes: Axes, relevance: BlockScores, title: str, label: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(relevance.blocks)), [str(block) if block else "emb." for block in relevance.blocks])
    axes.set_xlabel("block", fontsize=8)
    axes.set_ylabel(label, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, ncols=2)
