import json
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomslim.data.mixing import (
    BatchPlan,
    BatchSampler,
    Mixture,
    TaskData,
    apportion,
    cut,
    equal_parts,
    estimated_edges,
    temperature_shares,
)
from atomslim.errors import AtomslimError, ConfigError, DataError
from data.made_samples import molecule
from data.mixtures import MadeDataset, Sizes, of_sizes

costs_of_structures = st.lists(st.integers(1, 1000), min_size=1, max_size=60).map(np.array)


def numbers(plans: list[BatchPlan]) -> list[list[int]]:
    return [plan.numbers.tolist() for plan in plans]


def test_temperature_two_draws_by_the_root_of_the_size() -> None:
    shares = temperature_shares(np.array([900, 100]), 2.0)
    np.testing.assert_allclose(shares, [0.75, 0.25])  # √0.9 : √0.1 = 3 : 1


@pytest.mark.parametrize(("temperature", "shares"), [(1.0, [0.9, 0.1]), (np.inf, [0.5, 0.5])])
def test_temperature_goes_from_by_size_to_all_alike(temperature: float, shares: list[float]) -> None:
    np.testing.assert_allclose(temperature_shares(np.array([900, 100]), temperature), shares)


def test_the_temperature_of_the_paper_is_the_default() -> None:
    tasks = of_sizes(900, 100).tasks
    assert Mixture(tasks).counts.tolist() == [750, 250]


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=6).map(np.array), st.floats(0.5, 10))
def test_counts_add_up_and_leave_no_task_out(sizes: np.ndarray, temperature: float) -> None:
    counts = apportion(temperature_shares(sizes, temperature), int(sizes.sum()))
    assert counts.sum() == sizes.sum()
    assert (counts > 0).all()
    if temperature == 1.0:
        np.testing.assert_array_equal(counts, sizes)


def test_an_epoch_at_temperature_one_has_every_structure_once() -> None:
    mixture = of_sizes(70, 13, 1, temperature=1.0)
    assert sorted(mixture.epoch(3, seed=5).tolist()) == list(range(84))


def test_shares_are_met_in_every_epoch() -> None:
    mixture = of_sizes(900, 100)
    for epoch in range(3):
        drawn = mixture.epoch(epoch, seed=0)
        assert [(drawn < 900).sum(), (drawn >= 900).sum()] == [750, 250]


def test_no_structure_comes_again_before_all_of_its_task_came_over_epochs_too() -> None:
    mixture = of_sizes(900, 100)
    so_far: Counter[int] = Counter()
    for epoch in range(6):
        so_far.update(mixture.epoch(epoch, seed=1).tolist())
        for task in (range(900), range(900, 1000)):
            times = [so_far[number] for number in task]
            assert max(times) - min(times) <= 1
    assert so_far[0] == 5  # 6 · 750 / 900
    assert so_far[950] == 15  # 6 · 250 / 100


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    order = of_sizes(50, 20).epoch(2, seed=3).tolist()
    assert of_sizes(50, 20).epoch(2, seed=3).tolist() == order
    assert of_sizes(50, 20).epoch(2, seed=4).tolist() != order
    assert of_sizes(50, 20).epoch(3, seed=3).tolist() != order


def test_tasks_are_mixed_not_one_after_the_other() -> None:
    first = of_sizes(300, 300).epoch(0, seed=0) < 300
    assert 100 < sum(bool(a != b) for a, b in pairwise(first)) < 500


def test_order_is_the_same_everywhere() -> None:
    assert of_sizes(6, 2, temperature=1.0).epoch(1, seed=7).tolist() == [3, 0, 1, 7, 6, 2, 5, 4]


def test_cost_is_the_edges_a_structure_can_have() -> None:
    natoms = np.array([1, 2, 21, 31, 100])
    assert estimated_edges(natoms, 30, periodic=False).tolist() == [1, 2, 21 * 20, 31 * 30, 100 * 30]
    assert estimated_edges(natoms, 30, periodic=True).tolist() == [30, 60, 21 * 30, 31 * 30, 100 * 30]


def test_cost_follows_the_dataset_unless_told_otherwise() -> None:
    dataset = Sizes([4, 5], neighbours=2, periodic=True)
    assert TaskData("a", dataset, ("energy",)).costs.tolist() == [8, 10]
    assert TaskData("a", dataset, ("energy",), [1], neighbours=30, periodic=False).costs.tolist() == [20]


