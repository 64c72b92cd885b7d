"""Choosing among blocks and finer units: the cheapest for what it saves goes first, on what the data say."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from atomslim.atoms import from_ase
from atomslim.compress import cheapest as cheapest_module
from atomslim.compress import costs
from atomslim.compress.cheapest import Axis, _Search, cheapest
from atomslim.compress.choice import Removal
from atomslim.compress.choose import flops
from atomslim.compress.cuts import Cut, Measured
from atomslim.compress.front import write_front
from atomslim.compress.prune import keep_blocks
from atomslim.errors import ConfigError, DataError
from atomslim.families.jmp import JMP
from atomslim.models.modes import parameter_count
from samples import CONSERVATIVE
from small_models import jmp
from train.water import waters


@pytest.fixture(scope="module")
def model() -> JMP:
    return jmp(CONSERVATIVE, num_blocks=3, sum_scale=1.0)


def difference(small: JMP, full: JMP) -> float:
    batch = from_ase([sample.to_ase() for sample in waters(4)])
    said, wanted = (one.predict(batch)["forces"].double().reshape(4, 9) for one in (small, full))
    apart, size = ((said - wanted).square().mean(1), wanted.square().mean(1))
    weight = 1 / (1 + size / size.median())
    return float(((weight * apart).sum() / (weight * size).sum()).sqrt())


class Priced(_Search):
    """A search that measures nothing: each thing has a difference and a share of the whole that it saves."""

    DIFFERENCES: ClassVar[dict[str, float]] = {"block 1": 0.5, "block 2": 0.13, "block 3": 0.6}
    FINER: ClassVar[dict[str, float]] = {"a": 0.04, "b": 0.05, "c": 0.06, "d": 0.07}

    def __init__(self) -> None:
        self.none, self.whole, self.counted, self.seen = Cut((1, 2, 3)), 100, "FLOPs", {}

    def count(self, cut: Cut) -> int:
        return 100 - 30 * (3 - len(cut.blocks)) - 9 * len(cut.without)

    def measured(self, name: str, cut: Cut) -> Removal:
        blocks = sum(self.DIFFERENCES[f"block {gone}"] for gone in {1, 2, 3} - set(cut.blocks))
        return Removal(name, cut, blocks + sum(self.FINER[unit] for unit in cut.without), self.count(cut))

    def further(self, cut: Cut) -> Iterator[tuple[str, Cut]]:
        for block in cut.blocks:
            yield f"block {block}", replace(cut, blocks=tuple(one for one in cut.blocks if one != block))
        for unit in self.FINER.keys() - set(cut.without):
            yield unit, replace(cut, without=(*cut.without, unit))


def test_one_block_goes_where_finer_units_cost_more_together() -> None:
    """The cheapest unit for its saving is dearer, with those that must follow, than the one block that saves enough."""
    some = Priced().down_to(73, "speed")
    assert some.cut.blocks == (1, 3)
    assert some.difference == pytest.approx(0.13)
    small = Priced().down_to(90, "speed")
    assert (small.cut.without, small.cut.blocks) == (("a", "b"), (1, 2, 3))
    assert Priced().within(0.13).cut.blocks == (1, 3)
    assert Priced().within(0.1).cut.without == ("a", "b")


def test_the_block_that_costs_least_goes(model: JMP) -> None:
    cuts = {block: keep_blocks(model, [one for one in (1, 2, 3) if one != block]) for block in (1, 2, 3)}
    costs = {block: difference(small, model) for block, small in cuts.items()}
    savings = {block: parameter_count(model) - parameter_count(small) for block, small in cuts.items()}
    most = max(map(parameter_count, cuts.values()))
    choice = cheapest(model, waters(4), size=most)
    gone = ({1, 2, 3} - set(choice.cut.blocks)).pop()
    wanted = parameter_count(model) - most
    assert gone == min(costs, key=lambda block: costs[block] / min(savings[block], wanted))
    assert choice.difference == pytest.approx(costs[gone], rel=1e-6)
    assert choice.count == parameter_count(cuts[gone])
    small = choice.apply(model)
    assert small.block_ids == choice.cut.blocks
    chosen = small.history[-1]["chosen"]
    assert chosen["steps"][0]["without"] == f"block {gone}"
    assert chosen["for"] == f"{most:,} parameters"
    assert next(choice.words()).startswith(f"without block {gone}: {costs[gone]:.1%} from the full model")


def test_speed_and_error_are_kept_to(model: JMP) -> None:
    atoms = waters(1)[0].to_ase()
    fast = cheapest(model, waters(1), speed=1.4).cut.of(model)
    assert flops(model, atoms) >= 1.4 * flops(fast, atoms)
    costs = [difference(keep_blocks(model, [one for one in (1, 2, 3) if one != block]), model) for block in (1, 2, 3)]
    near = cheapest(model, waters(4), error=1.001 * min(costs))
    assert len(near.cut.blocks) == 2
    assert near.difference <= 1.001 * min(costs)
    with pytest.raises(ConfigError, match=r"nothing can be left out within it: without block \d it is"):
        cheapest(model, waters(1), error=1e-6)


def test_widths_and_neighbours_go_like_blocks(model: JMP, tmp_path: Path) -> None:
    model = keep_blocks(model, 2)
    data = waters(14)
    axes: tuple[Axis, ...] = ("blocks", "widths", "neighbours")
    known = Measured({"model": "of this test"})
    choice = cheapest(model, data, size=int(0.9 * parameter_count(model)), axes=axes, known=known)
    assert dict(choice.cut.widths).keys() <= {"edge", "atom"}
    tried = {one.name.partition(" ")[0] for one in choice.tried}
    assert tried == {"nothing", "block", "edge", "atom", "neighbours"}
    front = choice.front()
    assert front[0].difference == 0
    assert all(a.count > b.count and a.difference < b.difference for a, b in pairwise(front))
    small = choice.apply(model, data)
    assert parameter_count(small) == choice.count <= 0.9 * parameter_count(model)
    assert small.history[len(model.history)]["chosen"]["for"] == choice.target
    known.write(tmp_path / "measured.json")
    again = Measured.read(tmp_path / "measured.json", known.of)
    assert again.cuts == known.cuts
    again.value = _known(again)  # type: ignore[method-assign]
    assert cheapest(model, data, size=int(0.9 * parameter_count(model)), axes=axes, known=again).cut == choice.cut
    write_front(choice, tmp_path / "front")
    written = (tmp_path / "front" / "front.md").read_text(encoding="utf-8")
    assert written.count("**chosen**") == (choice.cut in {one.cut for one in front})
    assert "| nothing left out |" in written
    assert (tmp_path / "front" / "front.png").stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"was measured with model of this test, not of another: name another file"):
        Measured.read(tmp_path / "measured.json", {"model": "of another"})
    (tmp_path / "measured.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="holds no cuts that were measured"):
        Measured.read(tmp_path / "measured.json", known.of)


def _known(measured: Measured) -> Callable[..., float]:
    def value(cut: Cut, name: str, measure: Callable[[], float]) -> float:
        del measure  # a target that was met before needs nothing new
        return measured.cuts[cut][name]

    return value


def first_fast(small: JMP, full: JMP, _: object, seen: set[tuple[int, ...]] = set()) -> float:  # noqa: B006 - a memory
    """Say of one block that it is fast when it is asked for the first time, and slower then."""
    again = small.block_ids in seen
    seen.add(small.block_ids)
    return {0: 0.3, 1: 0.8 if again else 0.6}[small.num_blocks] * full.num_blocks / 2


def test_times_and_memory_are_measured(model: JMP, monkeypatch: pytest.MonkeyPatch) -> None:
    axes: tuple[Axis, ...] = ("blocks", "neighbours")
    monkeypatch.setattr(costs, "milliseconds", lambda small, _: 10.0 + 10.0 * small.num_blocks)
    monkeypatch.setattr(cheapest_module, "time_share", lambda small, *_: (10 + 10 * small.num_blocks) / 30)
    model = keep_blocks(model, 2)
    assert len(cheapest(model, waters(1), ms=21, axes=axes).cut.blocks) == 1
    assert len(cheapest(model, waters(1), speed=3, axes=axes).cut.blocks) == 0
    with pytest.raises(
        ConfigError, match=r"5 ms: even without .* does not reach it; the nearest is 10 ms \(3.00 × less"
    ):
        cheapest(model, waters(1), ms=5, axes=axes)
    same = cheapest(model, waters(1), ms=30, axes=axes)
    assert list(same.words()) == ["30 ms: the full model has 30 ms and meets it: nothing is removed"]
    monkeypatch.setattr(cheapest_module, "time_share", first_fast)
    slower = cheapest(model, waters(1), ms=21, axes=["blocks"])  # the first of two times was chance
    assert (slower.cut.blocks, slower.count) == ((), 9.0)
    assert costs.megabytes(model, waters(1)[0].to_ase()) >= parameter_count(model) * 8 / 1e6
    some = [sample.to_ase() for sample in waters(3)]
    monkeypatch.setattr(costs, "milliseconds", lambda small, atoms: small.num_blocks + (atoms == some[2]))
    assert cheapest(model, waters(1), ms=5, axes=["blocks"], measured_on=some).whole == 2 * 3 + 1
    monkeypatch.setattr(costs, "megabytes", lambda _, atoms: 1.0 + (atoms == some[2]))
    assert costs.cost(model, "MB", some) == 2.0


def test_energies_count_where_no_forces_are_predicted(model: JMP) -> None:
    task = model.task().model_copy(update={"targets": model.task().targets[:1]})
    single = model.with_blocks([1, 2, 3])
    single.tasks = {task.name: task}
    choice = cheapest(single, waters(3), size=parameter_count(model) - 1)
    batch = from_ase([sample.to_ase() for sample in waters(3)])
    said, wanted = ((one.predict(batch)["energy"].double() / 3).numpy() for one in (choice.apply(single), single))
    expected = np.sqrt(np.mean((said - wanted) ** 2)) / np.std(wanted)
    assert choice.difference == pytest.approx(expected, rel=1e-4)


def test_wrong_targets_are_refused(model: JMP) -> None:
    for wrong, message in (
        ({}, "give one target"),
        ({"size": 5, "speed": 2.0}, "give one target"),
        ({"speed": 0.5}, "give 1 or more"),
        ({"error": -1.0}, "give 0 or more"),
        ({"size": 1}, "1 parameters: even without all that can be left out .* the nearest is .* parameters"),
        ({"ms": 0.0}, "at most 0 ms: give more than 0"),
        ({"speed": 2.0, "cutoffs": [4.0]}, "cannot be given another cutoff"),
    ):
        with pytest.raises(ConfigError, match=message):
            cheapest(model, waters(1), **wrong)
    assert torch.is_grad_enabled()
