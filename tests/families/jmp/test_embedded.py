"""The model that comes with the package: what it promises, measured on structures that it was not trained on."""

from pathlib import Path

import numpy as np
import pytest

from atomslim import block_relevance, load
from atomslim.data import open_dataset
from atomslim.data.readers import mini
from atomslim.errors import CheckpointError
from atomslim.evaluation.batches import spread_out
from atomslim.evaluation.evaluate import evaluate
from atomslim.families.jmp.embedded import HERE, card
from atomslim.models.registry import located

TASKS = ("molecules", "reactions", "adsorbates", "oxides")


def test_it_is_a_small_model_of_six_blocks_and_four_tasks() -> None:
    model = load("mini")
    assert model.block_ids == (1, 2, 3, 4, 5, 6)
    assert tuple(model.tasks) == TASKS
    assert 2e6 < sum(weight.numel() for weight in model.parameters()) < 4e6
    assert located("mini")[0].stat().st_size <= 12e6


def test_its_sample_is_small_too() -> None:
    files = [mini.FOLDER / f"{name}.samples" for name in mini.DOMAINS]
    assert 1e6 < sum(file.stat().st_size for file in files) < 2e6


def test_a_file_of_the_same_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mini").mkdir()
    assert located("mini")[0].parent == HERE
    Path("mini").rmdir()
    Path("mini").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="mini: is no model file"):
        load("mini")


def test_the_card_says_what_it_is_and_is_not() -> None:
    for words in ("GFN2-xTB", "GFN1-xTB", "not a production potential", "generate", *TASKS):
        assert words in card("mini")


@pytest.mark.slow
@pytest.mark.parametrize(("task", "times"), [("molecules", 9), ("reactions", 5), ("adsorbates", 5), ("oxides", 4)])
def test_forces_are_far_better_than_none(task: str, times: float) -> None:
    chosen = spread_out(open_dataset(f"mini:{task}"), 60)
    nothing = np.abs(np.concatenate([sample.targets["forces"][~sample.fixed] for sample in chosen])).mean()
    assert evaluate(load("mini"), chosen, task=task).errors["forces"].mae * times < nothing


@pytest.mark.slow
def test_every_block_earns_its_place() -> None:
    data = {task: f"mini:{task}" for task in TASKS}
    found = block_relevance(load("mini"), data, limit=12)
    added = np.mean([task.left_out["forces"] / task.errors["forces"].mae for task in found.tasks.values()], axis=0)
    assert (added[1:] > 0).all()
