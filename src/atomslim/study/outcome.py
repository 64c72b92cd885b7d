"""What a run of fine-tuning came to: errors of its best model, its price, and its learning curve."""

from pathlib import Path
from typing import Any

from atomslim.parsing import parse_json
from atomslim.train.folder import RunFolder

_PRICE = ("parameters", "steps", "epochs", "training_seconds")


def outcome(run: Path) -> dict[str, Any]:
    """Return the best model's errors on the test set (on the validation set where there is none), and what it took.

    `curve` has a row for each validation: seconds of training, steps, and target → mean absolute error.
    """
    summary = parse_json((run / "summary.json").read_text(encoding="utf-8"))
    validations = [row for row in RunFolder(run).metrics() if "score" in row]
    best = min(validations, key=lambda row: row["score"])
    errors = {row["target"]: _errors(row, best[_column(row)]) for row in summary["rows"]}
    columns = {row["target"]: _column(row) for row in summary["rows"]}
    curve = [
        {"seconds": row["seconds"], "step": row["step"], **{name: row[column] for name, column in columns.items()}}
        for row in validations
    ]
    return {"errors": errors, **{name: summary[name] for name in _PRICE}, "curve": curve}


def _column(row: dict[str, Any]) -> str:
    return f"{row['task']}/{row['target']}/mae"


def _errors(row: dict[str, Any], validation: float) -> dict[str, Any]:
    """Return the errors of a target; ``validation`` is the best model's, ``mean`` that of predicting it."""
    mean = row["mean_baseline"]
    unit = (row["test"] or mean)["unit"]
    value, where = (row["test"]["mae"], "test") if row["test"] else (validation, "validation")
    return {"mae": value, "unit": unit, "set": where, "validation": validation, "mean": mean and mean["mae"]}
