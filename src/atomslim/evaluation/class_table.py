"""All metrics of labels of 0 and 1 as a table: several predictors side by side."""

from collections.abc import Mapping

from atomslim.evaluation.classification import COLUMNS, MEAN_OF_LABELS, ClassErrors, shown, undefined
from atomslim.evaluation.errors import Errors
from atomslim.report.page import TextTable

CLASSES = "Labels of 0 and 1"
"""Title of the table."""

BASE_RATE = "base rate"
"""Predicts every label's share of yes; as a decision, that is the majority."""


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
    f"Decisions are at a probability of one half; {BASE_RATE}: the share of yes as every probability, which decides "
    "for the majority."
)


def _cells(errors: ClassErrors, label: str) -> list[str]:
    metrics = errors.metrics
    count = "" if label == MEAN_OF_LABELS else f"{errors.positives} / {errors.count}"
    return [*(shown(metrics[name]) for name in COLUMNS), count]
