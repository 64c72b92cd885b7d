"""The README's Python runs, block after block, as a reader would paste it."""

import re
from pathlib import Path

import pytest

from pages import ROOT, blocks, run_python

README = ROOT / "README.md"


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(blocks(README, "python")) >= 2
    run_python(README)
    assert "eV" in capsys.readouterr().out
    assert (tmp_path / "small.safetensors").is_file()


def test_commands_that_are_there_are_listed_by_the_command_line() -> None:
    from atomslim.cli.main import app

    line = next(line for line in README.read_text(encoding="utf-8").splitlines() if line.endswith("| there |"))
    listed = set(re.findall(r"`(\w+)`", line))
    assert listed == {name for name in app if not name.startswith("-")}
