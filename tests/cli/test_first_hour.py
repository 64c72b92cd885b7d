"""What a newcomer meets: the next command, folders instead of files, JSON, recipes, models from elsewhere."""

import json
import re
import shlex
import zipfile
from pathlib import Path

import pytest
import yaml
from ase.io import write
from cyclopts import App
from rich.table import Table

import atomslim
from atomslim import progress
from atomslim.cli import main as cli
from atomslim.cli.help_all import in_paragraphs
from atomslim.errors import CheckpointError, meant
from atomslim.models.elsewhere import FAMILIES, elsewhere
from atomslim.recipes import recipes
from atomslim.report.console import plain_console
from atomslim.study.options import read_study
from atomslim.train.distill import DistillOptions
from atomslim.train.finetune import FinetuneOptions
from atomslim.train.options import RunOptions, validated
from atomslim.train.pretrain import PretrainOptions
from samples import DIRECT, small_model
from train.water import waters

WITHOUT_RESULT = {"serve"}
"""Commands that run until they are stopped."""

OPTIONS: dict[str, type[RunOptions]] = {
    "finetune": FinetuneOptions,
    "distill": DistillOptions,
    "pretrain": PretrainOptions,
}


def commands() -> list[tuple[str, App]]:
    """Return every command by what is typed."""
    found = []
    for name in cli.app:
        if name.startswith("-") or name in WITHOUT_RESULT:
            continue
        below = [inner for inner in cli.app[name] if not inner.startswith("-")]
        found += [(f"{name} {inner}", cli.app[name][inner]) for inner in below] or [(name, cli.app[name])]
    return found


@pytest.mark.parametrize(("typed", "command"), commands(), ids=[typed for typed, _ in commands()])
def test_every_command_has_json_and_a_text_for_each_option(typed: str, command: App) -> None:
    arguments = command.assemble_argument_collection(parse_docstring=True)
    assert "--json" in {name for argument in arguments for name in argument.names}, typed
    for argument in arguments:
        assert argument.parameter.help, f"{typed} {argument.name} says nothing"


def next_words(text: str) -> list[str]:
    """Return the words of the command that comes next, which is one that the command line understands."""
    line = next(line for line in text.splitlines() if line.startswith("Next: atomslim "))
    words = shlex.split(line.removeprefix("Next: atomslim "))
    cli.app.parse_args(words, print_error=False, exit_on_error=False)
    return words


def run(capsys: pytest.CaptureFixture[str], *tokens: str | Path) -> tuple[str, list[str]]:
    """Run a command; return what it prints and the next one."""
    assert cli.main([str(token) for token in tokens]) == 0, capsys.readouterr().err
    output = capsys.readouterr()
    return output.out, next_words(output.err)


def test_each_command_leads_to_the_next_and_folders_stand_for_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    atomslim.save(small_model(DIRECT).float(), "runs/best.safetensors")
    write("water.xyz", [sample.to_ase() for sample in waters(3)])
    scores = ("relevance", "runs", "water.xyz", "-o", "scores", "--limit", "2", "--no-leave-out", "--json")
    text, words = run(capsys, *scores)
    assert set(json.loads(text)["mix"]) >= {"gradcam"}
    text, words = run(capsys, *words, "--json")  # prune … --relevance scores
    assert json.loads(text)["output"] == "small.safetensors"
    assert words[:4] == ["distill", "small.safetensors", "runs", "direct=water.xyz"]
    text, words = run(capsys, "evaluate", "runs", "water.xyz")
    assert words[:4] == ["validate", "runs", "--against", "water.xyz"]
    text, words = run(capsys, "predict", "runs", "water.xyz", "-o", "out.extxyz", "--json")
    assert json.loads(text)["structures"] == 3
    text, words = run(capsys, *words, "--json")  # data show out.extxyz
    assert json.loads(text)["structures"] == 3


