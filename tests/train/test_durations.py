import pytest

from atomslim.train.optimisation import Plateau, rate_factor
from atomslim.train.options import ScheduleOptions, parse_duration
from atomslim.train.run_state import Budget, Clock


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("30min", 1800.0, "seconds"),
        ("1.5 h", 5400.0, "seconds"),
        ("2000 steps", 2000.0, "steps"),
        ("1 epoch", 1.0, "epochs"),
        ("5%", 0.05, "share"),
    ],
)
def test_durations_are_understood(text: str, amount: float, unit: str) -> None:
    duration = parse_duration(text)
    assert duration.amount == pytest.approx(amount)
    assert (str(duration.unit), str(duration)) == (unit, text)


@pytest.mark.parametrize("text", ["", "30", "min", "5 parsecs", "-3 steps"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_progress_is_that_of_the_limit_reached_first() -> None:
    budget = Budget([parse_duration("10s"), parse_duration("100 steps")])
    assert budget.progress(Clock(steps=20, seconds=5.0)) == 0.5
    assert budget.progress(Clock(steps=80, seconds=5.0)) == 0.8
    assert budget.spent(Clock(steps=1, seconds=10.5))
    assert not budget.spent(Clock(steps=99, seconds=9.9, validation_seconds=1000.0))


def test_the_rate_warms_up_then_follows_the_cosine_then_stays() -> None:
    options = ScheduleOptions.model_validate({"warmup": "10 steps", "warmup_factor": 0.2, "cosine": "50%"})
    budget = Budget([parse_duration("100 steps")])

    def at(steps: int) -> float:
        return rate_factor(options, budget, Clock(steps=steps))

    assert at(0) == pytest.approx(0.2)
    assert at(5) == pytest.approx(0.6)
    assert at(25) == pytest.approx(0.1 + 0.9 / 2)
    assert at(50) == at(90) == pytest.approx(0.1)


def test_the_schedule_scales_with_the_wall_clock() -> None:
    options = ScheduleOptions.model_validate({"warmup": "10%", "warmup_factor": 0.0})
    budget = Budget([parse_duration("1h")])
    assert rate_factor(options, budget, Clock(seconds=180.0)) == pytest.approx(0.5)
    assert rate_factor(options, budget, Clock(seconds=1800.0)) == pytest.approx(0.55)


def test_a_plateau_lowers_the_rate_after_its_patience() -> None:
    plateau = Plateau(factor=0.5, patience=2)
    scales = []
    for value in [1.0, 0.9, 0.9, 0.95, 0.9, 0.8, 0.8, 0.8, 0.8]:
        plateau.observe(value)
        scales.append(plateau.scale)
    assert scales == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25]
