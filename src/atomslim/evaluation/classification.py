"""Metrics of binary classification.

| name | definition |
|---|---|
| ROC-AUC | fraction of positive-negative pairs with the higher probability for the positive; ties count one half |
| PR-AUC | average precision: Σ (R_k − R_k−1) P_k over falling thresholds, R the recall, P the precision |
| accuracy | fraction of labels on whose side of one half the probability is; one half counts as positive |
| balanced accuracy | mean of the accuracy among positives and that among negatives |
| log loss | mean of −y ln p − (1 − y) ln (1 − p), p clipped to 1e-12 from 0 and 1 |

If all labels are equal, ROC-AUC and balanced accuracy are not defined; without a positive, PR-AUC is not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atomslim.errors import DataError
from atomslim.evaluation.errors import Errors
from atomslim.models.tasks import PROBABILITY
from atomslim.report.page import TextTable

MEAN_OF_LABELS = "mean over labels"
"""Shown beside the single labels if there are several."""

_CERTAIN = 1e-12
"""Probabilities are clipped to this distance from 0 and 1."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class ClassErrors(Errors):
    """Errors of the probabilities of one label; ``mae`` and ``rmse`` are |p − y| and the root of the Brier score.

    Metrics that are not defined are None.
    """

    roc_auc: float | None
    average_precision: float | None
    """PR-AUC."""
    accuracy: float
    balanced_accuracy: float | None
    log_loss: float
    positives: int
    """Positive labels, of ``count``."""

    @classmethod
    def of(cls, probabilities: ArrayLike, labels: ArrayLike) -> "ClassErrors":
        """Compare probabilities (n,) with labels (n,) of 0 and 1, at least one of them.

        Where a probability is not a number, all metrics are none.
        """
        p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
        error = p - y
        positives = int(y.sum())
        mixed = 0 < positives < len(y)
        right = (p >= 0.5) == (y > 0.5)
        sound = 1.0 if np.isfinite(p).all() else np.nan
        sides = [float(right[y == side].mean()) for side in (0.0, 1.0)] if mixed else []
        return cls(
            mae=float(np.abs(error).mean()),
            rmse=float(np.sqrt((error**2).mean())),
            count=len(y),
            unit=PROBABILITY,
            roc_auc=sound * roc_auc(p, y) if mixed else None,
            average_precision=sound * average_precision(p, y) if positives else None,
            accuracy=sound * float(right.mean()),
            balanced_accuracy=sound * float(np.mean(sides)) if mixed else None,
            log_loss=log_loss(p, y),
            positives=positives,
        )

    @property
    def error(self) -> float:
        """1 − ROC-AUC, or, where all labels are equal, the log loss."""
        return self.log_loss if self.roc_auc is None else 1.0 - self.roc_auc

    @property
    def measure(self) -> str:
        """What `error` is."""
        return "log loss" if self.roc_auc is None else "1 − ROC-AUC"

    @property
    def smooth_error(self) -> float:
        """The log loss, which depends on every probability."""
        return self.log_loss

    @property
    def least(self) -> float:
        """Half of one pair of a positive and a negative in the wrong order: smaller errors cannot be told from 0."""
        negatives = self.count - self.positives
        return 0.5 / (self.positives * negatives) if self.roc_auc is not None and self.positives * negatives else 1e-9

    @property
    def metrics(self) -> dict[str, float | None]:
        """All metrics, and what models are compared by (`error`), by the names in files."""
        return {
            "roc_auc": self.roc_auc,
            "average_precision": self.average_precision,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "log_loss": self.log_loss,
            "error": self.error,
        }

    def __str__(self) -> str:
        """Write the ROC-AUC, or, where it is not defined, why, and the log loss."""
        if self.roc_auc is not None:
            return f"ROC-AUC {self.roc_auc:.3f}"
        return f"log loss {self.log_loss:.3g} (no ROC-AUC: one class only)"


COLUMNS = {
    "roc_auc": "ROC-AUC",
    "average_precision": "PR-AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss",
}
"""Metrics by the names in files → the names in tables."""


FOLLOWED = (*COLUMNS, "error")
"""Names of what is monitored during training."""


def parsed(plain: Mapping[str, Any]) -> Errors:
    """Return the errors that `as_dict` gave."""
    return ClassErrors(**plain) if "roc_auc" in plain else Errors(**plain)


def baseline_of(found: Iterable[Errors]) -> str:
    """Name what is predicted without a model: the mean, the base rate of labels, or both."""
    kinds = {isinstance(errors, ClassErrors) for errors in found}
    return {frozenset({True}): "base rate", frozenset({True, False}): "mean or base rate"}.get(frozenset(kinds), "mean")