@pytest.mark.parametrize("command", OPTIONS)
def test_help_all_has_every_option_with_its_default(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help-all"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in OPTIONS[command].model_fields:
        assert re.search(rf"\b{name}\b", text), name
    assert "optimiser.learning_rate" in text
    assert "[default: 8e-05]" in text
    assert "energy_key" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--option", "energy_kee=E"), "there is no option 'energy_kee': did you mean energy_key"),
        (("--option", "energy_key=E", "--set", "tasks=[a]"), "tasks: write a list of options"),
        (("--steps", "1", "--set", "steps=2"), "steps: is also given as an option"),
    ],
)
def test_pretraining_takes_the_options_of_the_other_trainings(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "water.xyz", [sample.to_ase() for sample in waters(3)])
    atomslim.save(small_model(DIRECT).float(), tmp_path / "model.safetensors")
    options = {
        "model": str(tmp_path / "model.safetensors"),
        "tasks": [{"name": "water", "data": str(tmp_path / "water.xyz"), "head": "direct"}],
    }
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    assert cli.main(["pretrain", str(tmp_path / "mix.yaml"), "-o", str(tmp_path / "run"), *words]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_help_is_in_paragraphs_without_empty_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["slim", "--help"]) == 0
    text = capsys.readouterr().out
    assert "[default: ()]" not in text
    assert "--help-all" in text
    assert in_paragraphs("One\ntwo.\n\nParameters\n----------\nx\n    A\n    B\ny\n    C") == (
        "One two.\n\nParameters\n----------\nx\n    A B\ny\n    C"
    )


def test_names_in_narrow_tables_are_not_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("a name")
    table.add_row("molecules of a long name")
    console = plain_console(width=12)
    with console.capture() as captured:
        console.print(table)
    assert "…" not in captured.get()
    assert plain_console().width >= 120  # into a pipe


def test_a_folder_without_a_model_names_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a directory without best\.safetensors"):
        atomslim.load(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds a\.safetensors, b\.safetensors: name one"):
        atomslim.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("uma-s-1p1", "UMA"),
        ("esen_30m_oam.pt", "UMA"),
        ("mattersim-v1.0.0-5M.pth", "MatterSim"),
        ("NequIP-OAM-L.nequip.zip", "NequIP"),
        ("aimnet2_wb97m_0.jpt", "AIMNet2"),
        ("pet-mad-v1.0.2.ckpt", "PET-MAD"),
        ("GRACE-2L-OAM", "GRACE"),
        ("DPA-3.1-3M.pt", "DeePMD"),
    ],
)
def test_models_from_elsewhere_are_known_by_name(name: str, title: str) -> None:
    found = elsewhere(Path(name))
    assert found is not None
    assert title in found.title


@pytest.mark.parametrize("name", ["mini", "jmp-l.pt", "small.safetensors", "umami.pt", "grace_period_model_1.xyz"])
def test_other_names_are_not(name: str) -> None:
    assert elsewhere(Path(name)) is None


def test_models_from_elsewhere_are_known_by_content_and_can_teach(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("checkpoint/data.pkl", b"\x80\x02cmattersim.forcefield.potential\nPotential\n.")
    with pytest.raises(
        CheckpointError, match=r"MatterSim, which cannot be pruned here; it can be a teacher.*--teacher"
    ):
        atomslim.load(path)
    assert len({one.title for one in FAMILIES}) == len(FAMILIES)


def test_recipes_are_valid_and_run_as_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, recipe in recipes().items():
        _, words = run(capsys, "recipes", "copy", name)
        assert words[0] == name
        assert recipe.file in words
        if name in OPTIONS:
            validated(OPTIONS[name], yaml.safe_load(Path(recipe.file).read_text(encoding="utf-8")))
        else:
            read_study(Path(recipe.file))
    assert cli.main(["recipes", "copy", "finetun"]) == 1
    assert "did you mean finetune?" in capsys.readouterr().err
    assert cli.main(["recipes", "copy", "study"]) == 1  # it is there already


def test_models_are_listed_with_licences_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = run(capsys, "models", "--json")
    for name, family in json.loads(text)["families"].items():
        assert family["weights"], name
        assert all(family[f"licence of {what}"] for what in ("code", "weights")), name


def test_what_was_meant() -> None:
    assert meant("Gradcan", ["gradcam", "taylor"]) == "did you mean gradcam?"
    assert meant("x", ["gradcam", "taylor"]) == "there are gradcam, taylor"


def test_progress_is_a_line_every_so_often(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr("atomslim.progress.time.monotonic", lambda: now[0])
    with progress.shown():
        for _ in progress.tracked(range(200), "count", 200):
            now[0] += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert [int(re.findall(r"\d+", line)[0]) for line in lines] == [10, 30, 70, 130, 190]
    assert lines[0] == "count: 10 of 200 structures, 1/s, 190 s left".replace("190 s", "3 min")
    assert list(progress.tracked(range(3), "quiet")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
