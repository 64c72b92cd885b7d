"""What to leave out for a size, a speed or an error: blocks, finer units, channels, neighbours, the cheapest first.

    choice = cheapest(model, "xyz:frames.xyz", speed=1.5)
    small = choice.apply(model, realign="least-squares", calibration="xyz:frames.xyz")

At each step every candidate is removed alone, the readout sliced, and measured: its cost is what that adds to the
difference from the full model's outputs on the data, its saving the reduction of parameters, FLOPs, measured time or
memory, at most as much as is still wanted. The one with the least cost per saving is removed. Unnecessary removals are
undone at the end. Labels are not used.

Widths shrink in steps of an eighth, the layers that read them fitted on the full model's inputs; channels are scored
once for all (`atomslim.compress.channel_scores`). `Choice.apply` chooses them again in the pruned model and fits block
by block. What was measured can be kept in a file (`atomslim.compress.cuts`), so that another target reuses it.

Finer units, each cheap alone, may cost more together than the one block that saves as much. So this is done three
times: among everything, among blocks, and among finer units; the best result is chosen.

Difference: root mean square of forces over the full model's own, or, where a task predicts none, of each target
(energies per atom) over the full model's spread between structures; the mean over targets and tasks. Structures s count
by 1/(1 + F_s²/F₀²), with their root mean square force F_s and its median F₀: otherwise the one or two of a few
structures that are farthest from equilibrium would dominate.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import torch
from ase import Atoms
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.compress.channel_scores import ChannelScores, scored
from atomslim.compress.choice import Choice, Removal
from atomslim.compress.costs import Counted, cost, time_share, words
from atomslim.compress.cutoff import require_cutoffs
from atomslim.compress.cuts import Cut, Measured
from atomslim.compress.targets import beyond_flops, require_target
from atomslim.data.loader import Batch
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.evaluation.batches import TaskedData, batches, datasets, spread_out
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of
from atomslim.models.tasks import Target, Task

FORCES = ("conservative_forces", "direct_forces")

Axis = Literal["blocks", "units", "widths", "neighbours"]
"""What can be reduced: blocks, finer units within them, channels of atom and edge features, and neighbours."""

STEPS = 8
"""Steps from a whole width to none."""

SHARES = (0.875, 0.75, 0.625, 0.5)
"""Fractions of a model's neighbour cap."""


def cheapest(  # noqa: PLR0913 - targets, and what may go for them
    model: BlockModel,
    data: TaskedData,
    *,
    size: int | None = None,
    speed: float | None = None,
    error: float | None = None,
    ms: float | None = None,
    memory: float | None = None,
    axes: Collection[Axis] = ("blocks", "units"),
    cutoffs: Sequence[float] = (),
    limit: int = 64,
    batch_size: int = 8,
    measured_on: Sequence[Atoms] = (),
    known: Measured | None = None,
) -> Choice:
    """Choose what to leave out for one target.

    Args:
        model: the full model.
        data: structures, by task where the model has several; labels are not used.
        size: at most so many parameters.
        speed: so many times as fast: by FLOPs, or measured, with widths or neighbours, whose speed-up FLOPs do not
            predict.
        error: as fast as can be with at most this difference from the full model before re-alignment; 0.1 is 10 %.
        ms: at most so many milliseconds, as measured.
        memory: at most so many megabytes for weights and a prediction, as measured.
        axes: what may be left out; a family's models may not have all of it.
        cutoffs: shorter cutoffs (Å) to choose among, too.
        limit: at most so many structures of each task, evenly over its data.
        batch_size: structures at once.
        measured_on: structures whose predictions' FLOPs, times and memory count: the sum of times, the largest memory;
            none: the first of the data.
        known: earlier measurements of this model on these data; new ones are added.

    Raises:
        ConfigError: no target or several, one that cannot be reached (the nearest is named), or cutoffs that the model
            cannot have.
        DataError: data that are missing or cannot be read.

    """
    require_target(size=size, speed=speed, error=error, ms=ms, memory=memory)
    require_cutoffs(model, cutoffs)
    timed = ms is not None or (size is None and memory is None and beyond_flops(model, axes))
    counted: Counted = "parameters" if size is not None else "MB" if memory is not None else "ms" if timed else "FLOPs"
    answers = _Answers.of(model, data, limit, batch_size, measured_on)
    search = _Search(model, answers, counted, tuple(cutoffs), axes, known)
    if error is not None:
        return search.within(error)
    if speed is not None:
        return search.down_to(search.whole / speed, f"speed-up {speed:g}")
    most = next(float(value) for value in (size, ms, memory) if value is not None)
    return search.down_to(most, f"{most:,.0f} {counted}" if counted == "parameters" else f"{most:g} {counted}")


