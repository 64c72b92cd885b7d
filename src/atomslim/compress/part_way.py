"""Part of the way from a full model to a cut of it: for pruning in rounds, with training in between.

Of the blocks and finer units that the cut lacks, the last ones are removed first, in equal shares per round. Widths and
numbers of neighbours shrink by the same factor in each round, cutoffs by the same length. Channels are chosen again in
each round; blocks and all sizes end as they are in the cut.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

from atomslim.compress.cuts import Cut
from atomslim.compress.prune import FITTED
from atomslim.errors import ConfigError
from atomslim.evaluation.batches import TaskedData
from atomslim.models.block_model import BlockModel
from atomslim.models.family import family_of

Model = TypeVar("Model", bound=BlockModel)

LIMIT = 64
"""Most structures of each task for choosing channels and fitting layers."""


def part_way(
    model: Model, full: BlockModel, goal: BlockModel, data: TaskedData, *, number: int, rounds: int, seed: int = 0
) -> Model:
    """Return a model that was cut from ``full`` in earlier rounds, cut on for round ``number`` of ``rounds``.

    Each entry of its history says which round it is of. ``data`` are calibration structures, by task where the models
    have several; labels are not used.

    Raises:
        ConfigError: a goal that is not a cut of the full model, or that no cut leads to.
        DataError: too few structures to fit narrower layers on.

    """
    cut = goal_cut(full, goal, number / rounds)
    small = _cut(model, cut, _realign(full, goal), data, seed)
    if number == rounds:
        _require_reached(small, goal)
    for entry in small.history[len(model.history) :]:
        entry["round"] = f"{number} of {rounds}"
    return small


def goal_cut(full: BlockModel, goal: BlockModel, share: float) -> Cut:
    """Return the cut at this fraction of the way: 0 is the full model, 1 the goal."""
    missing = [block for block in full.block_ids if block not in goal.block_ids]
    going = missing[len(missing) - round(share * len(missing)) :]
    units = [unit for entry in goal.history[len(full.history) :] for unit in entry.get("without", ())]
    return Cut(
        tuple(block for block in full.block_ids if block not in going),
        tuple(units[len(units) - round(share * len(units)) :]),
        _cutoff(full, goal, share),
        _widths(full, goal, share),
        _neighbours(full, goal, share),
    )


def require_cut(full: BlockModel, goal: BlockModel, rounds: int) -> None:
    """Raise ConfigError for a goal as large as the full model, and for rounds in which nothing would be cut."""
    if goal_cut(full, goal, 1.0) == Cut(full.block_ids):
        raise ConfigError("rounds: the student is as large as its teacher: give a cut of it, or leave rounds out")
    most = next(number for number in range(rounds, 0, -1) if _always_cuts(full, goal, number))
    if most < rounds:
        raise ConfigError(f"rounds: in some of {rounds}, nothing would be cut: this student can be cut in {most}")


def _always_cuts(full: BlockModel, goal: BlockModel, rounds: int) -> bool:
    cuts = [goal_cut(full, goal, number / rounds) for number in range(rounds + 1)]
    return all(one != other for one, other in pairwise(cuts))


def _cut(model: Model, cut: Cut, realign: str, data: TaskedData, seed: int) -> Model:
    """Remove what is still there of it."""
    units = tuple(unit for unit in cut.without if unit in model.fine_units)
    there = family_of(model).widths(model) if cut.widths else {}
    now = Cut(
        tuple(block for block in model.block_ids if block in cut.blocks),
        units,
        cut.cutoff if cut.cutoff is not None and cut.cutoff < _longest(model) else None,
        tuple((name, size) for name, size in cut.widths if size < there[name]),
        cut.neighbours if cut.neighbours is not None and cut.neighbours < _most(model) else None,
    )
    given: dict[str, Any] = {"limit": LIMIT, "seed": seed}
    if now.blocks == model.block_ids and not units:
        realign = "sliced"
    if realign in FITTED:
        given["calibration"] = data
    return now.of(model, data, realign=realign, **given)


def _realign(full: BlockModel, goal: BlockModel) -> str:
    """Return the goal's re-alignment; a random readout is not a start for rounds."""
    ways = [entry["realign"] for entry in goal.history[len(full.history) :] if "realign" in entry]
    return ways[-1] if ways and ways[-1] in FITTED else "sliced"


def _widths(full: BlockModel, goal: BlockModel, share: float) -> tuple[tuple[str, int], ...]:
    of = family_of(full)
    if "widths" not in of.capabilities:
        return ()
    there, wanted = of.widths(full), of.widths(goal)
    return tuple((name, _between(size, wanted[name], share)) for name, size in there.items() if wanted[name] < size)


def _between(full: int, goal: int, share: float) -> int:
    return round(float(full * (goal / full) ** share))


def _neighbours(full: BlockModel, goal: BlockModel, share: float) -> int | None:
    most, wanted = _most(full), _most(goal)
    return _between(most, wanted, share) if 0 < wanted < most else None


def _cutoff(full: BlockModel, goal: BlockModel, share: float) -> float | None:
    longest, wanted = _longest(full), _longest(goal)
    return longest + share * (wanted - longest) if wanted < longest else None


def _most(model: BlockModel) -> int:
    return int(max(task.graph.typical_neighbours or 0 for task in model.tasks.values()))


def _longest(model: BlockModel) -> float:
    return max(float(task.graph.cutoff) for task in model.tasks.values())


def _require_reached(small: BlockModel, goal: BlockModel) -> None:
    """Raise ConfigError if the last round has not reached the goal."""
    for what, ours, theirs in _beside(small, goal):
        if ours != theirs:
            raise ConfigError(
                f"rounds: cuts of the teacher lead to {what} {ours}, the student has {theirs}: give a student that was "
                "cut from this teacher, or leave rounds out"
            )


def _beside(small: BlockModel, goal: BlockModel) -> Sequence[tuple[str, Any, Any]]:
    of = family_of(goal)
    ours, theirs = ([model.task(name).graph for name in goal.tasks] for model in (small, goal))
    return (
        ("blocks", list(small.block_ids), list(goal.block_ids)),
        ("finer units", list(small.fine_units), list(goal.fine_units)),
        ("sizes", of.configuration(small), of.configuration(goal)),
        ("graphs", ours, theirs),
    )
