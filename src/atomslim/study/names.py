"""What variants of a model are called in figures, tables and sentences, and their colours."""

from atomslim.study.options import Strategy
from atomslim.study.results import Variant

STRATEGIES: dict[Strategy, str] = {
    "full": "full",
    "sliced": "sliced",
    "random": "random",
    "least-squares": "least squares",
    "least-squares-forces": "least squares with forces",
    "hand-over": "hand-over",
    "hand-over-forces": "hand-over, least squares with forces",
    "distilled": "distilled",
    "least-squares-distilled": "distilled from least squares",
    "least-squares-forces-distilled": "distilled from least squares with forces",
    "hand-over-distilled": "distilled from hand-over",
    "hand-over-forces-distilled": "distilled from hand-over, least squares with forces",
}

PAPER = "In the paper: sliced is BR, random is BR/RandomMLP, distilled is BR+KD."

COLOURS: dict[Strategy, str] = {
    "full": "#808080",
    "sliced": "#1f8ad0",
    "random": "#e69f00",
    "least-squares": "#009e73",
    "distilled": "#cc79a7",
    "least-squares-distilled": "#d55e00",
    "least-squares-forces": "#56b4e9",
    "least-squares-forces-distilled": "#8a6d00",
    "hand-over": "#7a6fd0",
    "hand-over-forces": "#009ea8",
    "hand-over-distilled": "#c0504d",
    "hand-over-forces-distilled": "#8c8c00",
}
"""Colours for any colour vision (after Okabe and Ito), on white and on black."""

_COUNTS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


def label(variant: Variant) -> str:
    """Name a variant."""
    name = STRATEGIES[variant.strategy]
    if variant.cutoff is not None and variant.strategy == "sliced":
        return finer(variant)
    what = finer(variant) if variant.blocks is None else blocks(variant.blocks)
    return f"{what}, {name}" if what else name


def finer(variant: Variant) -> str:
    """Name the finer units that are left out; empty if there are none."""
    if variant.cutoff is not None:
        return f"cutoff {variant.cutoff:g} Å"
    return f"without {variant.without}" if variant.without else ""


def blocks(count: int) -> str:
    """Say how many blocks there are."""
    return f"{count} block{'' if count == 1 else 's'}"


def spelled(count: int) -> str:
    """Write a small number as a capitalised word."""
    return _COUNTS[count] if count < len(_COUNTS) else str(count)
