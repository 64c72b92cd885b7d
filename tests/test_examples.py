"""The examples run, as a reader would run them."""

import runpy
import sys
from pathlib import Path

import pytest
from ase.io import write

import atomslim
from pages import without_drawing
from samples import DIRECT
from small_models import jmp
from train.water import waters

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.filterwarnings("ignore:.*different reference energies")  # the models here are not trained
def test_half_the_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    atomslim.save(jmp(DIRECT, num_blocks=2).float(), tmp_path / "model.safetensors")
    write(tmp_path / "water.xyz", [sample.to_ase() for sample in waters(20)])
    arguments = ["model.safetensors", "direct=xyz:water.xyz", "-o", "half", "--budget", "1s", "--limit", "8"]
    monkeypatch.chdir(tmp_path)
    without_drawing(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["half_the_price.py", *arguments])
    runpy.run_path(str(EXAMPLES / "half_the_price.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "distilled" in printed
    assert (tmp_path / "half" / "compare" / "compare.html").is_file()
    assert (tmp_path / "half" / "relevance" / "relevance.png").is_file()
    assert atomslim.load(tmp_path / "half" / "distilled.safetensors").num_blocks == 1
