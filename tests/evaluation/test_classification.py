from collections.abc import Iterator

import numpy as np
import pytest
import torch

from atomslim.atoms import AtomsBatch, to_batch
from atomslim.errors import DataError
from atomslim.evaluation.accuracy import Accuracy
from atomslim.evaluation.baseline import Baseline
from atomslim.evaluation.classification import (
    BASE_RATE,
    MEAN_OF_LABELS,
    ClassErrors,
    average_precision,
    class_table,
    log_loss,
    parsed,
    require_labels,
    roc_auc,
)
from atomslim.evaluation.errors import Errors
from train.water import waters

PROBABILITIES = np.array([0.9, 0.8, 0.8, 0.3, 0.1])
LABELS = np.array([1.0, 0.0, 1.0, 1.0, 0.0])


def test_metrics_by_hand() -> None:
    """Of 6 pairs, 4 are in order and one is a tie: 0.8 against 0.8."""
    found = ClassErrors.of(PROBABILITIES, LABELS)
    assert found.roc_auc == pytest.approx((4 + 0.5) / 6)
    assert found.average_precision == pytest.approx((1 * 1 + 2 / 3 * 1 + 3 / 4 * 1) / 3)
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.2, 0.8, 0.3, 0.9]).mean())
    assert found.mae == pytest.approx(np.mean([0.1, 0.8, 0.2, 0.7, 0.1]))
    assert (found.positives, found.count, found.unit) == (3, 5, "probability")
    assert found.error == pytest.approx(0.25)
    assert found.measure == "1 − ROC-AUC"
    assert str(found) == "ROC-AUC 0.750"


def test_metrics_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    for _ in range(20):
        p, y = random.random(40).round(1), (random.random(40) < 0.3).astype(float)
        y[:2] = 0, 1
        assert roc_auc(p, y) == pytest.approx(metrics.roc_auc_score(y, p), abs=1e-12)
        assert average_precision(p, y) == pytest.approx(metrics.average_precision_score(y, p), abs=1e-12)
        inner = np.clip(p, 0.01, 0.99)
        assert log_loss(inner, y) == pytest.approx(metrics.log_loss(y, inner), abs=1e-12)
        balanced = ClassErrors.of(p, y).balanced_accuracy
        assert balanced == pytest.approx(metrics.balanced_accuracy_score(y, p >= 0.5), abs=1e-12)


@pytest.mark.parametrize("side", [0.0, 1.0])
def test_one_class_has_no_roc_auc_and_says_so(side: float) -> None:
    found = ClassErrors.of([0.2, 0.6], [side, side])
    assert found.roc_auc is None
    assert found.balanced_accuracy is None
    assert (found.average_precision is None) == (side == 0.0)
    assert "no ROC-AUC: one class only" in str(found)
    assert (found.error, found.measure) == (found.log_loss, "log loss")
    table = class_table({"the model": {"toxic": found}})
    assert table is not None
    assert f"ROC-AUC is not defined: all 2 labels are {'yes' if side else 'no'}" in table.note
    assert "not defined" in table.rows[0]


def test_a_probability_that_is_no_number_shows() -> None:
    found = ClassErrors.of([np.nan, 0.5, 0.2], [1.0, 0.0, 1.0])
    assert found.roc_auc is not None
    assert all(np.isnan(value) for value in found.metrics.values() if value is not None)


def test_missing_labels_are_masked_for_each_label() -> None:
    atoms = waters_batch(4)
    nan = torch.nan
    labels = {"a": torch.tensor([1.0, 0.0, nan, 1.0]), "b": torch.tensor([nan, 1.0, 0.0, 0.0])}
    predicted = {"a": torch.tensor([0.9, 0.2, 0.0, 0.8]), "b": torch.tensor([0.5, 0.1, 0.9, 0.8])}
    accuracy = Accuracy(labels=["a", "b"])
    accuracy.add(predicted, labels, atoms)
    found = accuracy.result()
    assert list(found) == ["a", "b", MEAN_OF_LABELS]
    scores = [found[name] for name in found]
    assert [one.roc_auc for one in scores if isinstance(one, ClassErrors)] == [1.0, 0.0, 0.5]
    assert [one.count for one in scores] == [3, 3, 6]


def test_the_baseline_is_the_base_rate() -> None:
    atoms = waters_batch(4)
    baseline = Baseline(classes=["a"])
    baseline.add({"a": torch.tensor([1.0, 0.0, 0.0, torch.nan])}, atoms)
    found = baseline.result()["a"]
    assert isinstance(found, ClassErrors)
    assert found.roc_auc == 0.5
    assert found.average_precision == pytest.approx(1 / 3)
    assert found.accuracy == pytest.approx(2 / 3)  # the majority is no
    assert found.log_loss == pytest.approx(-(np.log(1 / 3) + 2 * np.log(2 / 3)) / 3)


def test_processes_put_their_labels_together() -> None:
    """Two processes with unequal shares, whose sums are made by hand in two rounds: counts, then rows."""
    parts = [(PROBABILITIES[:2], LABELS[:2]), (PROBABILITIES[2:], LABELS[2:])]
    counts = torch.tensor([2.0, 3.0], dtype=torch.float64)
    rows = torch.tensor(np.stack([PROBABILITIES, LABELS], axis=1))
    for rank, (p, y) in enumerate(parts):
        answers, seen = iter([counts, rows]), list[torch.Tensor]()

        def summed(
            values: torch.Tensor, answers: Iterator[torch.Tensor] = answers, seen: list[torch.Tensor] = seen
        ) -> torch.Tensor:
            seen.append(values)
            return next(answers)

        accuracy = Accuracy(labels=["a"])
        accuracy.classes["a"] = [torch.tensor(np.stack([p, y], axis=1))]
        accuracy.share(["a"], rank, 2, summed)
        own = slice(0, 2) if rank == 0 else slice(2, 5)
        assert torch.equal(seen[1][own], rows[own])
        assert seen[1].abs().sum() == rows[own].abs().sum()
        assert accuracy.result()["a"] == ClassErrors.of(PROBABILITIES, LABELS)


def test_labels_are_0_or_1_or_missing() -> None:
    require_labels([0.0, 1.0, np.nan], "toxic", [])
    with pytest.raises(DataError, match=r"mine\.csv, record 7: toxic is 0\.5, and a label is 0 or 1"):
        require_labels([1.0, 0.5], "toxic", ["mine.csv, record 6", "mine.csv, record 7"])
    with pytest.raises(DataError, match="toxic is inf"):
        require_labels([np.inf], "toxic", [])


def test_tables_have_a_row_for_each_label_and_predictor() -> None:
    found = {"a": ClassErrors.of(PROBABILITIES, LABELS), "energy": Errors(1.0, 1.0, 5, "eV")}
    table = class_table({"full": found, BASE_RATE: {"a": ClassErrors.of(np.full(5, 0.6), LABELS)}})
    assert table is not None
    assert [row[:3] for row in table.rows] == [("a", "full", "0.750"), ("a", BASE_RATE, "0.500")]
    assert table.rows[0][-1] == "3 / 5"
    assert class_table({"full": {"energy": found["energy"]}}) is None


def test_errors_survive_as_plain_numbers() -> None:
    for errors in (ClassErrors.of(PROBABILITIES, LABELS), Errors(1.0, 2.0, 3, "eV")):
        assert parsed(vars(errors)) == errors


def waters_batch(count: int) -> AtomsBatch:
    return to_batch(waters(count))
