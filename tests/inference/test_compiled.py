"""Compiling beside a run: started after some steps, taken up without a jump, and never the end of a run."""

import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

from atomslim.errors import ConfigError, StructureError
from atomslim.inference import compile_job, compiled
from atomslim.inference.calculator import Calculator
from atomslim.inference.compiled import Job, cache_folder, key
from atomslim.inference.program import Program
from atomslim.models import Task
from atomslim.models.model_file import encoded
from samples import CONSERVATIVE, DIRECT, TRIMMED, sheared_crystal, small_model

pytestmark = pytest.mark.filterwarnings("ignore:.*(was not trained on|takes no charges|leaves out)")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMSLIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiled, "AFTER", 3)
    monkeypatch.setattr(compiled, "FASTER", 0.0)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes programs stand for packages, changed as a fault would."""

    def make(model: Any, task: Task, fault: Callable[[list[Tensor]], Any] = lambda outputs: outputs) -> None:
        program = Program(model, task)
        monkeypatch.setattr(Job, "_compile", lambda _, arguments: Path(arguments[1]).write_text("a package"))
        monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _: lambda *inputs: fault([*program(*inputs)]))

    return make


def job_of(calculator: Calculator) -> Job | None:
    return None if calculator._compiled is None else calculator._compiled._job


def moved(calculator: Calculator, atoms: Atoms, steps: int) -> list[dict[str, Any]]:
    """Return the results of some steps, each after what runs in the background is done."""
    found, atoms = [], atoms.copy()
    atoms.calc = calculator
    for step in range(steps):
        atoms.rattle(0.01, seed=step)
        atoms.get_forces()
        found.append(calculator.results)
        while step == 2 and (job := job_of(calculator)) is not None and job.outcome is None:
            time.sleep(0.01)
    return found


@pytest.mark.parametrize("task", [CONSERVATIVE, DIRECT], ids=lambda task: task.name)
def test_takes_over_without_a_jump(
    task: Task, pretended: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_model(task)
    pretended(model, task)
    calculator = Calculator(model, compiled="auto")
    for one, other in zip(
        moved(calculator, sheared_crystal(), 6), moved(Calculator(model), sheared_crystal(), 6), strict=True
    ):
        assert one.keys() == other.keys()
        for name, value in other.items():
            np.testing.assert_allclose(one[name], value, rtol=1e-9, atol=1e-11)
    assert calculator._compiled is not None
    assert calculator._compiled.run is not None
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0] == "atomslim: compiling for the steps to come, in the background: minutes"
    assert "compiled from here on" in said[1]


def test_the_next_run_takes_it_from_the_cache(
    pretended: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_model(CONSERVATIVE)
    pretended(model, CONSERVATIVE)
    moved(Calculator(model, compiled="auto"), molecule("H2O"), 4)
    (package,) = cache_folder().iterdir()
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
    monkeypatch.setattr(Job, "_compile", pytest.fail)
    capsys.readouterr()
    again = Calculator(model, compiled="auto")
    moved(again, molecule("H2O"), 4)
    assert again._compiled is not None
    assert again._compiled.run is not None
    (line,) = capsys.readouterr().err.splitlines()
    assert "compiled from here on" in line
    assert [package] == list(cache_folder().iterdir())


def jump(outputs: list[Tensor]) -> list[Tensor]:
    return [outputs[0] + 0.01, *outputs[1:]]


def turned(outputs: list[Tensor]) -> list[Tensor]:
    return [outputs[0], -outputs[1], *outputs[2:]]


def broken(_: list[Tensor]) -> list[Tensor]:
    raise RuntimeError("Expected u0 <= 216")


@pytest.mark.parametrize(
    ("fault", "words"), [(jump, "another energy"), (turned, "other forces"), (broken, "Expected u0 <= 216")]
)
def test_a_package_that_differs_is_left(
    fault: Any, words: str, pretended: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_model(CONSERVATIVE)
    pretended(model, CONSERVATIVE, fault)
    calculator = Calculator(model, compiled="auto")
    found, expected = moved(calculator, molecule("H2O"), 6), moved(Calculator(model), molecule("H2O"), 6)
    assert [one["energy"] for one in found] == [one["energy"] for one in expected]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "not compiled, the model itself goes on: " in said[1]
    assert words in said[1]


def test_a_package_that_is_slower_is_left(
    pretended: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled, "FASTER", 1e9)
    model = small_model(CONSERVATIVE)
    pretended(model, CONSERVATIVE)
    calculator = Calculator(model, compiled="auto")
    moved(calculator, molecule("H2O"), 5)
    assert calculator._compiled is not None
    assert calculator._compiled.run is None
    assert "× as fast for this structure" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_no_compiler_costs_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(Job, "_compile", in_this_process)
    moved(Calculator(small_model(CONSERVATIVE), compiled="auto"), molecule("H2O"), 6)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "the model itself goes on: no C++ compiler no-such-compiler: install g++" in said[1]
    assert not list(cache_folder().glob("*.pt2"))


def in_this_process(_: Job, arguments: list[str]) -> None:
    """Compile as the other process would."""
    try:
        compile_job.compile_once(*arguments)
    except SystemExit as end:
        raise ConfigError(str(end.code)) from end


def test_a_compiler_that_crashes_costs_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\necho something >&2\necho out of memory >&2\nkill -9 $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    moved(Calculator(small_model(CONSERVATIVE), compiled="auto"), molecule("H2O"), 5)
    assert "not compiled, the model itself goes on: out of memory" in capsys.readouterr().err


def test_structures_without_a_pair_are_the_models(pretended: Callable[..., None]) -> None:
    model = small_model(CONSERVATIVE)
    pretended(model, CONSERVATIVE)
    calculator = Calculator(model, compiled="auto")
    moved(calculator, molecule("H2O"), 5)
    alone = Atoms("H")
    alone.calc = calculator
    other = Atoms("H")
    other.calc = Calculator(model)
    assert alone.get_potential_energy() == other.get_potential_energy()


@pytest.mark.parametrize("strict", [False, True])
def test_caps_are_said_of_packages_too(strict: bool, pretended: Callable[..., None]) -> None:
    model = small_model(TRIMMED)
    pretended(model, TRIMMED)
    calculator = Calculator(model, compiled="auto", strict=strict)
    moved(calculator, molecule("H2"), 5)
    crystal = sheared_crystal()
    crystal.calc = calculator
    if not strict:
        crystal.get_forces()
        return
    with pytest.raises(StructureError):
        crystal.get_forces()


def test_names_of_packages() -> None:
    one, other = small_model(CONSERVATIVE), small_model(CONSERVATIVE)
    assert name(one) == name(other)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    assert name(one) != name(other)
    assert name(one) != name(one, threads=2)
    assert name(one) != name(small_model(CONSERVATIVE).float())


def name(model: Any, threads: int = 1) -> str:
    return key(encoded(model), model, CONSERVATIVE, threads)


def test_what_packages_do_not_give_is_not_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    calculator = Calculator(small_model(CONSERVATIVE).float(), precision="fast", compiled="auto")
    assert calculator._compiled is None
    assert "packages give energies, forces and stress in full precision only" in capsys.readouterr().err
