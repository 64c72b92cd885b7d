"""The README's Python runs, block after block, as a reader would paste it."""

import importlib.util
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


def test_every_shown_command_is_there() -> None:
    from atomslim.cli.main import app

    shown = re.findall(r"^    (?:\S+ )*?atomslim (.+)", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert shown
    for line in shown:
        app.parse_args(line, print_error=False, exit_on_error=False)


def test_the_table_of_families_is_that_of_the_package() -> None:
    from atomslim.models.registry import family

    text = README.read_text(encoding="utf-8")
    cells = [row.split("|") for row in text.splitlines() if row.count("|") == 5]
    rows = {one[1].split("]")[0].strip(" ["): one[2:] for one in cells}
    for name in ("jmp", "sevennet", "chgnet", "mace", "orb"):
        one = family(name)
        weights, licences = (re.sub(r"\[[^]]*\]\((.*?)\)", r"\1", cell).strip() for cell in rows[one.title][:2])
        assert (weights, licences) == (one.weights, ", ".join(one.licences)), one.title


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_figure_has_the_numbers_of_the_page() -> None:
    spec = importlib.util.spec_from_file_location("figure", ROOT / "benchmarks/error_against_speed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cuts = module.points(module.PAGE.read_text(encoding="utf-8"))
    assert {name: len(found) for name, found in cuts.items()} == {"SevenNet-0": 3, "CHGNet": 3}
    assert ("blocks 1–2", 5.8, 4.3) in cuts["SevenNet-0"]
    assert module.FIGURE.is_file()
