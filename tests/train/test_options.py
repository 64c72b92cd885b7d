import pytest

from atomslim.errors import ConfigError
from atomslim.train.distill import DistillOptions
from atomslim.train.options import validated


def test_none_is_nothing_where_an_option_may_be_left_out() -> None:
    given = {"steps": 1, "ema": "none", "budget": "none", "optimiser": {"clip": "none"}, "schedule": {"cosine": "none"}}
    found = validated(DistillOptions, given)
    assert (found.ema, found.budget, found.optimiser.clip, found.schedule.cosine) == (None, None, None, None)


def test_none_is_no_value_of_an_option_that_must_have_one() -> None:
    with pytest.raises(ConfigError, match="options: seed: Input should be a valid integer"):
        validated(DistillOptions, {"steps": 1, "seed": "none"})
