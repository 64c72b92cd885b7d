"""Teachers: what they are named by, what they give, and what is wrong with them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from atomslim.errors import AtomslimError, ConfigError
from atomslim.labelling.examine import examine
from atomslim.labelling.teachers import Labels, Source, numbers, teacher_of
from atomslim.labelling.unlabelled import Hung, Unlabelled
from atomslim.models.model_file import save
from odd_calculators import Doubled, Free, Springs
from small_models import CONSERVATIVE, DIRECT, jmp

EMT_NAME = "ase:ase.calculators.emt:EMT"


def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=3)
    atoms.set_tags([0, 1, 1, 2])
    return atoms


def pair(x: float = 0.0) -> Atoms:
    return Atoms("CO", [(x, 0.1, 0.2), (x + 1.1, 0.0, 0.3)])


def answer(source: Source, atoms: Atoms, timeout: float | None = None, **where: object) -> Labels:
    session = teacher_of(source, **where).begin(timeout)  # type: ignore[arg-type]
    try:
        return session.ask(atoms)
    finally:
        session.close()


def test_labels_are_the_same_bits_wherever_the_teacher_lives() -> None:
    found = [
        answer(EMT_NAME, copper(), 1e20, python=sys.executable),
        answer(EMT, copper(), 1e20),
        answer(EMT(), copper()),
    ]
    for labels in found:
        assert {name: value.tobytes() for name, value in labels.items()} == {
            name: value.tobytes() for name, value in found[0].items()
        }
    atoms = copper()
    atoms.calc = EMT()
    assert float(found[0]["energy"]) == atoms.get_potential_energy()
    np.testing.assert_array_equal(found[0]["forces"], atoms.get_forces())
    np.testing.assert_array_equal(found[0]["stress"], atoms.get_stress())


def test_a_model_is_a_teacher_as_a_file_and_as_an_object(tmp_path: Path) -> None:
    model = jmp(CONSERVATIVE)
    save(model, tmp_path / "model.safetensors")
    there = answer(tmp_path / "model.safetensors", pair(), task="conservative")
    np.testing.assert_array_equal(there["forces"], answer(model, pair())["forces"])


def test_the_program_of_a_calculator_needs_ase_and_numpy_only() -> None:
    import ast

    from atomslim.inference import calculator_process

    tree = ast.parse(Path(calculator_process.__file__).read_text(encoding="utf-8"))
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    outside = {name.partition(".")[0] for name in imports} - set(sys.stdlib_module_names)
    assert outside == {"ase", "numpy"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ase:ase.calculators.emt", "give module and class"),
        ("ase:no_such_package:X", "is the package installed here"),
        ("ase:odd_calculators:Springs?fault=nan&colour=red", "does not take these arguments"),
        ("ase:odd_calculators:Springs?fault=[", "is not a number, text or boolean"),
        ("ase:math:gcd", "makes a int"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        _ = teacher_of(name).begin().what
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("python", "said"), [("no-such-python", "can be started"), ("/bin/true", "cannot be made")])
def test_a_python_that_is_none_is_said(python: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _ = teacher_of(EMT_NAME, python=python).begin().what


def test_objects_and_tasks_are_passed_on() -> None:
    with pytest.raises(ConfigError, match="name the teacher"):
        teacher_of(EMT(), python=sys.executable)
    with pytest.raises(ConfigError, match="no tasks"):
        teacher_of(EMT_NAME, task="oxides")
    with pytest.raises(ConfigError, match="int is not a model"):
        teacher_of(4)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="makes a int"):
        teacher_of(lambda: 4).begin()  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "forces is not finite"),
        ("shape", r"forces has the shape \(1, 3\) where \(2, 3\) is expected"),
        ("text", "energy is not an array of numbers"),
        ("none", "energy is not finite|energy is not an array"),
        ("raises", "RuntimeError: SCF did not converge"),
    ],
)
def test_what_is_wrong_with_an_answer_is_one_line(fault: str, said: str) -> None:
    with pytest.raises(Unlabelled, match=said) as reason:
        answer(lambda: Springs(fault), pair(100.0))
    assert "\n" not in str(reason.value)


def test_numbers_of_every_kind_are_taken_and_what_is_none_is_refused() -> None:
    given: dict[str, Any] = {"energy": np.array([4]), "forces": np.ones((2, 3), np.float32)}
    given |= {"stress": np.eye(3, dtype=int), "energies": [[1], [3]]}
    found = numbers(given, 2)
    assert [values.shape for values in found.values()] == [(), (2, 3), (3, 3), (2,)]
    assert {values.dtype.name for values in found.values()} == {"float64"}
    tracked = torch.ones((), requires_grad=True)
    for energy in (1 + 2j, "1.5", None, [1, [2, 3]], object(), tracked, [1.0, 2.0], np.inf):
        with pytest.raises(Unlabelled, match=r"energy (is not an array of numbers|has the shape|is not finite)"):
            numbers({**given, "energy": energy}, 2)


def test_a_process_that_hangs_dies_or_prints_is_survived() -> None:
    session = teacher_of("ase:odd_calculators:Springs?fault=hangs").begin(1.0)
    with pytest.raises(Hung, match="no answer within 1 s"):
        session.ask(pair(100.0))
    np.testing.assert_array_equal(session.ask(pair())["forces"], answer(Springs, pair())["forces"])
    session.close()
    with pytest.raises(Unlabelled, match="its process was killed"):
        answer("ase:odd_calculators:Springs?fault=dies", pair(100.0))


def test_a_function_of_this_process_that_hangs_is_made_anew_and_an_object_is_refused() -> None:
    session = teacher_of(lambda: Springs("hangs")).begin(0.2)
    with pytest.raises(Hung):
        session.ask(pair(100.0))
    assert session.ask(pair())["energy"] > 0
    with pytest.raises(AtomslimError, match="an object cannot be ended"):
        answer(Springs("hangs"), pair(100.0), 0.2)


def test_what_a_teacher_gives_is_found_on_the_first_structure() -> None:
    given = examine(teacher_of(EMT).begin(), copper(), name="EMT")
    assert (given.labels, given.faults) == (("energy", "forces", "stress", "energies"), ())
    assert set(given.measured) == {"forces", "stress"}
    assert max(given.measured.values()) < 2e-3
    assert "forces and stress are derivatives of the energy" in given.sentence("EMT")


def test_the_free_energy_is_the_one_that_forces_are_the_gradient_of() -> None:
    session = teacher_of(lambda: Free("free")).begin()
    given = examine(session, pair(100.0))
    assert given.free
    assert given.measured["forces"] < 1e-6
    found = session.ask(pair(100.0))
    assert float(given.kept(found)["energy"]) == pytest.approx(float(found["energy"]) - 0.3)


def test_forces_that_are_not_the_gradient_are_noticed() -> None:
    given = examine(teacher_of(lambda: Springs("wrong")).begin(), pair(100.0), name="T")
    assert given.faults[0].startswith("T: its forces are not the gradient of its energy (off by ")
    assert 0.1 < given.measured["forces"] < 1.0
    assert examine(teacher_of(jmp(DIRECT)).begin(), pair()).faults  # a head of their own


def test_a_stress_that_is_no_derivative_is_noticed() -> None:
    given = examine(teacher_of(Doubled).begin(), copper())
    assert len(given.faults) == 1
    assert "stress is not the derivative" in given.faults[0]


def test_an_answer_that_changes_between_calls_is_refused() -> None:
    with pytest.raises(AtomslimError, match="for the same structure"):
        examine(teacher_of(lambda: Springs("changes")).begin(), pair(100.0))
    with pytest.raises(AtomslimError, match=r"gave forces that differ by 0\.2 eV/Å for the same structure"):
        examine(teacher_of(lambda: Springs("turns")).begin(), pair(100.0))
    given = examine(teacher_of(lambda: Springs("trembles")).begin(), pair(100.0), name="T")
    assert "T: changes its answer between calls, by 0.002 eV/Å in its forces for the same structure" in given.faults
