import json
from pathlib import Path
from typing import Any

import pytest

from atomslim.compress import choose
from atomslim.compress.neighbours import neighbour_scan, with_neighbours
from atomslim.compress.prune import keep_blocks
from atomslim.compress.relevance import block_relevance
from atomslim.errors import ConfigError, DataError
from samples import DIRECT
from small_models import jmp
from train.water import waters


def chosen(ways: dict[str, Any], relevance: Path | None = None) -> tuple[int, ...] | None:
    return choose.kept_places(jmp(DIRECT, num_blocks=3), ways, relevance)


def scores(path: Path, values: list[float]) -> Path:
    path.write_text(json.dumps({"blocks": [0, 1, 2, 3], "mix": {"gradcam": [0.5, *values]}}))
    return path


def test_ways_to_choose(tmp_path: Path) -> None:
    relevance = scores(tmp_path / "relevance.json", [0.2, 0.1, 0.3])
    assert chosen({}) is None
    assert chosen({"blocks": 2}) == (1, 2)
    assert chosen({"keep": "1,3"}) == (1, 3)
    assert chosen({"drop": 2}, relevance) == (3,)
    model = jmp(DIRECT, num_blocks=3)
    two, one = (choose.parameters(keep_blocks(model, count)) for count in (2, 1))
    assert chosen({"parameters": str(two)}) == (1, 2)
    assert chosen({"parameters": str(two - 1)}) == (1,)
    assert chosen({"parameters": str(two)}, relevance) == (1, 3)
    assert chosen({"parameters": str(one - 1)}) == ()
    assert chosen({"speed": 1.0}) == (1, 2, 3)
    ratio = choose.flops(model) / choose.flops(keep_blocks(model, 2))
    assert ratio > 1.2
    assert chosen({"speed": ratio * 0.999}) == (1, 2)
    assert chosen({"speed": ratio * 1.001}) == (1,)


def test_blocks_of_a_cut_model_keep_their_numbers() -> None:
    cut = keep_blocks(jmp(DIRECT, num_blocks=3), [1, 3])
    assert choose.places_of(cut, [3]) == (2,)
    with pytest.raises(ConfigError, match=r"no block 2; the model has \[1, 3\]"):
        choose.places_of(cut, [2])


def test_the_file_of_relevance_orders_blocks(tmp_path: Path) -> None:
    model = jmp(DIRECT, num_blocks=3)
    found = block_relevance(model, waters(3))
    found.write(tmp_path)
    order = choose.removal_order(tmp_path / "relevance.json", model)
    assert order[:1] == found.lowest(1)
    assert sorted(order) == [1, 2, 3]


@pytest.mark.parametrize(
    ("ways", "message"),
    [
        ({"blocks": 2, "keep": "1"}, "2 ways"),
        ({"blocks": 4}, "from 0 to 3"),
        ({"keep": "0,1"}, "embedding"),
        ({"keep": "1,1"}, "named twice"),
        ({"keep": "one"}, "write their numbers"),
        ({"drop": 1}, "needs a relevance file"),
        ({"parameters": "10 apples"}, "no number of parameters"),
        ({"parameters": "1"}, "even without any block"),
        ({"speed": 1e6}, "not that fast"),
    ],
)
def test_wrong_ways(ways: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen(ways)


def test_a_wrong_file_of_relevance(tmp_path: Path) -> None:
    model = jmp(DIRECT, num_blocks=3)
    path = tmp_path / "relevance.json"
    path.write_text("[]")
    with pytest.raises(DataError, match="holds no relevance"):
        choose.removal_order(path, model)
    scores(path, [0.1, 0.2, 0.3])
    with pytest.raises(ConfigError, match="no score 'taylor'"):
        choose.removal_order(path, model, "taylor")
    with pytest.raises(ConfigError, match="this one has"):
        choose.removal_order(path, keep_blocks(model, 2))


@pytest.mark.parametrize(
    ("text", "count"), [("110M", 110_000_000), ("1.2b", 1_200_000_000), ("500k", 500_000), ("7", 7)]
)
def test_counts_are_understood(text: str, count: int) -> None:
    assert choose.parse_count(text) == count


def test_fewer_neighbours_leave_the_weights_and_the_model_alone() -> None:
    model = jmp(DIRECT, num_blocks=1)
    small = with_neighbours(model, 1)
    assert small.task("direct").graph.main == 1
    assert small.task("direct").graph.cutoff == DIRECT.graph.cutoff
    assert model.task("direct").graph == DIRECT.graph
    assert small.history[-1]["neighbours after"] == 1
    assert choose.parameters(small) == choose.parameters(model)
    with pytest.raises(ConfigError, match="give 1 or more"):
        with_neighbours(model, 0)


def test_a_scan_of_neighbours_counts_edges_and_errors() -> None:
    found = neighbour_scan(jmp(DIRECT, num_blocks=1), waters(4), [2, 1], repeats=1)
    assert [row.neighbours for row in found.rows] == [2, 1]
    assert found.rows[0].edges == pytest.approx(2.0)  # each atom of a molecule of three has two neighbours
    assert found.rows[1].edges < 2.0
    assert found.rows[0].errors.keys() == {"energy", "energy per atom", "forces"}
    assert found.as_dict()["rows"][0]["task"] == "direct"
