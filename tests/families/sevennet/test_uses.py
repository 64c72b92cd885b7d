"""What is done with every model, done with a small SevenNet."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sevenn", reason="needs the extra sevennet")

import atomslim
from atomslim.compress.prune import keep_blocks
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.families.sevennet.model import SevenNet
from families.labels import require_labels_are_learned
from families.sevennet.small_sevennet import small
from train.water import waters

SPLIT = {"train": 12, "validation": 4, "test": 4}
RUN: dict[str, Any] = {"progress": False, "steps": 2, "batch_size": 4, "ema": None}


def model() -> SevenNet:
    return small().float()


def test_relevance_has_a_score_for_every_block() -> None:
    with pytest.warns(AtomslimWarning, match="different reference energies"):  # springs know nothing of its energies
        scores = atomslim.block_relevance(model(), waters(8), batch_size=4)
    found = scores.tasks["potential"].gradcam["node"].mean
    assert len(found) == 4
    assert (found > 0).all()
    assert (scores.tasks["potential"].influence["node"].mean[1:] > 0).all()


def test_least_squares_comes_nearer_to_the_full_model_than_slicing() -> None:
    full, data = model(), waters(40)
    fit = keep_blocks(full, [1, 3], realign="least-squares", calibration=data).history[-1]["fit"]["node"]
    assert fit["R2 fitted"] > fit["R2 sliced"]


@pytest.mark.parametrize("heads", ["fresh", "reuse"])
def test_tuned_models_learn_and_go_back_to_the_package(heads: str, tmp_path: Path) -> None:
    targets = {
        "energy": {"kind": "energy", "mean": 0.0},
        "forces": {"kind": "conservative_forces", "loss": "l2", "weight": 10.0},
    }
    run = RUN | {"steps": 60, "optimiser": {"learning_rate": 2e-2}, "split": SPLIT}
    tuned = atomslim.finetune(model(), waters(20), output=tmp_path / "run", heads=heads, targets=targets, **run)
    atomslim.export(tuned, tmp_path / "tuned.pth")
    before, after = (atomslim.evaluate(one, waters(20)).errors["forces"].mae for one in (model(), tuned))
    assert after < 0.9 * before
    again = atomslim.load(tmp_path / "tuned.pth")
    assert atomslim.evaluate(again, waters(20)).errors["forces"].mae == pytest.approx(after, rel=1e-4)


def test_a_cut_learns_outputs_scalars_blocks_and_hessian_rows_of_the_full_model(tmp_path: Path) -> None:
    teacher = model()
    student = keep_blocks(teacher, [1, 3])
    weights = {"blocks": 1.0, "hessian": 0.1}
    tasks = [{"name": "potential", "split": SPLIT}]
    run = RUN | {"output": tmp_path / "run", "weights": weights, "validate_against": "teacher", "tasks": tasks}
    taught = atomslim.distill(student, teacher, data=waters(20), **run)
    assert taught.block_ids == (1, 3)
    assert any(not torch.equal(a, b) for a, b in zip(taught.parameters(), student.parameters(), strict=True))


def test_direct_forces_are_refused() -> None:
    with pytest.raises(ConfigError, match="SevenNet models have no direct forces"):
        atomslim.finetune(model(), waters(20), forces="direct", split=SPLIT, **RUN)


def test_labels_of_0_and_1_are_learned(tmp_path: Path) -> None:
    require_labels_are_learned(model(), tmp_path)
