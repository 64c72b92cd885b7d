import numpy as np
import pytest
import torch

from atomslim.atoms import Sample, from_ase
from atomslim.data.splits import Split
from atomslim.errors import ConfigError, DataError
from atomslim.evaluation.accuracy import Accuracy
from atomslim.evaluation.errors import Errors, own_unit
from atomslim.evaluation.evaluate import evaluate
from samples import CONSERVATIVE, ethanol, small_model


def labelled(count: int) -> list[Sample]:
    made = []
    for number in range(count):
        atoms = ethanol()
        atoms.rattle(0.01, seed=number)
        made.append(Sample.from_ase(atoms, {"energy": 1.0 * number, "forces": np.zeros((9, 3))}, name=f"{number}"))
    return made


def test_errors_are_gathered_over_batches_without_missing_labels() -> None:
    batch = from_ase([ethanol(), ethanol()])
    accuracy = Accuracy()
    accuracy.add({"energy": torch.tensor([1.0, 3.0])}, {"energy": torch.tensor([0.0, 1.0])}, batch)
    accuracy.add({"energy": torch.tensor([1.0, 3.0])}, {"energy": torch.tensor([torch.nan, 0.0])}, batch)
    result = accuracy.result()
    assert result["energy"].count == 3
    assert result["energy"].mae == pytest.approx((1 + 2 + 3) / 3)
    assert result["energy"].rmse == pytest.approx(((1 + 4 + 9) / 3) ** 0.5)
    assert result["energy per atom"].mae == pytest.approx((1 + 2 + 3) / 27)


def test_a_prediction_that_is_no_number_is_not_taken_for_a_missing_label() -> None:
    accuracy = Accuracy()
    predicted = {"energy": torch.tensor([torch.nan, 3.0]), "forces": torch.zeros(18, 3)}
    labels = {"energy": torch.tensor([0.0, 1.0]), "forces": torch.ones(18, 3)}
    accuracy.add(predicted, labels, from_ase([ethanol(), ethanol()]))
    result = accuracy.result()
    assert np.isnan(result["energy"].mae)
    assert result["forces"].mae == 1.0


def test_fixed_atoms_do_not_count() -> None:
    sample = Sample.create([1, 1], [[0, 0, 0], [0, 0, 1]], {}, fixed=[True, False])
    predicted, labels = torch.tensor([[9.0, 9, 9], [1, 2, 3]]), torch.zeros(2, 3)
    for free_only, mae in ((True, 2.0), (False, 5.5)):
        accuracy = Accuracy(free_atoms_only=free_only)
        accuracy.add({"forces": predicted}, {"forces": labels}, from_ase(sample.to_ase()))
        assert accuracy.result()["forces"].mae == mae


def test_nothing_to_compare_is_an_error() -> None:
    accuracy = Accuracy()
    accuracy.add({"energy": torch.ones(1)}, {"energy": torch.tensor([torch.nan])}, from_ase(ethanol()))
    with pytest.raises(DataError, match="no prediction has a label"):
        accuracy.result()


@pytest.mark.parametrize(
    ("units", "unit", "mae"),
    [
        ("kcal/mol, Å", "kcal/mol/Å", 23.0605),
        ("Ha, bohr", "Ha/Å", 0.0367493),
        ("eV, Å", "eV/Å", 1.0),
        ("unknown", "eV/Å", 1.0),
    ],
)
def test_errors_are_given_in_the_datasets_unit(units: str, unit: str, mae: float) -> None:
    errors = own_unit(Errors(1.0, 1.0, 1, "eV/Å"), units)
    assert errors.unit == unit
    assert errors.mae == pytest.approx(mae, rel=1e-4)


def test_milli_is_for_energies() -> None:
    milli = Errors(0.5, 1.0, 1, "eV").milli
    assert milli is not None
    assert (milli.mae, milli.unit) == (500.0, "meV")
    assert Errors(0.5, 1.0, 1, "Debye").milli is None


def test_evaluate_is_what_predict_gives() -> None:
    model = small_model(CONSERVATIVE)
    samples = labelled(5)
    found = evaluate(model, samples, batch_size=2)
    energies = [float(model.predict(from_ase(sample.to_ase()))["energy"]) for sample in samples]
    expected = np.abs(np.array(energies) - np.arange(5)).mean()
    assert found.structures == 5
    assert found.errors["energy"].mae == pytest.approx(expected)
    assert found.errors["forces"].count == 5 * 27
    with pytest.raises(ConfigError, match="of which split"):
        evaluate(model, samples, part="test")
    split = Split(recipe="by hand", count=5, train=(0, 2), test=(1, 3, 4))
    assert evaluate(model, samples, split=split).structures == 3  # the test set, and not what was learned from
    with pytest.raises(ConfigError, match="part all: a split has no use"):
        evaluate(model, samples, part="all", split=split)
