import numpy as np
import pytest
import torch
from ase.build import molecule

from atomslim.atoms import Sample, from_ase
from atomslim.evaluation.baseline import Baseline
from atomslim.evaluation.compare import compare
from atomslim.evaluation.comparison import MEAN
from atomslim.evaluation.errors import PER_ATOM
from atomslim.evaluation.evaluate import evaluate
from atomslim.report.page import number
from samples import DIRECT
from small_models import jmp
from train.water import waters


def test_one_composition_has_the_spread_about_its_mean() -> None:
    baseline = Baseline()
    for energy in (1.0, 2.0, 6.0):
        baseline.add({"energy": torch.tensor([energy])}, from_ase(molecule("H2O")))
    found = baseline.result()
    assert found["energy"].mae == pytest.approx(2.0)
    assert found["energy"].rmse == pytest.approx((14 / 3) ** 0.5)
    assert found[PER_ATOM].mae == pytest.approx(2.0 / 3)
    assert (found["energy"].count, found["energy"].unit) == (3, "eV")


def test_energies_that_add_up_by_element_leave_nothing() -> None:
    values = {"H": -13.0, "C": -50.0, "O": -110.0}
    baseline = Baseline()
    for name in ("H2O", "CH4", "CO2", "CO", "C2H6", "H2", "CH3OH"):
        atoms = molecule(name)
        energy = sum(values[symbol] for symbol in atoms.get_chemical_symbols())
        baseline.add({"energy": torch.tensor([energy], dtype=torch.float64)}, from_ase(atoms))
    assert baseline.result()["energy"].mae == pytest.approx(0.0, abs=1e-9)


def test_too_few_structures_have_a_mean_per_atom() -> None:
    baseline = Baseline()
    for name, energy in (("H2O", -30.0), ("CH4", -50.0)):
        baseline.add({"energy": torch.tensor([energy])}, from_ase(molecule(name)))
    assert baseline.result()["energy"].mae == pytest.approx(0.0, abs=1e-9)
    baseline.add({"energy": torch.tensor([-20.0])}, from_ase(molecule("CO")))
    share = (30 * 3 + 50 * 5 + 20 * 2) / (3**2 + 5**2 + 2**2)
    rests = [abs(30 - 3 * share), abs(50 - 5 * share), abs(20 - 2 * share)]
    assert baseline.result()["energy"].mae == pytest.approx(sum(rests) / 3)


def test_forces_and_stress_are_none_other_numbers_the_mean_and_missing_labels_left_out() -> None:
    baseline = Baseline({"gap": "eV"})
    labels = {
        "forces": torch.tensor([[1.0, -1.0, 0.0], [2.0, 0.0, -2.0], [torch.nan] * 3]),
        "gap": torch.tensor([4.0]),
        "energy": torch.tensor([torch.nan]),
    }
    baseline.add(labels, from_ase(molecule("H2O")))
    baseline.add({"gap": torch.tensor([6.0])}, from_ase(molecule("CO")))
    found = baseline.result()
    assert set(found) == {"forces", "gap"}
    assert found["forces"].mae == pytest.approx(1.0)
    assert found["gap"].mae == pytest.approx(1.0)
    assert baseline.by_element() == {"H": pytest.approx(4 / 3), "O": pytest.approx(2 / 3)}


def test_evaluation_and_comparison_show_it_beside_the_models() -> None:
    model, samples = jmp(DIRECT, num_blocks=1), waters(5)
    forces = np.mean([np.abs(sample.targets["forces"]).mean() for sample in samples])
    energies = np.array([float(sample.targets["energy"]) for sample in samples])
    alone = evaluate(model, samples)
    assert alone.mean["forces"].mae == pytest.approx(forces)
    assert alone.mean["energy"].mae == pytest.approx(np.abs(energies - energies.mean()).mean())
    assert alone.as_dict()["mean"]["forces"]["mae"] == alone.mean["forces"].mae
    found = compare([model], samples, speed=False)
    for name, errors_of in alone.mean.items():
        assert found.mean["direct"][name].mae == pytest.approx(errors_of.mae, rel=1e-9)
    errors, elements = found.tables()[0], found.tables()[-1]
    assert errors.rows[-1][0] == elements.columns[-1] == MEAN
    assert errors.rows[-1][-1] == f"{number(1e3 * forces, 4)} meV/Å"


def test_a_model_is_no_better_for_what_the_labels_lack() -> None:
    """A sample without labels of forces has a baseline of energies alone."""
    sample = Sample.from_ase(molecule("H2O"), {"energy": 1.0})
    assert set(evaluate(jmp(DIRECT, num_blocks=0), [sample]).mean) == {"energy", PER_ATOM}