@given(costs_of_structures, st.integers(1, 8) | st.none(), st.integers(1, 3000), st.integers(1, 4))
def test_batches_are_as_long_as_the_limits_allow(
    costs: np.ndarray, batch_size: int | None, max_cost: int, at_least: int
) -> None:
    bounds = cut(costs, batch_size, max_cost, at_least=at_least)
    assert [bounds[0], bounds[-1]] == [0, len(costs)]
    assert (np.diff(bounds) > 0).all()
    for number, (start, end) in enumerate(pairwise(bounds.tolist()), start=1):
        last = number == len(bounds) - 1
        assert end - start >= at_least or len(bounds) == 2
        if not last or end - start <= at_least:
            assert end - start <= max(batch_size or len(costs), at_least)
            assert costs[start:end].sum() <= max_cost or end - start <= at_least
        if not last:
            full = batch_size is not None and end - start >= batch_size
            assert full or costs[start : end + 1].sum() > max_cost


def test_cost_makes_batches_more_equal_than_a_number_of_structures_does() -> None:
    mixture = of_sizes(3000, temperature=1.0, largest=100)
    spread = {}
    either: list[dict[str, Any]] = [{"batch_size": 20}, {"max_cost": 20 * int(mixture.costs.mean())}]
    for limits in either:
        plans = list(BatchSampler(mixture, **limits))[:-1]
        costs = [mixture.costs[plan.numbers].sum() for plan in plans]
        spread["max_cost" in limits] = float(np.std(costs) / np.mean(costs))
    assert spread[True] < spread[False] / 2


@given(costs_of_structures, st.integers(1, 8))
def test_parts_of_a_batch_cost_about_the_same(costs: np.ndarray, count: int) -> None:
    parts = equal_parts(costs, count)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(costs)))
    assert all(len(part) for part in parts) or len(costs) < count
    loads = [costs[part].sum() for part in parts]
    for part, load in zip(parts, loads, strict=True):  # without its cheapest structure no part is dearer than another
        assert not len(part) or load - costs[part].min() <= min(loads)


