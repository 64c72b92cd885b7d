from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomslim.data import splits
from atomslim.data.splits import Split
from atomslim.errors import ConfigError, DataError


def test_rmd17s_split_is_a_shuffle_with_seed_42() -> None:
    split = splits.original("rmd17", "aspirin", 100_000)
    order = np.arange(100_000)
    np.random.RandomState(42).shuffle(order)
    assert split.train == tuple(order[:950].tolist())
    assert split.validation == tuple(order[950:1000].tolist())
    assert split.test == tuple(order[1000:].tolist())
    assert split.train[:4] == (75721, 80184, 19864, 76699)  # what numpy's documented, frozen generator gives


@pytest.mark.parametrize(
    ("dataset", "variant", "count", "sizes"),
    [
        ("rmd17", "aspirin", 1000, (950, 50, 0)),
        ("md22", "Ac-Ala3-NHMe", 85_109, (5700, 300, 79_109)),
        ("md22", "buckyball-catcher", 6102, (570, 30, 5502)),
        ("md22", "double-walled_nanotube", 5032, (760, 40, 4232)),
        ("qm9", "U0", 130_831, (110_831, 10_000, 10_000)),
        ("spice", "solvated_amino_acids", 1300, (1040, 130, 130)),
        ("qmof", "band_gap", 14_482, (11_585, 1448, 1449)),
        ("matbench", "jdft2d", 636, (458, 50, 128)),
    ],
)
def test_original_sizes(dataset: str, variant: str, count: int, sizes: tuple[int, int, int]) -> None:
    assert splits.original(dataset, variant, count).sizes == sizes


def test_a_limit_takes_training_structures_evenly() -> None:
    split = Split(recipe="all", count=10, train=(9, 7, 5, 3, 1), validation=(0,))
    few = split.limited(3)
    assert (few.train, few.validation, few.count) == ((9, 5, 1), (0,), 10)
    assert "3 of 5 for training" in few.recipe
    assert split.limited(5) is split.limited(None) is split


@pytest.mark.parametrize(("dataset", "count"), [("rmd17", 999), ("qm9", 20_000), ("md22", 50)])
def test_a_split_larger_than_the_data_is_refused(dataset: str, count: int) -> None:
    with pytest.raises(ConfigError, match=str(count)):
        splits.original(dataset, "DHA", count)


@pytest.mark.parametrize(("dataset", "variant"), [("oc20", "train"), ("md22", "water"), ("ani1x", "")])
def test_no_original_split(dataset: str, variant: str) -> None:
    with pytest.raises(ConfigError, match="no original split"):
        splits.original(dataset, variant, 1000)


@given(
    st.integers(2, 300), st.floats(0.01, 1), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 1)), st.integers(0, 9)
)
def test_a_random_split_has_no_overlap(
    count: int, train: float, validation: float, test: float | None, seed: int
) -> None:
    try:
        split = splits.random(count, train, validation, test, seed=seed)
    except ConfigError:
        return
    numbers = [*split.train, *split.validation, *split.test]
    assert len(set(numbers)) == len(numbers) <= count
    assert set(numbers) <= set(range(count))
    assert split == splits.random(count, train, validation, test, seed=seed)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=8, max_size=60), st.integers(0, 5))
def test_groups_stay_together(groups: list[str], seed: int) -> None:
    if len(set(groups)) < 3:
        return
    try:
        split = splits.by_group(groups, 0.6, 0.2, seed=seed)
    except ConfigError:
        return
    sets = [{groups[number] for number in part} for part in (split.train, split.validation, split.test)]
    assert sum(map(len, sets)) == len(set(groups))
    assert sum(split.sizes) == len(groups)


def test_groups_fill_the_sets_as_asked() -> None:
    groups = [f"molecule {number // 10}" for number in range(1000)]
    assert splits.by_group(groups, 0.8, 0.1).sizes == (800, 100, 100)
    with pytest.raises(ConfigError, match="groups cannot be split"):
        splits.by_group(["a"] * 10, 0.8, 0.1)


def test_matbench_folds_are_pieces_of_a_shuffled_order() -> None:
    order = np.arange(12)
    np.random.RandomState(18012019).shuffle(order)
    found = [splits.matbench(12, fold).test for fold in range(5)]
    assert [len(test) for test in found] == [3, 3, 2, 2, 2]
    assert found[0] == tuple(sorted(order[:3].tolist()))
    assert sorted(number for test in found for number in test) == list(range(12))
    with pytest.raises(ConfigError, match="0 to 4"):
        splits.matbench(12, 5)


def test_published_index_files(tmp_path: Path) -> None:
    (tmp_path / "index_train_01.csv").write_text("5\n3\n9\n1\n")
    (tmp_path / "index_test_01.csv").write_text("0\n2\n")
    split = splits.from_files(10, tmp_path / "index_train_01.csv", tmp_path / "index_test_01.csv", validation=1)
    assert sorted([*split.train, *split.validation]) == [1, 3, 5, 9]
    assert split.sizes == (3, 1, 2)
    with pytest.raises(ConfigError, match="larger dataset"):
        splits.from_files(8, tmp_path / "index_train_01.csv")
    (tmp_path / "index_test_01.csv").write_text("0\n3\n")
    with pytest.raises(ConfigError, match="overlap"):
        splits.from_files(10, tmp_path / "index_train_01.csv", tmp_path / "index_test_01.csv")
    (tmp_path / "index_test_01.csv").write_text("zero\n")
    with pytest.raises(DataError, match=r"index_test_01\.csv"):
        splits.from_files(10, tmp_path / "index_train_01.csv", tmp_path / "index_test_01.csv")


def test_a_saved_split_comes_back(tmp_path: Path) -> None:
    split = splits.random(50, 0.8, 0.1)
    split.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json") == split
    split.require(50, "data")
    with pytest.raises(ConfigError, match="made for 50"):
        split.require(49, "data")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"recipe": "x", "count": 3, "train": [0, 0]}',
        '{"recipe": "x", "count": 3, "train": [0], "test": [0]}',
        '{"recipe": "x", "count": 3, "train": [3]}',
        '{"recipe": "x", "count": 3, "train": []}',
    ],
)
def test_a_file_that_is_no_split_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(DataError, match=r"split\.json: is not a saved split") as error:
        Split.load(tmp_path / "split.json")
    assert "\n" not in str(error.value)


def test_folds_of_classes_are_stratified_as_scikit_learn_does() -> None:
    selection = pytest.importorskip("sklearn.model_selection")
    labels = (np.random.RandomState(3).rand(53) < 0.3).astype(float)
    theirs = selection.StratifiedKFold(5, shuffle=True, random_state=18012019).split(labels, labels)
    for fold, (_, test) in enumerate(theirs):
        assert splits.matbench(53, fold, labels).test == tuple(test.tolist())
    assert "stratified" in splits.matbench(53, 0, labels).recipe


def test_scaffolds_go_by_size() -> None:
    """Sizes 5, 2, 1, 1, 1; of equal ones the last goes first."""
    groups = ["a", "b", "a", "c", "a", "d", "a", "b", "a", "e"]
    split = splits.by_scaffold(groups, 0.8, 0.1)
    assert split.train == (0, 2, 4, 6, 8, 1, 7, 9)
    assert split.validation == (5,)
    assert split.test == (3,)
    with pytest.raises(ConfigError, match="by scaffold: use a random split"):
        splits.by_scaffold([""] * 10, 0.8, 0.1)
    with pytest.raises(ConfigError, match="every scaffold has more structures"):
        splits.by_scaffold(["a"] * 4 + ["b"] * 4 + ["c"] * 4, 0.2, 0.2)
