"""Distillation in rounds: each cuts a part of the way, and learns."""

import shutil
from pathlib import Path
from typing import Any
from warnings import warn

import pytest
import torch

import atomslim
from atomslim.compress.cuts import Cut
from atomslim.compress.part_way import goal_cut
from atomslim.errors import AtomslimWarning, CheckpointError, ConfigError
from atomslim.families.jmp import JMP
from atomslim.models.block_model import BlockModel
from atomslim.train import distill
from samples import DIRECT
from small_models import jmp
from train.water import waters

pytestmark = pytest.mark.filterwarnings("ignore:.*different reference energies")  # no trained model is at hand

RUN: dict[str, Any] = {
    "progress": False,
    "batch_size": 4,
    "tasks": [{"name": "direct", "split": {"train": 16, "validation": 4}}],
    "optimiser": {"learning_rate": 3e-3},
    "validate_against": "teacher",
    "ema": None,
    "steps": 16,
    "rounds": 2,
}


def pair() -> tuple[JMP, JMP]:
    """Return a teacher, and a cut of it with fewer blocks, channels and neighbours."""
    full = jmp(DIRECT, num_blocks=3, sum_scale=1.0).float()
    return full, Cut((1,), widths=(("edge", 8),), neighbours=7).of(full, waters(16))


def shape(model: BlockModel) -> tuple[Any, ...]:
    return model.block_ids, model.config, model.task().graph


def test_each_round_goes_a_part_of_the_way_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    full, goal = pair()
    found = atomslim.distill(goal, full, waters(24), output=tmp_path, **RUN)
    assert shape(found) == shape(goal)
    half = atomslim.load(tmp_path / "round-1" / "best.safetensors")
    assert half.block_ids == (1, 2)
    assert half.config.emb_size_edge == 12  # type: ignore[attr-defined]  # √(18 · 8)
    assert 7 < (half.task().graph.typical_neighbours or 0) < (full.task().graph.typical_neighbours or 0)
    said = [(entry["operation"], entry.get("round")) for entry in found.history]
    cuts = ["keep blocks", "narrow", "reduce neighbours"]
    one, two = ([(cut, f"{number} of 2") for cut in cuts] for number in (1, 2))
    assert said == [*one, ("distil", None), *two, ("distil", None)]
    assert "\nsteps: 8\n" in (tmp_path / "round-1" / "config.yaml").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "round-2")  # as if it had been killed before
    (tmp_path / "best.safetensors").unlink()
    again = atomslim.distill(goal, full, waters(24), output=tmp_path, resume=True, **RUN)
    for name, weight in again.state_dict().items():
        torch.testing.assert_close(weight, found.state_dict()[name])
    with pytest.raises(ConfigError, match="cannot resume"):
        atomslim.distill(Cut((2,)).of(full), full, waters(24), output=tmp_path, resume=True, **RUN)


def test_the_way_begins_at_the_full_model_and_ends_at_the_cut() -> None:
    full, goal = pair()
    assert goal_cut(full, goal, 0.0).blocks == full.block_ids
    assert dict(goal_cut(full, goal, 0.0).widths)["edge"] == full.config.emb_size_edge
    assert goal_cut(full, goal, 1.0) == Cut((1,), widths=(("edge", 8),), neighbours=7)


def test_wrong_use_is_said(tmp_path: Path) -> None:
    full, _ = pair()
    with pytest.raises(ConfigError, match="as large as its teacher"):
        atomslim.distill(full, full, waters(24), output=tmp_path / "a", **RUN)
    with pytest.raises(ConfigError, match=r"in some of 4, nothing would be cut: this student can be cut in 2"):
        atomslim.distill(Cut((1,)).of(full), full, waters(24), output=tmp_path / "c", **RUN | {"rounds": 4})
    with pytest.raises(ConfigError, match="1 steps are too few for 2 rounds"):
        atomslim.distill(Cut((1,)).of(full), full, waters(24), output=tmp_path / "d", **RUN | {"steps": 1})
    with pytest.raises(ConfigError, match="one process"):
        atomslim.distill(Cut((1,)).of(full), full, waters(24), output=tmp_path / "b", **RUN, devices=2)
    other = jmp(DIRECT, num_blocks=1, sum_scale=1.0, num_atom=2).float()
    with pytest.raises(ConfigError, match="cut from this teacher"):
        atomslim.distill(other, full, waters(24), output=tmp_path / "c", **(RUN | {"steps": 2}))
    assert not (tmp_path / "a").exists()


def test_what_all_rounds_say_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning that every round comes to, and the notes on data and graphs."""
    monkeypatch.setattr(distill, "_require_precision", lambda *_: warn("at every round", AtomslimWarning, stacklevel=1))
    full, goal = pair()
    with pytest.warns(AtomslimWarning) as warned:
        atomslim.distill(goal, full, waters(24), output=tmp_path, **RUN | {"steps": 2, "progress": True})
    assert [str(warning.message) for warning in warned].count("at every round") == 1
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("round ") for line in lines) == 2
    assert sum(line.startswith("labels of") for line in lines) == 1
    (tmp_path / "best.safetensors").unlink()  # as if it had been killed in its last round
    (tmp_path / "last.safetensors").unlink()
    with pytest.raises(CheckpointError, match=rf"continue it \(--resume\), or name one of {tmp_path}/round-1, "):
        atomslim.load(tmp_path)
