"""The outcome of a fine-tuning run: errors of its best model, its cost, and its learning curve."""

from pathlib import Path
from typing import Any

from atomslim.evaluation.classification import parsed
from atomslim.parsing import parse_json
from atomslim.train.reporting import error_column
from atomslim.train.run_folder import RunFolder

_PRICE = ("parameters", "steps", "epochs", "training_seconds")


def outcome(run: Path) -> dict[str, Any]:
    """Return the best model's errors on the test set (on the validation set where there is none), and its cost.

    `curve` has a row for each validation: seconds of training, steps, and target → error: the mean absolute one, or of
    labels of 0 and 1 what `ClassErrors.error` is, which then replaces `mae` and is named by `unit`.
    """
    summary = parse_json((run / "summary.json").read_text(encoding="utf-8"))
    validations = [row for row in RunFolder(run).metrics() if "score" in row]
    best = min(validations, key=lambda row: row["score"])
    errors = {row["target"]: _errors(row, best[error_column(row)]) for row in summary["rows"]}
    columns = {row["target"]: error_column(row) for row in summary["rows"]}
    curve = [
        {"seconds": row["seconds"], "step": row["step"], **{name: row[column] for name, column in columns.items()}}
        for row in validations
    ]
    return {"errors": errors, **{name: summary[name] for name in _PRICE}, "curve": curve}


def learning(run: Path) -> dict[str, Any]:
    """Return how the force error of each task fell in a run of distillation, by what validation compares with.

    `curve` has a row for each validation: seconds of training, steps, and task → mean absolute error in eV/Å;
    `nothing` is that of predicting no forces.
    """
    summary = parse_json((run / "summary.json").read_text(encoding="utf-8"))
    rows = {row["task"]: row for row in summary["rows"] if row["target"] == "forces"}
    columns = {task: error_column(row) for task, row in rows.items()}
    curve = [
        {"seconds": row["seconds"], "step": row["step"], **{task: row.get(column) for task, column in columns.items()}}
        for row in RunFolder(run).metrics()
        if "score" in row
    ]
    nothing = {task: row["mean_baseline"]["mae"] for task, row in rows.items() if row["mean_baseline"]}
    return {"steps": summary["steps"], "curve": curve, "nothing": nothing}


def _errors(row: dict[str, Any], validation: float) -> dict[str, Any]:
    """Return the errors of a target; ``validation`` is the best model's, ``mean`` that of predicting it."""
    mean = parsed(row["mean_baseline"]) if row["mean_baseline"] else None
    test = parsed(row["test"]) if row["test"] else None
    known = test or mean
    unit = "" if known is None else known.unit if known.measure == "MAE" else known.measure
    value, where = (validation, "validation") if test is None else (test.error, "test")
    return {
        "mae": value,
        "unit": unit,
        "set": where,
        "validation": validation,
        "mean": None if mean is None else mean.error,
    }
