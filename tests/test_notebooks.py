"""The notebooks run, cell after cell, and are those of their scripts."""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ase.calculators.emt import EMT
from ase.io import write
from matplotlib.figure import Figure

import atomslim
from atomslim.models import energy_and_forces
from atomslim.slimming import preparing
from pages import ROOT, without_drawing
from small_models import all_neighbours, jmp
from train.water import waters

NOTEBOOKS = ROOT / "docs/notebooks"
CONVERT = runpy.run_path(str(NOTEBOOKS / "convert.py"))
SCRIPTS: list[Path] = CONVERT["scripts"]()

QUICK = {"budget": "1h", "steps": 1, "temperatures": (300.0,), "size": 10, "rounds": 0, "runs": 1, "picoseconds": 0.01}

TINY: dict[str, dict[str, Any]] = {
    "cut_jmp": {"MODEL": "tiny.safetensors", "DATA": "few.xyz", "LIMIT": 4, "STEPS": 1},
    "slim_a_teacher": {
        "TEACHER": EMT,
        "TASK": None,
        "OPTIONS": QUICK | {"student": "small.safetensors", "features": "distances", "checks": ("symmetry",)},
    },
    "validate": {"MODEL": "tiny.safetensors", "DATA": "few.xyz", "LIMIT": 2, "ALONE": "symmetry", "CHECKS": "symmetry"},
}
"""Settings with which a notebook takes a second."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model of molecules and its cut, and nothing that draws or takes long."""
    task = energy_and_forces("molecules", forces="conservative", graph=all_neighbours(4.0))
    model = jmp(task, num_blocks=4).float()
    atomslim.save(model, tmp_path / "tiny.safetensors")
    atomslim.save(atomslim.keep_blocks(model, 1), tmp_path / "small.safetensors")
    write(tmp_path / "few.xyz", [sample.to_ase() for sample in waters(20)])
    monkeypatch.chdir(tmp_path)
    for name, value in {"FRAMES": 4, "SOME": 3, "EVERY": 2, "SELDOM": 2}.items():
        monkeypatch.setattr(preparing, name, value)
    monkeypatch.setattr("atomslim.labelling.pool.figure", lambda *_: Figure(figsize=(1, 1)))
    monkeypatch.setattr("atomslim.benchmarking.turns.FILL_SECONDS", 0.01)
    without_drawing(monkeypatch)
    return tmp_path


def test_each_script_is_a_notebook_and_has_its_settings() -> None:
    assert {script.stem for script in SCRIPTS} == TINY.keys()
    for script in SCRIPTS:
        text = script.with_suffix(".ipynb").read_text(encoding="utf-8")
        assert text == CONVERT["notebook"](script.read_text(encoding="utf-8")), "run docs/notebooks/convert.py"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:.*different reference energies")  # the models here are not trained
@pytest.mark.filterwarnings("ignore:.*not trained on")
def test_a_notebook_runs(script: Path, here: Path) -> None:
    settings = TINY[script.stem]
    namespace: dict[str, Any] = {"__name__": "__notebook__", "settings": settings}
    for cell in json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = replaced("".join(cell["source"]), settings)
            exec(compile(source, script.name, "exec"), namespace)  # noqa: S102 - our own page
    assert all(namespace[name] == value for name, value in settings.items())
    MADE[script.stem](here, namespace)


def replaced(source: str, settings: dict[str, Any]) -> str:
    """Return a cell with other settings."""
    for name in settings:
        source = re.sub(rf"^{name} = .*", f"{name} = settings['{name}']", source, flags=re.MULTILINE)
    return source


def _cut(folder: Path, names: dict[str, Any]) -> None:
    assert len(names["kept"]) == 2
    assert (folder / "compare/compare.html").is_file()
    assert atomslim.load(folder / "small.safetensors").num_blocks == 2


def _slimmed(folder: Path, names: dict[str, Any]) -> None:
    assert names["done"].model == Path("student/model.safetensors")
    assert (folder / "student/report.html").is_file()


def _validated(folder: Path, names: dict[str, Any]) -> None:
    del folder
    assert {verdict.check for verdict in names["found"].verdicts} == {"symmetry"}
    assert names["found"].against is not None


MADE: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "cut_jmp": _cut,
    "slim_a_teacher": _slimmed,
    "validate": _validated,
}
"""What a notebook leaves behind."""
