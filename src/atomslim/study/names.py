"""What variants of a model are called in figures, tables and sentences, and their colours."""

from atomslim.study.options import Strategy
from atomslim.study.results import Variant

STRATEGIES: dict[Strategy, str] = {
    "full": "full",
    "sliced": "sliced",
    "random": "random",
    "least-squares": "least squares",
    "distilled": "distilled",
    "least-squares-distilled": "distilled from least squares",
}

PAPER = "In the paper: sliced is BR, random is BR/RandomMLP, distilled is BR+KD."

COLOURS: dict[Strategy, str] = {
    "full": "#808080",
    "sliced": "#1f8ad0",
    "random": "#e69f00",
    "least-squares": "#009e73",
    "distilled": "#cc79a7",
    "least-squares-distilled": "#d55e00",
}
"""Told apart with any colour vision (after Okabe and Ito), on white and on black."""

_COUNTS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


def label(variant: Variant) -> str:
    """Name a variant."""
    name = STRATEGIES[variant.strategy]
    return name if variant.blocks is None else f"{blocks(variant.blocks)}, {name}"


def blocks(count: int) -> str:
    """Say how many blocks there are."""
    return f"{count} block{'' if count == 1 else 's'}"


def spelled(count: int) -> str:
    """Write a small number as a word that begins a sentence."""
    return _COUNTS[count] if count < len(_COUNTS) else str(count)
