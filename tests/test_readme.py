"""The README's Python runs, block after block, as a reader would paste it."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) >= 3
    namespace: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), namespace)  # noqa: S102 - our own README
    assert "eV" in capsys.readouterr().out
    assert (tmp_path / "small.safetensors").is_file()


def test_commands_that_are_there_are_listed_by_the_command_line() -> None:
    from atomslim.cli.main import app

    line = next(line for line in README.read_text(encoding="utf-8").splitlines() if line.endswith("| there |"))
    listed = set(re.findall(r"`(\w+)`", line))
    assert listed == {name for name in app if not name.startswith("-")}
