import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from atomslim.cli import main as cli
from atomslim.data import download as downloads
from atomslim.data import splits
from atomslim.data.container import Container


def run(*tokens: object) -> int:
    return cli.main(["data", *map(str, tokens)])


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.startswith("atomslim: error: ")
    return text


@pytest.fixture
def water(tmp_path: Path) -> Path:
    structures = []
    for number in range(6):
        atoms = molecule("H2O")
        atoms.rattle(0.01, seed=number)
        atoms.calc = SinglePointCalculator(atoms, energy=-14.0 - 1e-3 * number, forces=np.full((3, 3), 0.1 * number))
        structures.append(atoms)
    write(tmp_path / "water.extxyz", structures)
    return tmp_path / "water.extxyz"


@pytest.mark.parametrize("command", ["list", "download", "prepare", "check", "show"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    assert f"Example: atomslim data {command}" in " ".join(capsys.readouterr().out.split())


def test_no_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data"]) == 0
    text = capsys.readouterr().out
    assert {"list", "download", "prepare", "check", "show"} <= set(text.replace("│", " ").split())


def test_the_list_has_names_sizes_licences_and_citations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("list", "--root", tmp_path) == 0
    text = capsys.readouterr().out
    for word in ("rmd17", "Revised MD17", "aspirin", "CC0", "Christensen", "GB", str(tmp_path)):
        assert word in text
    assert run("list", "rmd17", "--root", tmp_path) == 0
    text = capsys.readouterr().out
    for word in ("rmd17:aspirin", "100000", "154 MB", "kcal/mol"):
        assert word in text
    assert "prepared" not in text


def test_the_list_says_what_is_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "rmd17").mkdir()
    (tmp_path / "rmd17" / "rmd17_aspirin.npz").touch()
    (tmp_path / "rmd17" / "ethanol.samples").touch()
    run("list", "rmd17", "--root", tmp_path)
    lines = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if "rmd17:" in line}
    assert (lines["rmd17:aspirin"], lines["rmd17:ethanol"]) == ("downloaded", "prepared")


def test_prepare_writes_a_container_once(water: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "water.samples"
    assert run("prepare", water, "-o", output, "--edges") == 0
    assert f"{output}: 6 structures, 18 atoms; 6 of them now" in capsys.readouterr().out
    assert Container(output).index.extra["edges"].tolist() == [6.0] * 6
    assert run("prepare", water, "-o", output, "--edges") == 0
    assert "it was there" in capsys.readouterr().out
    assert run("show", output) == 0
    assert "18 (0 fixed)" in capsys.readouterr().out


def test_check_exits_with_1_when_there_is_a_problem(
    water: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", water) == 0
    assert "impossible values" in capsys.readouterr().out
    assert run("check", water, "--against", water) == 1
    output = capsys.readouterr()
    assert "6 structures in both" in output.out
    assert output.err.count("\n") == 1
    splits.random(6, 4, 1).save(tmp_path / "split.json")
    assert run("check", water, "--split", tmp_path / "split.json") == 0
    assert "share no structure" in capsys.readouterr().out


def test_check_believes_a_unit_that_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-76.4, forces=np.full((3, 3), 0.1))
    write(tmp_path / "water.extxyz", atoms)
    assert run("check", tmp_path / "water.extxyz") == 1
    assert 'energy_unit="Hartree"' in capsys.readouterr().err
    assert run("check", tmp_path / "water.extxyz", "--option", "energy_unit=eV") == 0
    assert "note     unit of the energy" in capsys.readouterr().out


def test_show_prints_a_table_and_draws_a_figure(
    water: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", water, "--figure", tmp_path / "water.png", "--limit", 4) == 0
    assert "structures               4 " in capsys.readouterr().out
    assert (tmp_path / "water.png").read_bytes().startswith(b"\x89PNG")


def test_options_go_to_the_reader(water: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", water, "--option", "energy_unit=kcal/mol", "--option", "length_unit=Å") == 0
    assert "-0.607" in capsys.readouterr().out


def test_downloads_are_refused_offline_with_the_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(downloads.OFFLINE_VARIABLE, "1")
    assert run("download", "rmd17:aspirin", "--root", tmp_path) == 1
    assert str(tmp_path / "rmd17" / "rmd17_aspirin.npz") in error_line(capsys)


def test_a_download_reports_files_and_citation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "fetch", lambda file, folder, *_, **__: folder / file.filename)
    assert run("download", "rmd17:aspirin", "--root", tmp_path) == 0
    text = capsys.readouterr().out
    assert str(tmp_path / "rmd17" / "rmd17_aspirin.npz") in text
    assert "please cite" in text


@pytest.mark.parametrize(
    ("tokens", "status", "word"),
    [
        (["lst"], 2, "lst"),
        (["prepare"], 2, "NAME"),
        (["prepare", "a.xyz", "--processes", "0"], 2, "--processes"),
        (["prepare", "missing.xyz"], 1, "missing.xyz"),
        (["show", "rmd17:asprin"], 1, "did you mean rmd17:aspirin"),
        (["list", "rmd71"], 1, "did you mean rmd17"),
        (["show", "rmd17:aspirin", "--option", "unit"], 1, "NAME=VALUE"),
        (["show", "rmd17:aspirin", "--root", "/nowhere"], 1, "atomslim data download rmd17:aspirin"),
    ],
)
def test_wrong_use_is_one_line(tokens: list[str], status: int, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*tokens) == status
    assert word in error_line(capsys)


def test_a_file_needs_a_path_for_its_container(water: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prepare", water) == 1
    assert "--output" in error_line(capsys)


def test_help_does_not_import_torch() -> None:
    program = (
        "import sys; from atomslim.cli.main import main; main(['data', 'show', '--help']);"
        "assert 'torch' not in sys.modules, 'torch'; assert 'matplotlib' not in sys.modules, 'matplotlib'"
    )
    result = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
