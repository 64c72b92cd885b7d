"""No command writes over what it reads, or over a file that is not its own; what fails leaves nothing."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ase.io import write

from atomslim import keep_blocks
from atomslim.cli import main as cli
from atomslim.errors import ConfigError
from atomslim.models.model_file import export, load, save
from small_models import DIRECT, jmp
from train.water import waters

PRECIOUS = "precious"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, a cut of it, structures and a folder of structures; commands run in it."""
    model = jmp(DIRECT, num_blocks=3, sum_scale=1.0).float()
    save(model, tmp_path / "full.safetensors")
    save(keep_blocks(model, 2), tmp_path / "cut.safetensors")
    (tmp_path / "frames").mkdir()
    for name in ("water.xyz", "frames/a.xyz"):
        write(tmp_path / name, [sample.to_ase() for sample in waters(6)], format="extxyz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail in one line and leave everything as it is; return the line."""
    before, folders = contents(folder), sorted(path for path in folder.rglob("*") if path.is_dir())
    capsys.readouterr()
    assert cli.main(command) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("atomslim: error:")] == lines[-1:], lines
    assert contents(folder) == before
    assert sorted(path for path in folder.rglob("*") if path.is_dir()) == folders
    return lines[-1]


CUT = ["prune", "full.safetensors", "--blocks", "1"]
SCAN = ["prune", "full.safetensors", "--scan-neighbours", "5", "--data", "water.xyz"]


@pytest.mark.parametrize("link", [None, os.symlink, os.link], ids=["same name", "symbolic link", "hard link"])
def test_a_model_is_not_replaced_by_its_cut(
    link: Callable[[str, str], None] | None, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "./full.safetensors"
    if link is not None:
        name = "link.safetensors"
        link("full.safetensors", name)
    for command in ([*CUT, "-o", name], [*CUT, "-o", name, "--force"]):
        assert "the command reads this file" in refused(command, work, capsys)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([*CUT, "-o", "x.pt"], "ends in .safetensors: give it that ending"),
        ([*CUT, "-o", "x"], "ends in .safetensors"),
        ([*CUT, "-o", "x.safetensors", "--export", "y.safetensors"], "is not a .safetensors"),
        ([*CUT, "-o", "water.xyz"], "ends in .safetensors"),
        (
            ["prune", "full.safetensors", "--scan-neighbours", "5", "--data", "water.xyz", "-o", "cut.safetensors"],
            "json",
        ),
        (["data", "prepare", "water.xyz", "-o", "water.xyz"], "a container ends in .samples"),
        (["data", "prepare", "water.xyz", "-o", "water.xyz", "--force"], "a container ends in .samples"),
        (["data", "show", "water.xyz", "--figure", "water.xyz"], "a figure ends in"),
        (["predict", "full.safetensors", "water.xyz", "-o", "water.xyz", "--force"], "reads this file"),
        (["predict", "full.safetensors", "frames", "-o", "frames/p.extxyz"], "among the files"),
        (["predict", "full.safetensors", "frames", "-o", "frames"], "among the structures"),
        (["relevance", "full.safetensors", "frames", "-o", "frames"], "among the files"),
        (["compare", "full.safetensors", "--data", "frames", "-o", "frames"], "among the files"),
        (["compare", "full.safetensors", "--data", "water.xyz", "-o", "compare.html"], "is the name of a file"),
        (["benchmark", "full.safetensors", "-o", "b.json"], "is the name of a file"),
        (["package", "full.safetensors", "-o", "full.safetensors"], "a package ends in .pt2"),
    ],
)
def test_a_name_that_cannot_be_meant_is_refused(
    command: list[str], message: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(command, work, capsys)


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ([*CUT, "-o", "m.safetensors"], "m.safetensors"),
        ([*CUT, "-o", "m.safetensors", "--export", "m.pt"], "m.pt"),
        ([*SCAN, "-o", "m.json"], "m.json"),
        (["data", "prepare", "water.xyz", "-o", "m.samples"], "m.samples"),
        (["data", "show", "water.xyz", "--figure", "m.png"], "m.png"),
        (["predict", "full.safetensors", "water.xyz", "-o", "m.extxyz"], "m.extxyz"),
        (["relevance", "full.safetensors", "water.xyz", "-o", "out"], "out/relevance.csv"),
        (["compare", "full.safetensors", "--data", "water.xyz", "-o", "out"], "out/compare.json"),
        (["compare", "full.safetensors", "--data", "water.xyz", "-o", "out"], "out/compare.png"),
        (["benchmark", "full.safetensors", "-o", "out"], "out/benchmark.md"),
        (["package", "full.safetensors", "-o", "m.pt2"], "m.pt2"),
    ],
)
def test_a_file_of_the_users_is_kept(
    command: list[str], file: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / file).parent.mkdir(exist_ok=True)
    (work / file).write_text(PRECIOUS)
    assert f"{file}: already exists" in refused(command, work, capsys)


