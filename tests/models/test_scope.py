"""What a task was not trained on, and what models ignore, is said once or refused."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write

import atomslim
from atomslim.atoms import Sample
from atomslim.atoms.charges import charge_or_spin
from atomslim.cli.main import main
from atomslim.compress.prune import keep_blocks
from atomslim.errors import AtomslimWarning, ConfigError, StructureError
from atomslim.evaluation.compare import compare
from atomslim.evaluation.evaluate import evaluate
from atomslim.models.block_model import BlockModel
from atomslim.models.scope import NOTED, Watch, noted_shares, shares
from samples import DIRECT
from small_models import jmp
from train.water import waters

pytestmark = pytest.mark.filterwarnings("ignore:.*different reference energies")  # no trained model is at hand

WATER = {"H": [0.6667, 0.6667], "O": [0.3333, 0.3333]}
AMMONIA = molecule("NH3")


def model(*, noted: bool = True, blocks: int = 1) -> BlockModel:
    """A model that was trained on water, as its history or its references say."""
    energy = DIRECT.targets[0].model_copy(update={"references": {1: -13.0, 8: -110.0}})
    made = jmp(DIRECT.model_copy(update={"targets": (energy, *DIRECT.targets[1:])}), num_blocks=blocks)
    made.history = [{"operation": "fine-tune", NOTED: {"direct": WATER}}] if noted else []
    return made


def test_shares_are_the_extremes_over_structures() -> None:
    found = shares([np.array([8, 1, 1]), np.array([1, 1]), np.array([6, 1, 1, 1])])
    assert found == {"H": [0.6667, 1.0], "C": [0.0, 0.25], "O": [0.0, 0.3333]}


def test_several_trainings_of_a_task_count_together() -> None:
    history: list[dict[str, Any]] = [
        {NOTED: {"a": {"H": [0.5, 0.6]}}},
        {"operation": "keep blocks"},
        {NOTED: {"a": WATER, "b": {}}},
    ]
    assert noted_shares(history, "a") == {"H": [0.5, 0.6667], "O": [0.0, 0.3333]}
    assert noted_shares(history, "c") == {}


@pytest.mark.parametrize("noted", [True, False])
def test_an_element_of_neither_training_nor_references_is_said_once(noted: bool) -> None:
    watch = Watch.over(model(noted=noted), None, strict=False)
    with pytest.warns(AtomslimWarning, match=r"^a: task direct was not trained on C, Fr: "):
        watch.look("a", np.array([87, 1, 6, 6]))
    watch.look("b", np.array([87, 1]))  # warnings are errors here
    with pytest.raises(StructureError, match=r"^a: .* not trained on N: .* leave strict out"):
        Watch.over(model(noted=noted), None, strict=True).look("a", np.array([7, 1, 1, 1]))


def test_a_composition_far_outside_is_said_and_a_near_one_is_not() -> None:
    watch = Watch.over(model(), None, strict=False)
    watch.look("peroxide", np.array([8, 8, 1, 1]))
    with pytest.warns(AtomslimWarning, match=r"^hydrogen: 100% of the atoms are H, and 67% to 67% in what task direct"):
        watch.look("hydrogen", np.array([1, 1]))
    Watch.over(model(noted=False), None, strict=True).look("hydrogen", np.array([1, 1]))


def test_a_model_of_which_nothing_is_known_says_nothing() -> None:
    Watch.over(jmp(DIRECT, num_blocks=0), None, strict=True).look("a", np.array([87, 118]))


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, ""),
        ({"charge": 0, "spin": 1, "multiplicity": 1}, ""),
        ({"charge": -1}, "charge -1"),
        ({"Total_Charge": "2"}, "Total_Charge 2"),
        ({"spin": 3, "charge": 1.0}, "spin 3, charge 1"),
        ({"spin_multiplicity": np.array([2])}, "spin_multiplicity 2"),
        ({"charge": "unknown", 3: 4}, ""),
    ],
)
def test_charges_and_spins_are_found_in_info(info: dict[object, object], expected: str) -> None:
    atoms = molecule("H2O")
    atoms.info.update(info)
    assert charge_or_spin(atoms) == expected


def test_charges_and_moments_of_atoms_are_found() -> None:
    atoms = molecule("O2")
    assert charge_or_spin(atoms) == "initial magnetic moments"  # a triplet, as ASE has it
    atoms.set_initial_magnetic_moments([0.0, 0.0])
    atoms.set_initial_charges([-1.0, 0.0])
    assert charge_or_spin(atoms) == "initial charges"


def charged() -> Atoms:
    atoms = molecule("H2O")
    atoms.info["charge"] = -1
    return atoms


def _calculator(atoms: Atoms, strict: bool, folder: Path) -> None:
    del folder
    atoms.calc = atomslim.Calculator(model(), strict=strict)
    for _ in range(3):
        atoms.rattle(0.01)
        atoms.get_potential_energy()


def _predict(atoms: Atoms, strict: bool, folder: Path) -> None:
    from atomslim.inference.predict import predict_file

    write(folder / "in.xyz", [atoms, atoms])
    atomslim.save(model(), folder / "m.safetensors")
    predict_file(folder / "m.safetensors", folder / "in.xyz", folder / "out.extxyz", strict=strict, progress=False)


def labelled(atoms: Atoms) -> list[Sample]:
    sample = Sample.from_ase(atoms, {"energy": np.array(0.0), "forces": np.ones((len(atoms), 3))})
    return [replace(sample, ignored=charge_or_spin(atoms))] * 2


def _evaluate(atoms: Atoms, strict: bool, folder: Path) -> None:
    del folder
    evaluate(model(), labelled(atoms), strict=strict)


def _compare(atoms: Atoms, strict: bool, folder: Path) -> None:
    del folder
    compare([model()], labelled(atoms), speed=False, strict=strict)


def _relevance(atoms: Atoms, strict: bool, folder: Path) -> None:
    del folder
    atomslim.block_relevance(model(), labelled(atoms), strict=strict)


@pytest.mark.parametrize("use", [_calculator, _predict, _evaluate, _compare, _relevance])
@pytest.mark.parametrize(
    ("atoms", "message"), [(AMMONIA, "not trained on N"), (charged(), "charge -1: the model ignores charges")]
)
def test_every_use_of_a_model_says_it_once_and_refuses_if_strict(
    use: Callable[[Atoms, bool, Path], None], atoms: Atoms, message: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        use(atoms.copy(), False, tmp_path)
    ours = [str(one.message) for one in said if issubclass(one.category, AtomslimWarning)]
    ours = [text for text in ours if "reference energies" not in text]  # the model is not a trained one
    assert [message in text for text in ours] == [True]
    with pytest.raises(StructureError, match=message):
        use(atoms.copy(), True, tmp_path)


def test_charges_of_labelled_files_are_said(tmp_path: Path) -> None:
    atoms = charged()
    atoms.info["REF_energy"] = -1.0
    write(tmp_path / "x.xyz", atoms)
    with pytest.warns(AtomslimWarning, match="charge -1: the model ignores charges"):
        evaluate(model(), str(tmp_path / "x.xyz"))


def test_swapped_student_and_teacher_are_said_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, small = model(blocks=2), keep_blocks(model(blocks=2), 1)
    given: dict[str, Any] = {"steps": 1, "batch_size": 2, "progress": False}
    data = {"data": "", "name": "direct", "split": {"train": 3, "validation": 2}}
    with pytest.warns(AtomslimWarning, match=r"the student has 2 blocks and .* its teacher 1 and .* they are swapped"):
        atomslim.distill(full, small, {"direct": waters(6)}, output=tmp_path / "a", tasks=[data], **given)
    with pytest.raises(ConfigError, match="if they are swapped"):
        atomslim.distill(full, small, waters(6), output=tmp_path / "b", strict=True, **given)
    assert not (tmp_path / "b").exists()
    atomslim.save(small, tmp_path / "small.safetensors")
    atomslim.save(model(blocks=2), tmp_path / "full.safetensors")
    files = [str(tmp_path / name) for name in ("full.safetensors", "small.safetensors")]
    assert main(["distill", *files, "x.xyz", "-o", str(tmp_path / "c"), "--steps", "1", "--strict"]) == 1
    assert "if they are swapped" in capsys.readouterr().err


def test_training_notes_elements_and_shares_with_the_model(tmp_path: Path) -> None:
    tuned = atomslim.finetune(
        jmp(DIRECT, num_blocks=1), waters(8), output=tmp_path / "run", progress=False, steps=3, batch_size=2,
        split={"train": 5, "validation": 2}, name="water", optimiser={"learning_rate": 1e-3},
    )  # fmt: skip
    last = atomslim.load(tmp_path / "run" / "last.safetensors")
    assert last.history[-1][NOTED] == {"water": WATER}
    with pytest.warns(AtomslimWarning, match="task water was not trained on N"):
        Watch.over(last, "water", strict=False).look("ammonia", AMMONIA.numbers)
    assert tuned.task("water").name == "water"