@dataclass(frozen=True)
class _Answers:
    """The full model's outputs on the data, by task and batch."""

    full: BlockModel
    given: list[tuple[str, Batch, dict[str, Tensor]]]
    measured_on: Sequence[Atoms]

    @classmethod
    def of(
        cls, full: BlockModel, data: TaskedData, limit: int, batch_size: int, measured_on: Sequence[Atoms] = ()
    ) -> "_Answers":
        samples = {task: spread_out(dataset, limit) for task, dataset in datasets(full, data, labelled=False).items()}
        given = [
            (task, batch, full.predict(batch.atoms, task, batch.topology))
            for task, some in samples.items()
            for batch in batches(full, task, some, batch_size)
        ]
        return cls(full, given, measured_on or [next(iter(samples.values()))[0].to_ase()])

    def structures(self) -> list[tuple[AtomsBatch, Any, str]]:
        """Return the batches for scoring channels."""
        return [(batch.atoms, batch.topology, task) for task, batch, _ in self.given]

    def difference(self, small: BlockModel, *, graphs: bool) -> float:
        """Return the mean over tasks and targets; ``graphs`` says that the model has those of the full one."""
        found: dict[tuple[str, str, bool], list[tuple[Tensor, Tensor]]] = {}
        for task, batch, wanted in self.given:
            said = small.predict(batch.atoms, task, batch.topology if graphs else None)
            for target in _compared(self.full.task(task)):
                pair = said[target.name].double(), wanted[target.name].double()
                if target.kind in FORCES:
                    pair = _squares(pair[0] - pair[1], batch), _squares(pair[1], batch)
                elif target.kind == "energy":
                    pair = pair[0] / batch.atoms.natoms, pair[1] / batch.atoms.natoms
                found.setdefault((task, target.name, target.kind in FORCES), []).append(pair)
        shares = [(_force_share if forces else _share)(pairs) for (*_, forces), pairs in found.items()]
        return sum(shares) / len(shares)


def _compared(task: Task) -> list[Target]:
    """Return the forces, or all targets of a task that predicts none."""
    return [target for target in task.targets if target.kind in FORCES][:1] or list(task.targets)


def _squares(forces: Tensor, batch: Batch) -> Tensor:
    """Return the mean square of the components of forces (n, 3) of each structure."""
    sums = forces.new_zeros(len(batch)).index_add(0, batch.atoms.batch, forces.square().mean(1))
    return sums / batch.atoms.natoms


