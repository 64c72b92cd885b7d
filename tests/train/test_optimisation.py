import math

import pytest

from atomslim.errors import DataError
from atomslim.evaluation.errors import Errors, Results
from atomslim.models.losses import Term
from atomslim.train.optimisation import Plateau, plateau_rules, rate_factor
from atomslim.train.options import ScheduleOptions, parse_duration
from atomslim.train.run_state import Budget, Clock
from atomslim.train.validation import score

BUDGET = Budget([parse_duration("100 steps")])


def options(cosine: str | None) -> ScheduleOptions:
    return ScheduleOptions.model_validate({"warmup": "20%", "warmup_factor": 0.2, "cosine": cosine})


@pytest.mark.parametrize(("cosine", "first"), [(None, 20), ("50%", 50), ("10%", 20)])
def test_the_plateau_rules_when_warm_up_and_cosine_are_over(cosine: str | None, first: int) -> None:
    rules = [step for step in range(101) if plateau_rules(options(cosine), BUDGET, Clock(steps=step))]
    assert rules == list(range(first, 101))


def test_the_rate_rises_follows_the_cosine_and_stays() -> None:
    rates = [rate_factor(options("50%"), BUDGET, Clock(steps=step)) for step in (0, 10, 25, 50, 90)]
    assert rates == pytest.approx([0.2, 0.6, 0.1 + 0.9 * 0.5, 0.1, 0.1])


def test_the_plateau_lowers_after_patience_and_goes_on_from_its_state() -> None:
    plateau = Plateau(0.5, patience=1)
    for value in (3.0, 2.0, 2.0, 2.0, 1.0, 1.0):
        plateau.observe(value)
    assert plateau.scale == 0.5
    assert plateau.state() == {"scale": 0.5, "best": 1.0, "waited": 1}


def errors(**by_task: float) -> Results:
    return {task: {"energy": Errors(mae, mae, 1, "eV")} for task, mae in by_task.items()}


TERMS = [Term(task, "energy", 1.0, "l1", 1.0, 1.0) for task in ("easy", "hard")]


def test_the_score_is_the_geometric_mean_of_ratios_to_the_mean() -> None:
    assert score(errors(easy=0.2, hard=4.0), errors(easy=2.0, hard=4.0), TERMS) == pytest.approx(math.sqrt(0.1))
    assert score(errors(easy=0.0, hard=0.0), errors(easy=2.0, hard=0.0), TERMS) < 1e-4


def test_a_task_that_cannot_be_learned_does_not_choose_the_model() -> None:
    mean = errors(easy=1.0, hard=1.0)
    better, noisier = errors(easy=0.05, hard=1.01), errors(easy=0.06, hard=0.97)
    assert score(better, mean, TERMS) < score(noisier, mean, TERMS)


def test_a_score_of_nothing_is_an_error() -> None:
    unweighted = [Term("easy", "energy", 0.0, "l1", 1.0, 1.0)]
    with pytest.raises(DataError, match="labelled in validation"):
        score(errors(easy=1.0), errors(easy=1.0), unweighted)
