"""What `atomslim info` says of a model."""

import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from atomslim.cli.main import main
from atomslim.errors import CheckpointError
from atomslim.evaluation.describe import count_parameters, describe
from atomslim.families.jmp import JMPGraphSettings, jmp_l
from atomslim.families.jmp.model import JMP
from atomslim.models import Target, Task, energy_and_forces
from atomslim.models.model_file import export, load, save
from small_models import CONSERVATIVE, DIRECT, jmp

FITTED_TASK = Task(
    name="aspirin",
    targets=(
        Target(name="energy", kind="energy", std=2.5, references={1: -13.0, 6: -1030.0}),
        Target(name="forces", kind="conservative_forces", unit="eV/Å"),
    ),
    graph=JMPGraphSettings.from_neighbours(7.0, 100),
)


def test_a_model_is_described_in_numbers() -> None:
    model = jmp().with_blocks([2])
    described = describe(model)
    assert (described.family, described.file, described.dtype) == ("jmp", None, "float64")
    assert described.blocks == (2,)
    assert described.sizes["emb_size_atom"] == 14
    assert [task["name"] for task in described.tasks] == ["direct", "conservative"]
    assert described.tasks[0]["graph"]["cutoff"] == 12.0
    assert list(described.parameters_by_part) == [
        "embedding",
        "block 1",
        "readout",
        "head direct",
        "head conservative",
    ]
    assert sum(described.parameters_by_part.values()) == described.parameters
    assert described.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_shared_weights_count_once() -> None:
    layer = torch.nn.Linear(3, 2)
    assert count_parameters([layer, torch.nn.Sequential(layer)]) == 8


def test_jmp_l_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        tasks = [
            energy_and_forces(name, forces="direct", graph=JMPGraphSettings())
            for name in ("oc20", "oc22", "ani1x", "transition1x")
        ]
        model = JMP(jmp_l(), tasks)
    assert count_parameters([model]) == 234_267_648


def test_notes_say_what_a_user_must_know() -> None:
    fresh = jmp(CONSERVATIVE, direct_forces=False)
    assert [note.split(":")[0] for note in describe(fresh).notes] == [
        "untrained, as far as its history tells",
        "energies of conservative have no per-element references",
    ]
    trained = jmp(FITTED_TASK, direct_forces=False)
    trained.history = [{"operation": "fine-tune"}]
    assert describe(trained).notes == ()
    trained.get_buffer("backbone.outputs.0.atom_update.scale.factor").zero_()
    assert describe(trained).notes == ("1 of the scale factors are not fitted and act as 1",)
    assert describe(trained).details["unfitted_scale_factors"] == 1


def jmp_file(folder: Path) -> Path:
    """Write a pre-training checkpoint whose averages are not its weights."""
    export(jmp(DIRECT), folder / "jmp.pt")
    content = torch.load(folder / "jmp.pt", weights_only=True)
    del content["atomslim"]
    content["optimizer_states"][0]["ema"] = tuple(2 * tensor for tensor in content["optimizer_states"][0]["ema"])
    torch.save(content, folder / "jmp.pt")
    return folder / "jmp.pt"


def test_a_file_is_described_with_its_origin(tmp_path: Path) -> None:
    path = jmp_file(tmp_path)
    described, raw = describe(path), describe(str(path), raw_weights=True)
    assert described.file == "jmp.pt"
    assert [entry["weights"] for entry in (*described.history, *raw.history)] == ["ema", "raw"]
    (note,) = described.notes
    assert "relative to JMP's linear per-element references" in note
    save(load(path, tasks=[FITTED_TASK.model_copy(update={"targets": DIRECT.targets})]), tmp_path / "set.safetensors")
    again = describe(tmp_path / "set.safetensors")
    assert [entry["operation"] for entry in again.history] == ["read", "set tasks"]
    assert "energies of aspirin have no per-element references" in again.notes[0]


def test_a_description_is_plain_data(tmp_path: Path) -> None:
    save(jmp(FITTED_TASK, direct_forces=False), tmp_path / "model.safetensors")
    described = describe(tmp_path / "model.safetensors").as_dict()
    again = json.loads(json.dumps(described))
    assert again["tasks"][0]["targets"][0]["references"] == {"1": -13.0, "6": -1030.0}
    assert again["units"]["stress"] == "eV/Å³"
    assert "scale factors" in again["conventions"]


@pytest.mark.parametrize("width", [80, 200])
def test_a_description_is_readable_at_any_width(width: int) -> None:
    model = jmp(FITTED_TASK, direct_forces=False)
    model.history = [{"operation": "read", "file": "[red]x[/red].pt", "sha256": None, "versions": {"torch": "2"}}]
    text = describe(model).render(width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("aspirin", "energy", "100", "emb_size_atom", "block 2", "14", "[red]x[/red].pt", "torch 2"):
        assert word in text
    stream = StringIO()
    Console(file=stream, width=width).print(describe(model))
    assert stream.getvalue() == text


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        describe(tmp_path / "missing.pt")


def test_the_command_prints_tables_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = jmp_file(tmp_path)
    assert main(["info", str(path)]) == 0
    assert "Scale factors: " in capsys.readouterr().out
    assert main(["info", str(path), "--json", "--raw-weights"]) == 0
    assert json.loads(capsys.readouterr().out)["history"][0]["weights"] == "raw"
    assert main(["info", str(tmp_path)]) == 1
    assert "is a directory" in capsys.readouterr().err