def _force_share(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the weighted rms of differences over that of forces, from mean squares by structure."""
    apart, forces = (torch.cat([pair[index] for pair in pairs]) for index in (0, 1))
    weight = 1 / (1 + forces / forces.median().clamp(min=1e-24))
    return float(((weight * apart).sum() / (weight * forces).sum().clamp(min=1e-24)).sqrt())


def _share(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the root mean square of differences over the spread of the wanted values."""
    said, wanted = (torch.cat([pair[index] for pair in pairs]) for index in (0, 1))
    size = (wanted - wanted.mean()).square().mean().sqrt()
    return float((said - wanted).square().mean().sqrt() / size.clamp(min=1e-12))


Allowed = Callable[[Cut, Cut], bool]
"""Whether one removal is allowed, by the cut before and after."""


def _everything(_before: Cut, _after: Cut) -> bool:
    return True


def _blocks_only(before: Cut, after: Cut) -> bool:
    return before.blocks != after.blocks


def _finer_only(before: Cut, after: Cut) -> bool:
    return before.blocks == after.blocks


_WAYS: tuple[Allowed, ...] = (_everything, _blocks_only, _finer_only)


class _Search:
    """Removes one candidate after the other."""

    def __init__(
        self,
        model: BlockModel,
        answers: _Answers,
        counted: Counted,
        cutoffs: tuple[float, ...] = (),
        axes: Collection[Axis] = ("blocks", "units"),
        known: Measured | None = None,
    ) -> None:
        self.model, self.answers, self.counted = model, answers, counted
        self.cutoffs, self.axes, self.known = cutoffs, axes, Measured() if known is None else known
        self.none = Cut(model.block_ids)
        self.seen: dict[Cut, Removal] = {}
        self.narrower: dict[tuple[tuple[str, int], ...], BlockModel] = {}
        self.whole = self.count(self.none)

    @cached_property
    def scores(self) -> ChannelScores:
        """Scores of the full model's channels; raises DataError where structures are too few for any of its widths."""
        found = scored(self.model, self.answers.structures())
        found.kept(dict.fromkeys(family_of(self.model).feature_widths(self.model), 1))
        return found

    def cut(self, cut: Cut) -> BlockModel:
        """Return a cut of the model, its channels fitted on the full model's inputs, its readout sliced."""
        if cut.widths not in self.narrower:
            widths = dict(cut.widths)
            self.narrower[cut.widths] = self.scores.narrowed(self.scores.kept(widths)) if widths else self.model
        return replace(cut, widths=()).of(self.narrower[cut.widths])

    def count(self, cut: Cut) -> float:
        """Return the parameters, FLOPs, ms or MB of a cut."""
        return self.known.value(cut, self.counted, lambda: self._cost(cut))

    def _cost(self, cut: Cut) -> float:
        if self.counted == "ms" and cut != self.none:
            return self.whole * time_share(self.cut(cut), self.model, self.answers.measured_on)
        return cost(self.cut(cut), self.counted, self.answers.measured_on)

    def reaches(self, cut: Cut, most: float) -> bool:
        """Whether a cut costs at most this; times are measured again, since some of many cuts look fast by chance."""
        if self.count(cut) <= most and self.counted == "ms" and cut != self.none:
            again = self.known.value(cut, "ms again", lambda: self._cost(cut))
            self.known.cuts[cut.in_order]["ms"] = max(self.count(cut), again)
        return self.count(cut) <= most

    def down_to(self, most: float, target: str) -> Choice:
        """Remove until no more than this is left, with the least difference."""
        ends = {allowed: self.count(self._end(allowed)) for allowed in _WAYS}
        found = [self._down_to(most, allowed) for allowed, count in ends.items() if count <= most]
        choices = [self.choice(removals, target, most) for removals in found if self.count(removals[-1].cut) <= most]
        if not choices:
            least = min([*ends.values(), *(removals[-1].count for removals in found)])
            raise ConfigError(
                f"{target}: even without all that can be left out the model does not reach it; the nearest is "
                f"{words(least, self.counted)} ({self.whole / least:.2f} × less)"
            )
        return min(choices, key=lambda choice: choice.difference)

    def _end(self, allowed: Allowed) -> Cut:
        """Return the cut without all that can be removed: if it misses the target, this way is not tried."""
        cut = self.none
        while further := [one for _, one in self.further(cut) if allowed(cut, one)]:
            cut = further[0]
        return cut

    def _down_to(self, most: float, allowed: Allowed) -> list[Removal]:
        removals = [Removal("nothing", self.none, 0.0, self.whole)]
        while not self.reaches(removals[-1].cut, most):
            here = replace(removals[-1], count=self.count(removals[-1].cut))
            left = [one for one in self.tried(here, allowed) if one.count < here.count]
            if not left:
                break
            removals.append(min(left, key=lambda one: _price(here, one, here.count - most)))
        return removals

    def within(self, error: float) -> Choice:
        """Remove as long as the difference stays within this, saving as much as possible."""
        target = f"at most {error:.3g} from the full model"
        choices = [
            self.choice(removals, target, None)
            for allowed in _WAYS
            if len(removals := self._within(error, allowed)) > 1
        ]
        if not choices:
            tried = self.tried(Removal("nothing", self.none, 0.0, self.whole))
            least = min(tried, key=lambda one: one.difference, default=None)
            hint = "" if least is None else f": without {least.name} it is {least.difference:.1%}, the least"
            raise ConfigError(f"largest difference {error:.3g}: nothing can be left out within it{hint}")
        return min(choices, key=lambda choice: choice.count)

    def _within(self, error: float, allowed: Allowed) -> list[Removal]:
        removals = [Removal("nothing", self.none, 0.0, self.whole)]
        while True:
            here = removals[-1]
            tried = (one for one in self.tried(here, allowed) if one.count < here.count)
            left = [one for one in tried if one.difference <= error]
            if not left:
                return removals
            removals.append(min(left, key=lambda one: _price(here, one, self.whole)))

    def tried(self, here: Removal, allowed: Allowed = _everything) -> Iterator[Removal]:
        """Remove every remaining candidate alone, and measure the result."""
        for name, cut in self.further(here.cut):
            if allowed(here.cut, cut):
                yield self.measured(name, cut)

    def measured(self, name: str, cut: Cut) -> Removal:
        """Measure a cut."""
        same = cut.cutoff is None and cut.neighbours is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AtomslimWarning)
            difference = self.known.value(
                cut, "difference", lambda: self.answers.difference(self.cut(cut), graphs=same)
            )
        self.seen[cut] = Removal(name, cut, difference, self.count(cut))
        return self.seen[cut]

    def further(self, cut: Cut) -> Iterator[tuple[str, Cut]]:
        """Give the remaining candidates by name."""
        for block in cut.blocks if "blocks" in self.axes else ():
            yield f"block {block}", replace(cut, blocks=tuple(one for one in cut.blocks if one != block))
        if "units" in self.axes:
            for unit in Cut(cut.blocks, cut.without).of(self.model).fine_units:
                yield unit, replace(cut, without=(*cut.without, unit))
        if "widths" in self.axes:
            yield from self._narrower(cut)
        if "neighbours" in self.axes and "neighbour caps" in family_of(self.model).capabilities:
            yield from self._fewer(cut)
        for cutoff in self.cutoffs:
            if cut.cutoff is None or cutoff < cut.cutoff:
                yield f"edges beyond {cutoff:g} Å", replace(cut, cutoff=cutoff)

    def _narrower(self, cut: Cut) -> Iterator[tuple[str, Cut]]:
        """Give the next step of the widths of features."""
        of = family_of(self.model)
        there = of.widths(self.model)
        left = of.widths(Cut(cut.blocks, cut.without).of(self.model)) if cut.without else there
        for name in of.feature_widths(self.model):
            now = min(dict(cut.widths).get(name, there[name]), left.get(name, 0))
            step = max(there[name] // STEPS // 8 * 8, min(8, max(there[name] // STEPS, 1)))
            if now > step:
                widths = tuple(sorted((dict(cut.widths) | {name: now - step}).items()))
                yield f"{name} channels {now} → {now - step}", replace(cut, widths=widths)

    def _fewer(self, cut: Cut) -> Iterator[tuple[str, Cut]]:
        """Give the next smaller number of neighbours."""
        most = max(task.graph.typical_neighbours or 0 for task in self.model.tasks.values())
        now = most if cut.neighbours is None else cut.neighbours
        fewer = [number for share in SHARES if 1 <= (number := int(share * most)) < now]
        if fewer:
            yield f"neighbours {now} → {fewer[0]}", replace(cut, neighbours=fewer[0])

    def choice(self, removals: Sequence[Removal], target: str, most: float | None) -> Choice:
        """Undo removals that are not needed, the most expensive first, and list the others."""
        cut, needless = removals[-1].cut, list[str]()
        steps = sorted(pairwise(removals), key=lambda pair: pair[0].difference - pair[1].difference)
        for before, after in steps if most is not None else ():
            fuller = _with(cut, before.cut, after.cut)
            if fuller != cut and self.reaches(fuller, most or 0):
                cut, needless = fuller, [*needless, after.name]
        difference = self.measured("", cut).difference if needless else removals[-1].difference
        return Choice(
            cut,
            target,
            self.counted,
            self.whole,
            tuple(removals[1:]),
            difference,
            self.count(cut),
            tuple(needless),
            (removals[0], *self.seen.values()),
        )


def _price(here: Removal, there: Removal, wanted: float) -> float:
    """Return the cost of a removal per saving, as far as that is wanted."""
    return (there.difference - here.difference) / min(here.count - there.count, wanted)


def _with(cut: Cut, before: Cut, after: Cut) -> Cut:
    """Return the cut with one removal undone."""
    back = set(before.blocks) - set(after.blocks)
    blocks = tuple(sorted({*cut.blocks, *back}))
    without = tuple(unit for unit in cut.without if unit in before.without or unit not in after.without)
    cutoff = before.cutoff if cut.cutoff == after.cutoff else cut.cutoff
    neighbours = before.neighbours if cut.neighbours == after.neighbours else cut.neighbours
    wider = {name: size for name, size in after.widths if (name, size) in cut.widths}
    earlier = dict(before.widths)
    kept = ((name, earlier.get(name) if name in wider else size) for name, size in cut.widths)
    widths = tuple((name, size) for name, size in kept if size is not None)
    return Cut(blocks, without, cutoff, widths, neighbours)