@pytest.mark.parametrize("limits", [{"batch_size": 16}, {"max_cost": 5000}])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_share_the_batches_of_one(limits: dict[str, Any], world_size: int) -> None:
    mixture = of_sizes(200, 60, largest=20)
    alone = list(BatchSampler(mixture, **limits, seed=2))
    ranks = [
        list(BatchSampler(mixture, **limits, seed=2, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert {len(plans) for plans in ranks} == {len(alone)}
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert all(len(part.numbers) for part in parts)
        assert sorted(np.concatenate([part.numbers for part in parts])) == sorted(whole.numbers)
        assert {part.num_global for part in parts} == {len(whole.numbers)}
        assert {(part.epoch, part.position) for part in parts} == {(whole.epoch, whole.position)}


def test_a_rest_of_fewer_structures_than_processes_joins_the_batch_before() -> None:
    plans = [list(BatchSampler(of_sizes(34), batch_size=8, rank=rank, world_size=3)) for rank in range(3)]
    assert [[plan.num_global for plan in part] for part in plans] == [[8, 8, 8, 10]] * 3


def test_no_process_is_without_work_where_structures_are_too_large() -> None:
    mixture = of_sizes(103, temperature=1.0)
    plans = [list(BatchSampler(mixture, max_cost=1, rank=rank, world_size=4)) for rank in range(4)]
    assert [len(part) for part in plans] == [25] * 4
    assert all(len(plan.numbers) for part in plans for plan in part)
    assert sorted(np.concatenate([plan.numbers for part in plans for plan in part])) == list(range(103))


def test_a_structure_above_the_limit_is_alone() -> None:
    mixture = Mixture([TaskData("a", Sizes([2, 90, 2, 2]), ("energy",))])
    plans = list(BatchSampler(mixture, max_cost=10, shuffle=False))
    assert numbers(plans) == [[0], [1], [2, 3]]


def test_without_shuffling_every_structure_comes_once_and_in_order() -> None:
    sampler = BatchSampler(of_sizes(9, 2), batch_size=4, shuffle=False)
    assert numbers(list(sampler)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    sampler.finish()
    assert numbers(list(sampler)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("used", [0, 1, 7, 13])
def test_a_saved_position_is_resumed(used: int) -> None:
    def make() -> BatchSampler:
        return BatchSampler(of_sizes(100, 30), max_cost=7000, seed=4)

    through = make()
    through.set_epoch(2)
    expected = list(through)
    for plan in expected[:used]:
        through.consumed(plan)
    state = json.loads(json.dumps(through.state_dict()))

    resumed = make()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(2)  # as a trainer does before every epoch
    assert len(resumed) == len(expected)
    assert numbers(list(resumed)) == numbers(expected[used:])
    assert numbers(list(resumed)) == numbers(expected)  # a position is used once: another iteration starts anew


def test_reading_ahead_does_not_move_the_saved_position() -> None:
    sampler = BatchSampler(of_sizes(40), batch_size=4)
    ahead = iter(sampler)
    first = next(ahead)
    next(ahead)
    next(ahead)
    sampler.consumed(first)
    assert sampler.state_dict()["position"] == 1


def test_another_epoch_drops_a_saved_position() -> None:
    sampler = BatchSampler(of_sizes(40), batch_size=4)
    sampler.load_state_dict(sampler.state_dict() | {"epoch": 3, "position": 5})
    sampler.set_epoch(4)
    assert [plan.position for plan in sampler] == list(range(10))


def test_a_position_may_be_resumed_with_more_processes() -> None:
    alone = BatchSampler(of_sizes(100, 30), max_cost=6000)
    plans = list(alone)
    alone.consumed(plans[4])
    ranks = [BatchSampler(of_sizes(100, 30), max_cost=6000, rank=rank, world_size=2) for rank in range(2)]
    for sampler in ranks:
        sampler.load_state_dict(alone.state_dict())
    for whole, *parts in zip(plans[5:], *ranks, strict=True):
        assert sorted(np.concatenate([part.numbers for part in parts])) == sorted(whole.numbers)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (BatchSampler(of_sizes(100, 30), batch_size=8), "batch_size was 4 and is now 8"),
        (BatchSampler(of_sizes(100, 31), batch_size=4), "sizes"),
        (BatchSampler(of_sizes(100, 30, largest=39), batch_size=4), "checksum"),
        (BatchSampler(of_sizes(100, 30, temperature=1), batch_size=4), "temperature"),
        (BatchSampler(of_sizes(100, 30), batch_size=4, seed=1), "seed"),
    ],
)
def test_a_position_in_other_data_is_refused(other: BatchSampler, what: str) -> None:
    state = BatchSampler(of_sizes(100, 30), batch_size=4).state_dict()
    with pytest.raises(ConfigError, match=what) as caught:
        other.load_state_dict(state)
    assert "\n" not in str(caught.value)


def test_structures_are_found_through_all_tasks() -> None:
    mixture = of_sizes(3, 1, 2)
    assert [mixture.locate(number) for number in range(6)] == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]


def test_a_task_reads_the_structures_of_its_split() -> None:
    task = TaskData("a", MadeDataset([molecule(seed) for seed in range(5)]), ("energy",), [3, 1])
    assert [task[index].name for index in range(len(task))] == ["made, record 3", "made, record 1"]


TASK = TaskData("a", Sizes([3, 4]), ("energy",))


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: TaskData("a", Sizes([3]), ()), ConfigError, "task a: no targets"),
        (lambda: TaskData("a", Sizes([]), ("energy",)), DataError, "task a: no structures in made"),
        (lambda: TaskData("a", Sizes([3]), ("energy",), []), DataError, "task a: no structures in made"),
        (lambda: TaskData("a", Sizes([3, 4]), ("energy",), [0, 2]), ConfigError, "which has 2"),
        (lambda: TaskData("a", Sizes([3, 4]), ("energy",), [-1]), ConfigError, "which has 2"),
        (lambda: Mixture([]), ConfigError, "at least one"),
        (lambda: Mixture([TASK, TASK]), ConfigError, "its own name"),
        (lambda: Mixture([TASK], 0.0), ConfigError, "positive"),
        (lambda: Mixture([TASK], float("nan")), ConfigError, "positive"),
        (lambda: BatchSampler(Mixture([TASK])), ConfigError, "without a limit"),
        (lambda: BatchSampler(Mixture([TASK]), max_cost=0), ConfigError, "positive"),
        (lambda: BatchSampler(Mixture([TASK]), batch_size=1, world_size=2), ConfigError, "2 processes"),
        (lambda: BatchSampler(Mixture([TASK]), batch_size=4, world_size=3), ConfigError, "fewer processes"),
        (lambda: BatchSampler(Mixture([TASK]), batch_size=4, rank=2, world_size=2), ConfigError, "from 0"),
        (lambda: BatchSampler(Mixture([TASK]), batch_size=4, seed=-1), ConfigError, "seed"),
    ],
)
def test_what_makes_no_sense_is_refused(make: object, kind: type[AtomslimError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
