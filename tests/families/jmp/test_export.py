"""Checkpoints that are written for JMP: read again, they give the same bits."""

import json
from pathlib import Path

import pytest
import torch

from atomslim.errors import ConfigError
from atomslim.families.jmp import JMP, JMPGraphSettings
from atomslim.families.jmp.checkpoint import PRETRAINING_TASKS, read_jmp
from atomslim.models import Target, Task
from atomslim.models.model_file import export, load, save
from families.jmp.checkpoints import (
    COUNTER,
    FOUR_TASKS,
    NAMES,
    SCALARS,
    assert_same_outputs,
    checkpoint,
    content_order,
    refused,
)
from small_models import CONSERVATIVE, DIRECT, jmp


@pytest.mark.parametrize("kept", [[1, 2, 3], [1, 3], [2], []])
def test_exporting_changes_no_output_bit(kept: list[int], tmp_path: Path) -> None:
    model = jmp(*FOUR_TASKS, num_blocks=3).with_blocks(kept)
    model.history = [{"operation": "keep blocks", "notes": []}]
    export(model, tmp_path / "model.pt")
    again = load(tmp_path / "model.pt")
    assert isinstance(again, JMP)
    assert_same_outputs(again, model)
    assert (again.tasks, again.block_ids) == (model.tasks, tuple(kept))
    assert [entry["operation"] for entry in again.history] == ["keep blocks", "read"]
    bare = read_jmp(checkpoint(model, tmp_path))
    assert_same_outputs(bare, model)
    assert tuple(bare.tasks.values()) == PRETRAINING_TASKS


def test_tasks_survive_an_export(tmp_path: Path) -> None:
    task = Task(
        name="aspirin",
        targets=(
            Target(name="E", kind="energy", mean=-17617.0, std=0.27, references={1: -13.0}),
            Target(name="F", kind="conservative_forces", unit="eV/Å"),
            Target(name="r2", kind="r2", unit="Å²"),
        ),
        graph=JMPGraphSettings.from_neighbours(7.0, 100, "invariant"),
    )
    model = jmp(task, direct_forces=False, heads_without_bias=("aspirin.E",))
    export(model, tmp_path / "model.pt")
    again = load(tmp_path / "model.pt")
    assert list(again.tasks.values()) == [task]
    assert again.history[-1]["notes"] == []
    save(again, tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").tasks == model.tasks


def test_a_file_can_be_exported_over_while_its_model_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    model = jmp(*FOUR_TASKS)
    export(model, path)
    again = load(path)
    assert isinstance(again, JMP)
    export(again.with_blocks([1]), path)
    assert_same_outputs(again, model)
    assert load(path).num_blocks == 1


def test_one_model_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("first.pt", "second.pt"):
        export(jmp(*FOUR_TASKS), tmp_path / name)
    assert (tmp_path / "first.pt").read_bytes() == (tmp_path / "second.pt").read_bytes()


def test_an_exported_file_is_read_by_pytorch_alone(tmp_path: Path) -> None:
    model = jmp(*FOUR_TASKS).float()
    content = checkpoint(model, tmp_path)
    state, (optimizer,) = content["state_dict"], content["optimizer_states"]
    parameters = [key for key in content_order(model) if not key.endswith((".offset", ".temps", "scale_factor"))]
    first_names = [key for key in parameters if ".seq_energy_pre." not in key]
    assert len(optimizer["ema"]) == len(list(model.parameters())) == len(first_names)
    for key, average in zip(first_names, optimizer["ema"], strict=True):
        assert torch.equal(average, state[key])
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert [key for key in state if key.startswith("task_steps.")] == [COUNTER.format(name) for name in NAMES]


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (jmp(DIRECT, CONSERVATIVE), "several tasks that each"),
        (
            jmp(SCALARS, Task(graph=JMPGraphSettings(), name="z", targets=(Target(name="z", kind="scalar"),))),
            "several tasks that each",
        ),
        (jmp(CONSERVATIVE, basis_cutoff=5.0), "basis cutoff"),
    ],
)
def test_a_model_that_the_format_cannot_hold_is_refused(model: JMP, word: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=word):
        export(model, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"block_ids": [1]}, "about another model; remove the entry"),
        ({"tasks": [CONSERVATIVE.model_dump(mode="json")]}, "about another model: tasks conservative"),
        ({"tasks": [{"name": "a"}]}, "tasks.0.targets"),
        ({"format_version": 7}, "upgrade atomslim"),
    ],
)
def test_an_entry_of_ours_that_does_not_fit_is_refused(change: dict[str, object], word: str, tmp_path: Path) -> None:
    export(jmp(*FOUR_TASKS), tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["atomslim"] = json.dumps(json.loads(content["atomslim"]) | change)
    assert word in refused(content)
    for wrong in ("", "{", 3, torch.ones(1)):
        assert "its metadata" in refused(content | {"atomslim": wrong})
