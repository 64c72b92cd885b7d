import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ase.build import molecule

from atomslim.compress import choose
from atomslim.compress.prune import keep_blocks
from atomslim.compress.relevance import block_relevance
from atomslim.errors import ConfigError, DataError
from atomslim.models.block_model import BlockModel
from atomslim.models.modes import parameter_count
from samples import DIRECT
from small_models import jmp
from train.water import waters

pytestmark = pytest.mark.filterwarnings("ignore:.*different reference energies")  # no trained model is at hand


@cache
def three_blocks() -> BlockModel:
    return jmp(DIRECT, num_blocks=3)


def chosen(ways: dict[str, Any], relevance: Path | None = None) -> tuple[int, ...] | None:
    return choose.chosen_blocks(three_blocks(), ways, relevance)


def scores(path: Path, values: list[float]) -> Path:
    path.write_text(json.dumps({"blocks": [0, 1, 2, 3], "mix": {"gradcam": [0.5, *values]}}))
    return path


def cost(model: BlockModel) -> int:
    return 50 + 100 * model.num_blocks


def test_ways_to_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "flops", cost)
    relevance = scores(tmp_path / "relevance.json", [0.2, 0.1, 0.3])
    assert chosen({}) is None
    assert chosen({"blocks": 2}) == (1, 2)
    assert chosen({"keep": "1,3"}) == (1, 3)
    assert chosen({"drop": 2}, relevance) == (3,)
    model = jmp(DIRECT, num_blocks=3)
    two, one = (parameter_count(keep_blocks(model, count)) for count in (2, 1))
    assert chosen({"parameters": str(two)}) == (1, 2)
    assert chosen({"parameters": str(two - 1)}) == (1,)
    assert chosen({"parameters": str(two)}, relevance) == (1, 3)
    assert chosen({"parameters": str(one - 1)}) == ()
    assert chosen({"speed": 1.0}) == (1, 2, 3)
    assert chosen({"speed": 1.4}) == (1, 2)
    assert chosen({"speed": 1.41}) == (1,)
    assert chosen({"speed": 1.4}, relevance) == (1, 3)


def test_speed_is_estimated_by_flops_that_every_block_adds_alike() -> None:
    model = jmp(DIRECT, num_blocks=2)
    whole, one, none = (choose.flops(keep_blocks(model, count), molecule("H2O")) for count in (2, 1, 0))
    assert whole > one > none > 0
    assert whole - one == pytest.approx(one - none, rel=0.02)  # the readout's first layer is shared


def test_blocks_of_a_cut_model_keep_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "flops", cost)
    cut = keep_blocks(jmp(DIRECT, num_blocks=4), [1, 3, 4])
    assert choose.chosen_blocks(cut, {"blocks": 2}) == (1, 3)
    assert choose.chosen_blocks(cut, {"keep": "4,1"}) == (1, 4)
    path = tmp_path / "relevance.json"
    path.write_text(json.dumps({"blocks": [0, 1, 3, 4], "mix": {"gradcam": [0.5, 0.2, 0.1, 0.3]}}))
    assert choose.chosen_blocks(cut, {"drop": 1}, path) == (1, 4)
    two = parameter_count(keep_blocks(cut, 2))
    assert choose.chosen_blocks(cut, {"parameters": str(two)}) == (1, 3)
    assert choose.chosen_blocks(cut, {"speed": 1.01}) == (1, 3)
    with pytest.raises(ConfigError, match=r"no block 2; the model has \[1, 3, 4\]"):
        choose.chosen_blocks(cut, {"keep": "2"})


def test_the_file_of_relevance_orders_blocks(tmp_path: Path) -> None:
    model = jmp(DIRECT, num_blocks=3)
    found = block_relevance(model, waters(3))
    found.write(tmp_path)
    order = choose.removal_order(tmp_path / "relevance.json", model)
    assert order[:1] == found.lowest(1)
    assert sorted(order) == [1, 2, 3]
    for score in found.scores:
        assert choose.removal_order(found, model, score) == choose.removal_order(
            tmp_path / "relevance.json", model, score
        )
        assert tuple(sorted(choose.removal_order(found, model, score)[:2])) == found.lowest(2, score)


@pytest.mark.parametrize(
    ("ways", "message"),
    [
        ({"blocks": 2, "keep": "1"}, "2 ways"),
        ({"blocks": 4}, "from 0 to 3"),
        ({"keep": "0,1"}, "embedding"),
        ({"keep": "1,1"}, "named twice"),
        ({"keep": "one"}, "write their numbers"),
        ({"keep": ""}, "write their numbers"),
        ({"keep": "4"}, "no block 4"),
        ({"drop": 1}, "needs relevance"),
        ({"parameters": "10 apples"}, "not a number of parameters"),
        ({"parameters": "1"}, "even without any block"),
        ({"speed": 1e6}, "not that fast"),
        ({"speed": 0.9}, "give 1 or more"),
        ({"speed": float("nan")}, "give 1 or more"),
    ],
)
def test_wrong_ways(ways: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "flops", cost)
    with pytest.raises(ConfigError, match=message):
        chosen(ways)


def test_a_wrong_file_of_relevance(tmp_path: Path) -> None:
    model = jmp(DIRECT, num_blocks=3)
    path = tmp_path / "relevance.json"
    path.write_text("[]")
    with pytest.raises(DataError, match="holds no relevance"):
        choose.removal_order(path, model)
    scores(path, [0.1, 0.2])
    with pytest.raises(DataError, match="2 values of gradcam for 3 blocks"):
        choose.removal_order(path, model)
    scores(path, [0.1, 0.2, 0.3])
    with pytest.raises(ConfigError, match="4 blocks to drop"):
        chosen({"drop": 4}, path)
    for ways in ({"blocks": 2}, {"keep": "1"}, {}):
        with pytest.raises(ConfigError, match="relevance does not apply"):
            chosen(ways, path)
    with pytest.raises(ConfigError, match="no score 'taylor'"):
        choose.removal_order(path, model, "taylor")
    with pytest.raises(ConfigError, match="this one has"):
        choose.removal_order(path, keep_blocks(model, 2))


@pytest.mark.parametrize(
    ("text", "count"), [("110M", 110_000_000), ("1.2b", 1_200_000_000), ("500k", 500_000), ("7", 7)]
)
def test_counts_are_understood(text: str, count: int) -> None:
    assert choose.parse_count(text) == count
