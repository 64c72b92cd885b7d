import errno
from pathlib import Path

import pytest

from atomslim import __version__
from atomslim.cli import main as cli
from atomslim.errors import StructureError


def run(*tokens: str) -> int:
    return cli.main(tokens)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on stderr, without its head."""
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("atomslim: error: ")
    return output.err.removeprefix("atomslim: error: ").strip()


def raises(error: BaseException) -> object:
    def app(_tokens: object) -> None:
        raise error

    return app


def test_help_lists_the_commands_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert {"info", "predict", "Example:"} <= set(text.split())


@pytest.mark.parametrize("command", ["info", "predict"])
def test_help_of_a_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    assert f"Example: atomslim {command}" in capsys.readouterr().out


def test_no_command_tells_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[-1] == "All commands: atomslim --help"
    for line in lines[:5]:
        cli.app.parse_args(line.partition("  #")[0].split()[1:], print_error=False, exit_on_error=False)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("tokens", "word"),
    [
        (["prnue"], "prnue"),
        (["info"], "FILE"),
        (["info", "a.pt", "--jsno"], "--jsno"),
        (["predict", "a.pt", "b.xyz"], "--output"),
        (["predict", "a.pt", "b.xyz", "-o", "c.xyz", "--batch-size", "0"], "--batch-size"),
        (["predict", "a.pt", "b.xyz", "-o", "c.xyz", "--batch-size", "many"], "many"),
        (["predict", "a.pt", "b.xyz", "-o", "c.xyz", "--device", "tpu"], "tpu"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    tokens: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*tokens) == 2
    line = error_line(capsys)
    assert word in line
    assert "--help" in line


def test_a_missing_model_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", str(tmp_path / "missing.pt")) == 1
    assert str(tmp_path / "missing.pt") in error_line(capsys)


def test_missing_structures_are_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", str(tmp_path / "missing.pt"), "missing.xyz", "-o", str(tmp_path / "out.extxyz")) == 1
    assert "missing.pt" in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (StructureError("a.xyz: record 3:\n atom 1 is nowhere"), 1, "a.xyz: record 3: atom 1 is nowhere"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.pt"), 1, "a.pt: No such file; check the path"),
        (OSError(errno.ENOSPC, "Disk full", "b.pt"), 1, "b.pt: Disk full; free some space or write elsewhere"),
        (PermissionError(errno.EACCES, "Denied", "c.pt"), 1, "c.pt: Denied; check the permissions"),
        (OSError("no errno"), 1, "no errno"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_goes_wrong_is_one_line(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ATOMSLIM_DEBUG", raising=False)
    monkeypatch.setattr(cli, "app", raises(error))
    assert run("info") == status
    assert error_line(capsys) == line


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMSLIM_DEBUG", "1")
    monkeypatch.setattr(cli, "app", raises(StructureError("bad")))
    with pytest.raises(StructureError):
        run("info")


def test_a_fault_of_ours_is_one_line_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", raises(TypeError("a bug")))
    assert run("info") == 1
    assert error_line(capsys).startswith("unexpected TypeError: a bug: this is a bug in atomslim; ATOMSLIM_DEBUG=1")
    monkeypatch.setenv("ATOMSLIM_DEBUG", "1")
    with pytest.raises(TypeError):
        run("info")