def shown(value: float | None) -> str:
    """Write a metric, or that it is not defined."""
    return "not defined" if value is None else f"{value:.3f}"


def roc_auc(probabilities: Numbers, labels: Numbers) -> float:
    """Return the area under the receiver's operating characteristic by ranks (Mann and Whitney)."""
    values, inverse, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    del values
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = labels.sum()
    negatives = len(labels) - positives
    return float((ranks[labels > 0.5].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(probabilities: Numbers, labels: Numbers) -> float:
    """Return Σ (R_k − R_k−1) P_k over the probabilities in descending order."""
    values, inverse = np.unique(-probabilities, return_inverse=True)
    found = np.cumsum(np.bincount(inverse, weights=labels, minlength=len(values)))
    taken = np.cumsum(np.bincount(inverse, minlength=len(values)))
    recall = found / labels.sum()
    return float((np.diff(recall, prepend=0.0) * found / taken).sum())


def log_loss(probabilities: Numbers, labels: Numbers) -> float:
    """Return the mean binary cross-entropy."""
    p = np.clip(probabilities, _CERTAIN, 1 - _CERTAIN)
    return float(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)).mean())


def with_mean(found: dict[str, Errors]) -> dict[str, Errors]:
    """Add the mean over labels where there are several; metrics are means of those that are defined."""
    labels = [errors for errors in found.values() if isinstance(errors, ClassErrors)]
    return {**found, MEAN_OF_LABELS: _mean(labels)} if len(labels) > 1 else found


def _mean(labels: Sequence[ClassErrors]) -> ClassErrors:
    def over(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    return ClassErrors(
        mae=float(np.mean([one.mae for one in labels])),
        rmse=float(np.mean([one.rmse for one in labels])),
        count=sum(one.count for one in labels),
        unit=PROBABILITY,
        roc_auc=over(one.roc_auc for one in labels),
        average_precision=over(one.average_precision for one in labels),
        accuracy=float(np.mean([one.accuracy for one in labels])),
        balanced_accuracy=over(one.balanced_accuracy for one in labels),
        log_loss=float(np.mean([one.log_loss for one in labels])),
        positives=sum(one.positives for one in labels),
    )


def undefined(found: dict[str, Errors]) -> list[str]:
    """Say for which labels ROC-AUC is not defined, one per line."""
    return [
        f"{name}: ROC-AUC is not defined: all {one.count} labels are {'yes' if one.positives else 'no'}"
        for name, one in found.items()
        if isinstance(one, ClassErrors) and one.roc_auc is None and name != MEAN_OF_LABELS
    ]


def require_labels(labels: ArrayLike, name: str, locations: Sequence[str]) -> None:
    """Raise DataError, naming the structure, for a label that is neither 0 nor 1 nor missing (NaN)."""
    values = np.asarray(labels, dtype=np.float64)
    wrong = np.flatnonzero(np.isfinite(values) & (values != 0) & (values != 1) | np.isinf(values))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{locations[first] if locations else f'structure {first}'}: {name} is {values[first]:g}, and a label "
            "is 0 or 1 (or missing): mend it, or learn it as a number (kind: scalar)"
        )


CLASSES = "Labels of 0 and 1"
"""Title of the table."""

BASE_RATE = "base rate"
"""Predicts every label's fraction of ones; as a decision, the majority."""


def class_errors(found: Mapping[str, Errors]) -> dict[str, ClassErrors]:
    """Return the errors of labels alone."""
    return {name: value for name, value in found.items() if isinstance(value, ClassErrors)}


def class_table(found: Mapping[str, Mapping[str, Errors]]) -> TextTable | None:
    """Return a row for each label and predictor (predictor → target → errors); None where there are no labels."""
    known = {predictor: class_errors(errors) for predictor, errors in found.items()}
    labels = dict.fromkeys(label for errors in known.values() for label in errors)
    rows = [
        (label, predictor, *_cells(errors[label], label))
        for label in labels
        for predictor, errors in known.items()
        if label in errors
    ]
    first = next(iter(known.values()), {})
    notes = [f"{note}." for note in undefined(dict(first))]
    if MEAN_OF_LABELS in labels and notes:
        notes.append("Means are over the labels that have a value.")
    columns = ("label", "predicted by", *COLUMNS.values(), "yes / labels")
    return TextTable(CLASSES, " ".join([NOTE, *notes]), columns, tuple(rows)) if rows else None


NOTE = (
    f"Decisions are at a probability of one half; {BASE_RATE}: the fraction of ones as every probability, which "
    "decides for the majority."
)


def _cells(errors: ClassErrors, label: str) -> list[str]:
    metrics = errors.metrics
    count = "" if label == MEAN_OF_LABELS else f"{errors.positives} / {errors.count}"
    return [*(shown(metrics[name]) for name in COLUMNS), count]
