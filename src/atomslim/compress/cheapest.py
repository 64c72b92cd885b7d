"""What to leave out for a size, a speed or an error: blocks and finer units one at a time, the cheapest first.

    choice = cheapest(model, "xyz:frames.xyz", speed=1.5)
    small = choice.apply(model, realign="least-squares", calibration="xyz:frames.xyz")

At each step everything that could go is left out by itself, the readout sliced, and measured: its cost is what that
adds to the difference from the full model's answers on the data, its saving what it takes away of the parameters or of
the FLOPs, at most as much as is still wanted. The least cost for its saving goes. What turns out not to be needed in
the end comes back. Labels are not looked at.

Finer units, each cheap by itself, may cost more together than the one block that saves as much. So this is done three
times: among everything, among blocks, and among what is finer; the best that comes out is what is chosen.

Difference: root mean square of forces over the full model's own, or, where a task predicts none, of each target
(energies per atom) over the full model's spread between structures; the mean over targets and tasks. Structures s count
by 1/(1 + F_s²/F₀²), with their root mean square force F_s and its median F₀: among a few structures, the one or two
farthest from equilibrium would decide alone.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from ase import Atoms
from torch import Tensor

from atomslim.compress.choose import flops, parameters
from atomslim.compress.cutoff import require_cutoffs, with_cutoff
from atomslim.compress.prune import Model, keep_blocks
from atomslim.data.loader import Batch
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.evaluation.batches import TaskedData, batches, datasets, spread_out
from atomslim.models.block_model import BlockModel
from atomslim.models.tasks import Target, Task

FORCES = ("conservative_forces", "direct_forces")

Counted = Literal["parameters", "FLOPs"]


@dataclass(frozen=True)
class Cut:
    """Blocks that are kept, finer units that are not, and the cutoff (Å; None: the model's own)."""

    blocks: tuple[int, ...]
    without: tuple[str, ...] = ()
    cutoff: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for cuts that came about in another order."""
        return self.blocks, frozenset(self.without), self.cutoff

    def of(self, model: Model, **options: Any) -> Model:
        """Return the cut model; ``options`` are those of `keep_blocks`."""
        small = keep_blocks(model, self.blocks, without=self.without, **options)
        return small if self.cutoff is None else with_cutoff(small, self.cutoff)


@dataclass(frozen=True)
class Removal:
    """What went, and what the model was then, with all that went before."""

    name: str
    cut: Cut
    difference: float
    """From the full model, as a share of what that says."""
    count: int
    """Parameters or FLOPs that are left."""


@dataclass(frozen=True)
class Choice:
    """What to leave out for a target, and why: every removal in turn, and what the best one left was."""

    cut: Cut
    target: str
    counted: Counted
    whole: int
    """Parameters or FLOPs of the full model."""
    removals: tuple[Removal, ...]
    difference: float
    """From the full model in the end, before re-alignment."""
    count: int
    """Parameters or FLOPs in the end."""
    needless: tuple[str, ...] = ()
    """Removals that came back."""

    def apply(self, model: Model, **options: Any) -> Model:
        """Return the cut model, with this choice in its history; ``options`` are those of `keep_blocks`."""
        small = self.cut.of(model, **options)
        small.history[len(model.history)]["chosen"] = self.as_dict()
        return small

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        steps = [
            {"without": one.name, "difference": one.difference, f"{self.counted} left": one.count / self.whole}
            for one in self.removals
        ]
        return {
            "for": self.target,
            "by": "least difference for what is saved, among everything, blocks only and finer units only",
            "steps": steps,
            "came back": list(self.needless),
            "difference": self.difference,
            f"{self.counted} left": self.count / self.whole,
        }

    def words(self) -> Iterator[str]:
        """Say what went and why."""
        for one in self.removals:
            yield f"without {one.name}: {self._state(one.difference, one.count)}"
        for name in self.needless:
            yield f"{name} came back: the target is met with it"
        if self.needless:
            yield f"in the end: {self._state(self.difference, self.count)}"

    def _state(self, difference: float, count: int) -> str:
        share = count / self.whole
        return f"{difference:.1%} from the full model before re-alignment, {share:.0%} of its {self.counted} left"


def cheapest(
    model: BlockModel,
    data: TaskedData,
    *,
    size: int | None = None,
    speed: float | None = None,
    error: float | None = None,
    cutoffs: Sequence[float] = (),
    limit: int = 64,
    batch_size: int = 8,
) -> Choice:
    """Choose blocks and finer units to leave out for one target.

    Args:
        model: the full model.
        data: structures, by task where the model has several; labels are not looked at.
        size: at most so many parameters.
        speed: so many times as fast, by FLOPs counted on the first structure.
        error: as fast as can be with at most this difference from the full model before re-alignment; 0.1 is 10 %.
        cutoffs: shorter cutoffs (Å) to choose among, too.
        limit: at most so many structures of each task, evenly over its data.
        batch_size: structures at once.

    Raises:
        ConfigError: no target or several, one that cannot be reached, or cutoffs that the model cannot have.
        DataError: data that are not there or cannot be read.

    """
    _require_target(size, speed, error)
    require_cutoffs(model, cutoffs)
    counted: Counted = "FLOPs" if size is None else "parameters"
    search = _Search(model, _Answers.of(model, data, limit, batch_size), counted, tuple(cutoffs))
    if error is not None:
        return search.within(error)
    if size is not None:
        return search.down_to(size, f"{size:,} parameters")
    return search.down_to(int(search.whole / (speed or 1.0)), f"speed-up {speed:g}")


def _require_target(size: int | None, speed: float | None, error: float | None) -> None:
    if sum(value is not None for value in (size, speed, error)) != 1:
        raise ConfigError("give one target: a number of parameters, a speed-up or a largest difference")
    if speed is not None and not 1 <= speed < float("inf"):
        raise ConfigError(f"speed-up {speed:g}: give 1 or more")
    if error is not None and not 0 <= error < float("inf"):
        raise ConfigError(f"largest difference {error:g}: give 0 or more; 0.1 is 10 %")


@dataclass(frozen=True)
class _Answers:
    """What the full model says of the data, by task and batch."""

    full: BlockModel
    given: list[tuple[str, Batch, dict[str, Tensor]]]
    first: Atoms

    @classmethod
    def of(cls, full: BlockModel, data: TaskedData, limit: int, batch_size: int) -> "_Answers":
        samples = {task: spread_out(dataset, limit) for task, dataset in datasets(full, data, labelled=False).items()}
        given = [
            (task, batch, full.predict(batch.atoms, task, batch.topology))
            for task, some in samples.items()
            for batch in batches(full, task, some, batch_size)
        ]
        return cls(full, given, next(iter(samples.values()))[0].to_ase())

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
    """Return the root of the weighed mean square of differences over that of forces, from both by structure."""
    apart, forces = (torch.cat([pair[place] for pair in pairs]) for place in (0, 1))
    weight = 1 / (1 + forces / forces.median().clamp(min=1e-24))
    return float(((weight * apart).sum() / (weight * forces).sum().clamp(min=1e-24)).sqrt())


def _share(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the root mean square of differences over the spread of what was wanted."""
    said, wanted = (torch.cat([pair[place] for pair in pairs]) for place in (0, 1))
    size = (wanted - wanted.mean()).square().mean().sqrt()
    return float((said - wanted).square().mean().sqrt() / size.clamp(min=1e-12))


Allowed = Callable[[Cut, Cut], bool]
"""Whether one thing may go, by the cut before and after."""


def _everything(_before: Cut, _after: Cut) -> bool:
    return True


def _blocks_only(before: Cut, after: Cut) -> bool:
    return before.blocks != after.blocks


def _finer_only(before: Cut, after: Cut) -> bool:
    return before.blocks == after.blocks


_WAYS: tuple[Allowed, ...] = (_everything, _blocks_only, _finer_only)


class _Search:
    """Removes one thing after the other."""

    def __init__(self, model: BlockModel, answers: _Answers, counted: Counted, cutoffs: tuple[float, ...]) -> None:
        self.model, self.answers, self.counted, self.cutoffs = model, answers, counted, cutoffs
        self.none = Cut(model.block_ids)
        self.counts: dict[Any, int] = {}
        self.differences: dict[Any, float] = {}
        self.whole = self.count(self.none)

    def count(self, cut: Cut) -> int:
        """Return the parameters or FLOPs of a cut."""
        if cut.key not in self.counts:
            small = cut.of(self.model)
            least = parameters(small) if self.counted == "parameters" else flops(small, self.answers.first)
            self.counts[cut.key] = least
        return self.counts[cut.key]

    def down_to(self, most: int, target: str) -> Choice:
        """Remove until no more than this many parameters or FLOPs are left, in the way that differs least."""
        found = [self._down_to(most, allowed) for allowed in _WAYS]
        choices = [self.choice(removals, target, most) for removals in found if removals[-1].count <= most]
        if not choices:
            raise ConfigError(f"{target}: even without all that can be left out the model does not reach it")
        return min(choices, key=lambda choice: choice.difference)

    def _down_to(self, most: int, allowed: Allowed) -> list[Removal]:
        removals = [Removal("nothing", self.none, 0.0, self.whole)]
        while removals[-1].count > most:
            here = removals[-1]
            left = [one for one in self.tried(here, allowed) if one.count < here.count]
            if not left:
                break
            removals.append(min(left, key=lambda one: _price(here, one, here.count - most)))
        return removals

    def within(self, error: float) -> Choice:
        """Remove as long as the difference stays within this, in the way that saves most."""
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
        """Leave out by itself everything that is still there and may go, and measure it."""
        for name, cut in self.further(here.cut):
            if allowed(here.cut, cut):
                yield self.measured(name, cut)

    def measured(self, name: str, cut: Cut) -> Removal:
        """Measure a cut."""
        if cut.key not in self.differences:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AtomslimWarning)
                small = cut.of(self.model)
                self.differences[cut.key] = self.answers.difference(small, graphs=cut.cutoff is None)
        return Removal(name, cut, self.differences[cut.key], self.count(cut))

    def further(self, cut: Cut) -> Iterator[tuple[str, Cut]]:
        """Give what else could go, by name."""
        for block in cut.blocks:
            yield f"block {block}", replace(cut, blocks=tuple(one for one in cut.blocks if one != block))
        for unit in replace(cut, cutoff=None).of(self.model).fine_units:
            yield unit, replace(cut, without=(*cut.without, unit))
        for cutoff in self.cutoffs:
            if cut.cutoff is None or cutoff < cut.cutoff:
                yield f"edges beyond {cutoff:g} Å", replace(cut, cutoff=cutoff)

    def choice(self, removals: Sequence[Removal], target: str, most: int | None) -> Choice:
        """Put back what is not needed, the dearest first, and say what went."""
        cut, needless = removals[-1].cut, list[str]()
        steps = sorted(pairwise(removals), key=lambda pair: pair[0].difference - pair[1].difference)
        for before, after in steps if most is not None else ():
            fuller = _with(cut, before.cut, after.cut)
            if fuller != cut and self.count(fuller) <= (most or 0):
                cut, needless = fuller, [*needless, after.name]
        difference = self.measured("", cut).difference if needless else removals[-1].difference
        return Choice(
            cut, target, self.counted, self.whole, tuple(removals[1:]), difference, self.count(cut), tuple(needless)
        )


def _price(here: Removal, there: Removal, wanted: int) -> float:
    """Return what a removal costs for what it saves, as far as that is wanted."""
    return (there.difference - here.difference) / min(here.count - there.count, wanted)


def _with(cut: Cut, before: Cut, after: Cut) -> Cut:
    """Return the cut with what one removal took away."""
    back = set(before.blocks) - set(after.blocks)
    blocks = tuple(sorted({*cut.blocks, *back}))
    without = tuple(unit for unit in cut.without if unit in before.without or unit not in after.without)
    changed = before.cutoff != after.cutoff and cut.cutoff == after.cutoff
    return Cut(blocks, without, before.cutoff if changed else cut.cutoff)
