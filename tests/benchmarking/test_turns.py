"""What is said of times, on made-up ones."""

import math
from dataclasses import dataclass, field

import pytest

from atomslim.benchmarking import turns
from atomslim.benchmarking.turns import Gain, Rounds, half_range, number_of_rounds, steady, take_turns

QUIET = [1.00, 1.01, 1.02, 1.00, 1.03, 1.01, 1.00]


def test_a_speed_up_is_the_median_of_the_rounds_ratios() -> None:
    gain = Gain.of([2.0, 2.2, 6.0, 2.0, 2.1], [1.0, 1.1, 3.0, 1.0, 1.0], flops=2.5)
    assert gain.median == pytest.approx(2.0)
    assert gain.minima == pytest.approx(2.0)
    assert gain.reliable
    assert str(gain) == "2.00 × ± 1%"
    assert gain.words() == "2.00 × the speed"
    assert Gain.read(gain.as_dict()) == gain


def test_a_drifting_machine_changes_times_not_the_ratio() -> None:
    drift = [1 + 0.5 * index for index in range(7)]
    gain = Gain.of([1.3 * slow for slow in drift], drift, flops=1.3)
    assert gain.median == pytest.approx(1.3)
    assert gain.spread == pytest.approx(0.0, abs=1e-12)
    assert not steady(drift)


def test_scattered_ratios_claim_nothing() -> None:
    gain = Gain.of([1.0, 9.0, 1.1, 8.0, 1.0, 1.2, 7.0], QUIET, flops=1.4)
    assert not gain.reliable
    assert "unclear speed-up" in gain.words()
    assert "the machine was busy" in gain.words()
    assert "FLOPs suggest 1.40 ×" in gain.words()
    assert "--repeats" in gain.words()
    assert f"{gain.median:.2f}" not in gain.words()
    assert str(gain).startswith("unclear")


def test_shortest_times_that_say_something_else_claim_nothing() -> None:
    """All rounds but one met another job, evenly: quartiles see nothing of it."""
    gain = Gain.of([3.0] * 6 + [1.2], [1.0] * 7, flops=1.2)
    assert half_range([3.0] * 6 + [1.2]) < 0.15
    assert gain.median == 3.0
    assert gain.minima == pytest.approx(1.2)
    assert gain.spread == pytest.approx(0.6)
    assert not gain.reliable


@pytest.mark.parametrize(("spread", "reliable"), [(0.14, True), (0.16, False)])
def test_the_bound_is_fifteen_per_cent(spread: float, reliable: bool) -> None:
    after = [1.2, 1.2, 1.0, 1.2, 1.2]  # so that the shortest times, of the third round, have the ratio 1, too
    ratios = [1 - spread, 1 - spread, 1.0, 1 + spread, 1 + spread]
    gain = Gain.of([ratio * seconds for ratio, seconds in zip(ratios, after, strict=True)], after, flops=1.0)
    assert gain.spread == pytest.approx(spread)
    assert gain.reliable is reliable


def test_too_few_rounds_claim_nothing_and_a_case_against_itself_is_as_fast() -> None:
    gain = Gain.of([2.0, 2.0], [1.0, 1.0], flops=1.7)
    assert math.isinf(gain.spread)
    assert "too few repeats" in gain.words()
    assert "FLOPs suggest 1.70 ×" in gain.words()
    assert gain.as_dict()["spread"] is None
    assert Gain.read(gain.as_dict()) == gain
    assert str(Gain.of([2.0], [2.0], flops=1.0)) == "1.00 ×"


def test_times_are_steady_within_the_bound() -> None:
    assert steady(QUIET)
    assert not steady(QUIET[:2])
    assert not steady([1.0, 2.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize(("longest", "repeats", "expected"), [(0.01, 5, 20), (0.1, 5, 10), (10.0, 5, 5), (0.1, 30, 30)])
def test_short_passes_take_more_rounds(
    longest: float, repeats: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "FILL_SECONDS", 1.0)
    assert number_of_rounds(longest, repeats) == expected


@dataclass
class _Made:
    """A case that takes so long, without taking it."""

    name: str
    estimate: float
    order: list[str]
    rounds: Rounds = field(default_factory=lambda: Rounds.of("pass"))
    passes: int = 0

    def fill(self, seconds: float) -> None:
        self.order.append(self.name)
        self.rounds.fill(self._once, seconds)

    def _once(self) -> dict[str, float]:
        self.passes += 1
        return {"pass": self.estimate * (1 + self.passes % 3)}


def test_every_case_fills_a_second_in_random_turns_and_keeps_its_shortest_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "FILL_SECONDS", 1.0)
    order: list[str] = []
    slow, quick = _Made("slow", 0.2, order), _Made("quick", 0.01, order)
    take_turns([slow, quick], repeats=4)
    rounds = [tuple(order[index : index + 2]) for index in range(0, len(order), 2)]
    assert len(rounds) == 5
    assert set(rounds) == {("slow", "quick"), ("quick", "slow")}
    assert len(slow.rounds.parts["pass"]) == len(quick.rounds.parts["pass"]) == 5
    assert quick.passes * 0.02 == pytest.approx(1.0, rel=0.2)
    assert min(quick.rounds.parts["pass"]) == pytest.approx(0.01)
