"""The cells of a study: what each of them computes, and which others it needs first."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from atomslim.study.options import DISTILLED, DownstreamOptions, Strategy, StudyOptions, is_for

Kind = Literal["relevance", "reduce", "distill", "tune", "speed", "validate"]

_IMPLIED: dict[Kind, tuple[Strategy, ...]] = {"relevance": ("full",), "speed": ("full",), "distill": ("distilled",)}
"""Strategies that are omitted from a cell's name."""


@dataclass(frozen=True)
class Cell:
    """One number or table of a study; its folder has its name."""

    kind: Kind
    strategy: Strategy = "full"
    blocks: int | None = None
    """Blocks kept; None for the full model."""
    seed: int = 0
    downstream: str = ""
    without: str = ""
    """A cut by what it leaves out, finer units or blocks by their numbers, with commas between them."""
    cutoff: float | None = None
    """A shorter cutoff (Å) with all blocks."""
    structures: int | None = None
    """At most so many structures of each task to distil on; None: all."""

    @property
    def name(self) -> str:
        """Name of the cell and of its folder."""
        parts = [self.kind, self.downstream, "" if self.strategy in _IMPLIED.get(self.kind, ()) else self.strategy]
        parts.append("" if self.blocks is None else str(self.blocks))
        parts.append("-".join(["without", *re.findall(r"\w+", self.without)]) if self.without else "")
        parts.append("" if self.cutoff is None else f"cutoff-{self.cutoff:g}")
        parts.append("" if self.structures is None else f"{self.structures}-structures")
        if self.kind in {"distill", "tune"} or self.needs is not None or self.strategy == "random":
            parts.append(f"seed{self.seed}")
        return "-".join(part for part in parts if part)

    @property
    def needs(self) -> "Cell | None":
        """The cell whose model this one starts from."""
        if self.kind in {"tune", "validate"} and self.strategy in DISTILLED.values():
            return Cell("distill", self.strategy, self.blocks, self.seed, without=self.without, cutoff=self.cutoff)
        return None


def cells_of(options: StudyOptions) -> list[Cell]:
    """Return all cells, those that others need before them."""
    return list(dict.fromkeys(_cells(options)))


def _cells(options: StudyOptions) -> Iterator[Cell]:
    if options.relevance:
        yield Cell("relevance")
    if options.mix:
        yield from _reduced(options)
    if options.distill is not None:
        for seed, student in product(options.seeds, options.distill.strategies):
            yield from (Cell("distill", student, blocks, seed) for blocks in options.blocks if is_for(student, ""))
            yield from (
                Cell("distill", student, seed=seed, without=cut) for cut in options.without if is_for(student, cut)
            )
        for seed, cutoff in product(options.seeds, options.cutoffs):
            yield Cell("distill", "distilled", seed=seed, cutoff=cutoff)
        for seed, count in product(options.seeds, options.distill.structures):
            first, blocks, cut = options.learning_curve
            yield Cell("distill", first, blocks, seed, without=cut, structures=count)
    if options.speed is not None:
        yield Cell("speed")
    for downstream in options.downstream:
        yield from _tuned(downstream, options)
    if options.validate_physics is not None:
        yield from _validated(options)


def _validated(options: StudyOptions) -> Iterator[Cell]:
    """Give the full model and every cut, for the first seed."""
    yield Cell("validate")
    distilled = () if options.distill is None else options.distill.strategies
    strategies = (*options.realign, *distilled)
    for blocks, strategy in product(options.blocks, [one for one in strategies if is_for(one, "")]):
        yield Cell("validate", strategy, blocks, options.seeds[0])
    for cut, strategy in product(options.without, strategies):
        if is_for(strategy, cut):
            yield Cell("validate", strategy, seed=options.seeds[0], without=cut)
    for cutoff, strategy in product(options.cutoffs, options.of_cutoffs):
        yield Cell("validate", strategy, seed=options.seeds[0], cutoff=cutoff)


def _reduced(options: StudyOptions) -> Iterator[Cell]:
    """Give the full model and every cut, re-aligned in every way."""
    yield Cell("reduce")
    for blocks in options.blocks:
        for strategy in [one for one in options.realign if is_for(one, "")]:
            yield from (Cell("reduce", strategy, blocks, seed) for seed in _seeds(strategy, options))
    for cut, strategy in product(options.without, options.realign):
        if is_for(strategy, cut):
            yield from (Cell("reduce", strategy, seed=seed, without=cut) for seed in _seeds(strategy, options))
    yield from (Cell("reduce", "sliced", cutoff=cutoff) for cutoff in options.cutoffs)


def _seeds(strategy: Strategy, options: StudyOptions) -> tuple[int, ...]:
    return options.seeds if strategy == "random" else options.seeds[:1]


def _tuned(downstream: DownstreamOptions, options: StudyOptions) -> Iterator[Cell]:
    for seed in options.seeds:
        for strategy in downstream.strategies:
            for blocks in (None,) if strategy == "full" else options.blocks if is_for(strategy, "") else ():
                yield Cell("tune", strategy, blocks, seed, downstream.name)
            for cut in [] if strategy == "full" else [one for one in options.without if is_for(strategy, one)]:
                yield Cell("tune", strategy, None, seed, downstream.name, without=cut)
            for cutoff in options.cutoffs if strategy in options.of_cutoffs else ():
                yield Cell("tune", strategy, None, seed, downstream.name, cutoff=cutoff)