def test_a_trained_model_is_kept_and_a_cut_is_made_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = load("full.safetensors")
    tuned.history.append({"operation": "fine-tune"})
    save(tuned, "tuned.safetensors")
    assert "--force" in refused([*CUT, "-o", "tuned.safetensors"], work, capsys)
    assert cli.main([*CUT, "-o", "tuned.safetensors", "--force"]) == 0
    assert cli.main(["prune", "full.safetensors", "--keep", "2", "-o", "tuned.safetensors", "--export", "t.pt"]) == 0
    assert load("tuned.safetensors").block_ids == (2,)
    assert cli.main(["prune", "full.safetensors", "--keep", "3", "-o", "tuned.safetensors", "--export", "t.pt"]) == 0
    assert load("t.pt").block_ids == (3,)


def test_reports_are_made_again_beside_other_files(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "out").mkdir()
    (work / "out" / "notes.txt").write_text(PRECIOUS)
    for _ in range(2):
        command = ["compare", "full.safetensors", "--data", "water.xyz", "-o", "out", "--no-speed", "--limit", "2"]
        assert cli.main(command) == 0, capsys.readouterr().err
    assert (work / "out" / "notes.txt").read_text() == PRECIOUS
    assert json.loads((work / "out" / "compare.json").read_text())["models"]


def test_force_replaces_another_file_and_predictions_ask_for_it(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", "full.safetensors", "water.xyz", "-o", "p.extxyz"]
    assert cli.main(command) == 0
    assert "already exists" in refused(command, work, capsys)
    (work / "p.extxyz").write_text(PRECIOUS)
    assert cli.main([*command, "--force"]) == 0
    assert PRECIOUS not in (work / "p.extxyz").read_text()


def test_a_cut_whose_export_fails_leaves_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "folder.pt").mkdir()
    refused([*CUT, "-o", "small.safetensors", "--export", "folder.pt"], work, capsys)
    refused([*CUT, "-o", "small.safetensors", "--export", "nowhere/m.pt"], work, capsys)
    save(jmp(DIRECT, num_blocks=2, basis_cutoff=6.0).float(), "short.safetensors")
    command = ["prune", "short.safetensors", "--blocks", "1", "-o", "small.safetensors", "--export", "m.pt"]
    assert "basis cutoff" in refused(command, work, capsys)


def test_a_report_of_which_one_file_cannot_be_written_is_none(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "out" / "compare.png").mkdir(parents=True)
    refused(["compare", "full.safetensors", "--data", "water.xyz", "-o", "out", "--no-speed"], work, capsys)


def test_a_folder_made_for_what_failed_goes_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "bad.xyz").write_text("3\nenergy=-1.0\nH 0 0 0\nH 0 0 nan\nO 0 1 0\n")
    refused(["data", "prepare", "bad.xyz", "-o", "new/place/bad.samples"], work, capsys)
    refused(["predict", "full.safetensors", "bad.xyz", "-o", "new/predictions"], work, capsys)
    refused(["relevance", "full.safetensors", "bad.xyz", "-o", "new/relevance"], work, capsys)


def test_models_are_saved_under_names_that_say_what_they_are(tmp_path: Path) -> None:
    model = jmp(DIRECT, num_blocks=1)
    for ending in (".pt", ".pth", ".ckpt"):
        with pytest.raises(ConfigError, match=r"models are saved as \.safetensors"):
            save(model, tmp_path / f"model{ending}")
    with pytest.raises(ConfigError, match=r"is not a \.safetensors"):
        export(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
