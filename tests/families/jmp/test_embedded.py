"""The model that comes with the package: what it promises, measured on structures that it was not trained on."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomslim import Calculator, block_relevance, load
from atomslim.data import open_dataset
from atomslim.data.readers import mini
from atomslim.errors import CheckpointError
from atomslim.evaluation.batches import spread_out
from atomslim.evaluation.evaluate import evaluate
from atomslim.families.jmp.embedded import HERE, NAMES, card
from atomslim.models.registry import located
from atomslim.validation.dynamics import stability

TASKS = ("molecules", "reactions", "adsorbates", "oxides")


def test_it_is_a_small_model_of_six_blocks_and_four_tasks() -> None:
    model = load("mini")
    assert model.block_ids == (1, 2, 3, 4, 5, 6)
    assert tuple(model.tasks) == TASKS
    assert 2e6 < sum(weight.numel() for weight in model.parameters()) < 4e6
    assert located("mini")[0].stat().st_size <= 12e6


def test_the_smooth_one_has_four_blocks_and_no_caps() -> None:
    model = load("mini-smooth")
    assert model.block_ids == (1, 2, 3, 4)
    assert tuple(model.tasks) == TASKS
    assert not any(task.direct or task.graph.neighbours for task in model.tasks.values())
    assert located("mini-smooth")[0].stat().st_size <= 6e6


@pytest.mark.filterwarnings("ignore:task oxides keeps the 8 nearest")
@pytest.mark.parametrize("name", ["mini", "mini-smooth"])
@pytest.mark.parametrize("rattle", [0.0, 0.05])
def test_the_numbering_of_atoms_does_not_matter(rattle: float, name: str) -> None:
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    atoms.rattle(rattle, seed=1)
    atoms.calc = Calculator(load(name).double(), task="oxides")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    order = np.random.default_rng(0).permutation(len(atoms))
    other = atoms[order]
    other.calc = atoms.calc
    assert other.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(other.get_forces(), forces[order], atol=1e-9)


def test_its_forces_are_the_slope_of_the_energy() -> None:
    atoms = molecule("CH3CH2OH")
    atoms.calc = Calculator(load("mini-smooth").double(), task="molecules")
    force, energies = atoms.get_forces()[2, 1], []
    for shift in (-1e-4, 2e-4):
        atoms.positions[2, 1] += shift
        energies.append(atoms.get_potential_energy())
    assert (energies[0] - energies[1]) / 2e-4 == pytest.approx(force, abs=1e-5)


def test_two_hydrogen_atoms_of_one_carbon_atom_repel_each_other() -> None:
    atoms, energies = molecule("CH3CH2OH"), []
    carbon, one, other = 0, 6, 7
    across = atoms.get_distance(one, other, vector=True)
    middle, across = atoms.positions[one] + across / 2, across / np.linalg.norm(across)
    for distance in np.arange(1.4, 0.3, -0.1):
        for index, sign in ((one, -1), (other, 1)):
            atoms.positions[index] = middle + sign * distance / 2 * across
            atoms.set_distance(carbon, index, 1.09, fix=0)
        atoms.calc = Calculator(load("mini-smooth").float(), task="molecules")
        energies.append(atoms.get_potential_energy())
    assert (np.diff(energies) > 0.01).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("atoms", "task", "step"),
    [(molecule("CH3CH2OH"), "molecules", 0.5), (bulk("LiF", "rocksalt", a=4.03, cubic=True), "oxides", 1.0)],
    ids=["ethanol", "LiF"],
)
def test_nothing_falls_apart_at_a_thousand_kelvin(atoms: Atoms, task: str, step: float) -> None:
    settings = {"length": 4.0, "starts": 1, "temperature": 1000.0, "picoseconds": 0.5, "time_step": step, "every": 20}
    assert stability(Calculator(load("mini-smooth").float(), task=task), atoms, settings).numbers["broken"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_its_history_names_no_folder_of_who_made_it(name: str) -> None:
    paths = [path for entry in load(name).history for path in entry.get("data", ())]
    assert paths
    assert not any(Path(path).is_absolute() for path in paths)


def test_its_sample_is_small_too() -> None:
    files = [mini.FOLDER / f"{name}.samples" for name in mini.DOMAINS]
    assert 1e6 < sum(file.stat().st_size for file in files) < 2e6


def test_a_file_of_the_same_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mini").mkdir()
    assert located("mini")[0].parent == HERE
    Path("mini").rmdir()
    Path("mini").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="mini: is not a model file"):
        load("mini")


def test_the_card_says_what_it_is_and_is_not() -> None:
    for name in NAMES:
        for words in ("GFN2-xTB", "GFN1-xTB", "not a production potential", "generate", *TASKS):
            assert words in card(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "times"),
    [
        ("mini", "molecules", 9),
        ("mini", "reactions", 5),
        ("mini", "adsorbates", 5),
        ("mini", "oxides", 4),
        ("mini-smooth", "molecules", 9.5),
        ("mini-smooth", "reactions", 5),
        ("mini-smooth", "adsorbates", 4.5),
        ("mini-smooth", "oxides", 3.5),
    ],
)
def test_forces_are_far_better_than_none(name: str, task: str, times: float) -> None:
    chosen = spread_out(open_dataset(f"mini:{task}"), 60)
    nothing = np.abs(np.concatenate([sample.targets["forces"][~sample.fixed] for sample in chosen])).mean()
    assert evaluate(load(name), chosen, task=task).errors["forces"].mae * times < nothing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini", "mini-smooth"])
def test_every_block_earns_its_place(name: str) -> None:
    data = {task: f"mini:{task}" for task in TASKS}
    found = block_relevance(load(name), data, limit=12)
    added = np.mean([task.left_out["forces"] / task.errors["forces"].mae for task in found.tasks.values()], axis=0)
    assert (added[1:] > 0).all()
