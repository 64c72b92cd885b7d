"""Compiling beside a run: started after some steps, taken up without a jump, and never the end of a run."""

import copy
import signal
import stat
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor
from torch._inductor.exc import CppCompileError, InductorError

from atomslim.errors import StructureError
from atomslim.inference import compile_job, compiled, compiler
from atomslim.inference.calculator import Calculator
from atomslim.inference.compiled import Job, cache_folder, key
from atomslim.inference.compiler import compiler_failure
from atomslim.inference.program import Program
from atomslim.models import Task
from atomslim.models.model_file import encoded
from samples import CAPPED, CONSERVATIVE, DIRECT, sheared_crystal, small_model

pytestmark = pytest.mark.filterwarnings("ignore:.*(was not trained on|ignores charges|leaves out)")


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
        monkeypatch.setattr(Job, "_compile", lambda _, arguments: archive(Path(arguments[1])))
        monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda _: lambda *inputs: fault([*program(*inputs)]))

    return make


def archive(path: Path) -> None:
    """Write what looks like a package from outside."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("package", "of machine code" * 100)


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


def strained_otherwise(outputs: list[Tensor]) -> list[Tensor]:
    return [*outputs[:2], 1.01 * outputs[2]]


def broken(_: list[Tensor]) -> list[Tensor]:
    raise RuntimeError("Expected u0 <= 216")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (jump, "a different energy"),
        (turned, "different forces"),
        (strained_otherwise, "a different stress"),
        (broken, "Expected u0 <= 216"),
    ],
)
def test_a_package_that_differs_is_left(
    fault: Any, words: str, pretended: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_model(CONSERVATIVE)
    pretended(model, CONSERVATIVE, fault)
    calculator = Calculator(model, compiled="auto")
    found, expected = moved(calculator, sheared_crystal(), 6), moved(Calculator(model), sheared_crystal(), 6)
    assert [one["energy"] for one in found] == [one["energy"] for one in expected]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "not compiled, the model continues: " in said[1]
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


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("", "no C++ compiler"),
        ("#!/bin/sh\nexit 1\n", "does not work (CalledProcessError: Command"),
        ("#!/bin/sh\nkill -9 $$\n", "died with <Signals.SIGKILL: 9>"),
        ("#!/bin/sh\nsleep 5\n", "timed out after 0.1 seconds"),
        ("#!/no/such/interpreter\n", "does not work (FileNotFoundError"),
    ],
    ids=["missing", "fails", "killed", "hangs", "no program"],
)
def test_a_compiler_that_does_not_work_costs_one_line(
    script: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    named = tmp_path / "some-compiler"
    if script:
        named.write_text(script)
        named.chmod(0o755)
    monkeypatch.setenv("CXX", str(named))
    monkeypatch.setattr(compiler, "ANSWERS_WITHIN", 0.1)
    moved(Calculator(small_model(CONSERVATIVE), compiled="auto"), molecule("H2O"), 5)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("atomslim: not compiled, the model continues: ")
    assert words in line
    assert str(named) in line
    assert not cache_folder().exists()


def test_the_compiler_s_own_error_is_said() -> None:
    output = "In file included from a.cpp:3:\na.cpp:1:2: error: it broke\ncompilation terminated.\n"
    inner = CppCompileError(["g++", *["-Wall"] * 100], output)
    assert compiler_failure(InductorError(inner, None)) == "the C++ compiler fails: a.cpp:1:2: error: it broke"
    killed = InductorError(CppCompileError(["g++"], ""), None)
    assert compiler_failure(killed) == "the C++ compiler fails: it ended silently"
    assert compiler_failure(RuntimeError("no space left")) == "RuntimeError: no space left"


def test_a_compiler_that_hangs_is_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 1000\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hanging))
    monkeypatch.setattr(compiled, "LONGEST", 0.1)
    calculator = Calculator(small_model(CONSERVATIVE), compiled="auto")
    moved(calculator, molecule("H2O"), 5)
    assert "the compiler took more than" in capsys.readouterr().err.splitlines()[1]
    job = job_of(calculator)
    assert job is not None
    assert job._process is not None
    assert job._process.wait(10) == -signal.SIGTERM


def test_a_folder_that_is_none_costs_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    cache_folder().parent.write_text("a file")
    moved(Calculator(small_model(CONSERVATIVE), compiled="auto"), molecule("H2O"), 5)
    (line,) = capsys.readouterr().err.splitlines()
    assert "not compiled, the model continues: " in line
    assert str(cache_folder()) in line


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"No such file or directory: .*\.lock"):
        compile_job.compile_once("model.safetensors", str(tmp_path / "gone" / "model.pt2"), "task", "cpu")


@pytest.mark.parametrize("left", [0, 200])
def test_a_damaged_package_is_made_anew(
    left: int, pretended: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_model(CONSERVATIVE)
    pretended(model, CONSERVATIVE)
    moved(Calculator(model, compiled="auto"), molecule("H2O"), 4)
    (package,) = cache_folder().iterdir()
    whole = package.read_bytes()
    package.write_bytes(whole[:left] if left < 200 else whole[:60] + b"x" + whole[61:])
    capsys.readouterr()
    again = Calculator(model, compiled="auto")
    moved(again, molecule("H2O"), 4)
    assert again._compiled is not None
    assert again._compiled.run is not None
    assert package.read_bytes()[60:61] == whole[60:61]
    assert "in the background: minutes" in capsys.readouterr().err


def test_weights_that_change_in_the_run_leave_the_package(
    pretended: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_model(CONSERVATIVE)
    pretended(copy.deepcopy(model), CONSERVATIVE)
    calculator = Calculator(model, compiled="auto")
    moved(calculator, molecule("H2O"), 5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)
    found, expected = moved(calculator, molecule("H2O"), 2), moved(Calculator(model), molecule("H2O"), 2)
    assert [one["energy"] for one in found] == [one["energy"] for one in expected]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "its weights were changed" in said[2]


def test_a_compiler_that_crashes_costs_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\necho something >&2\necho out of memory >&2\nkill -9 $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    moved(Calculator(small_model(CONSERVATIVE), compiled="auto"), molecule("H2O"), 5)
    assert "not compiled, the model continues: out of memory" in capsys.readouterr().err


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
    model = small_model(CAPPED)
    pretended(model, CAPPED)
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
