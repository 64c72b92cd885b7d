"""The README's Python runs, block after block, as a reader would paste it."""

import re
from pathlib import Path

import pytest

from pages import ROOT, blocks, run_python

README = ROOT / "README.md"
FEW = ", ".join(
    f'{{"name": "{name}", "split": {{"train": 8, "validation": 2, "test": 2}}}}' for name in ("molecules", "oxides")
)


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(blocks(README, "python")) >= 2
    run_python(README, validate_against=f'validate_against="teacher", tasks=[{FEW}]')  # not on hundreds of structures
    energy = re.search(r"(-\d+\.\d+) eV", capsys.readouterr().out)
    assert energy is not None
    assert float(energy[1]) == pytest.approx(-310.0, abs=0.3)  # GFN2-xTB
    assert (tmp_path / "small.safetensors").is_file()


def test_every_command_is_shown_and_every_shown_one_is_there() -> None:
    from atomslim.cli.main import app

    shown = set(re.findall(r"^    (?:\S+ )*?atomslim (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert shown == {name for name in app if not name.startswith("-")}
