"""Prints the measured table of a finished study as Markdown: every metric on the test sets, means over seeds.

python studies/classification/tables.py runs/classification
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

METRICS = {"roc_auc": "ROC-AUC", "average_precision": "PR-AUC", "accuracy": "accuracy", "log_loss": "log loss"}


def runs(folder: Path) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Return set, label and model → the rows of summaries, one for each seed."""
    found = defaultdict(list)
    for file in sorted(folder.glob("cells/tune*/run/summary.json")):
        config = file.parent.parent.name
        model = "4 blocks" if "sliced" in config else "6 blocks"
        for row in json.loads(file.read_text(encoding="utf-8"))["rows"]:
            found[row["task"], row["target"], model].append(row)
    return dict(sorted(found.items()))


def cell(values: list[float]) -> str:
    """Write a mean and its standard deviation over seeds."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    """Print the table."""
    print("| set | label | model |", *(f" {name} |" for name in METRICS.values()), sep="")
    print("|---" * (3 + len(METRICS)) + "|")
    for (task, label, model), rows in runs(Path(sys.argv[1])).items():
        cells = [cell([row["test"][metric] for row in rows]) for metric in METRICS]
        print(f"| {task} | {label} | {model} | {' | '.join(cells)} |")
        if model == "6 blocks":
            base = [cell([row["mean_baseline"][metric] for row in rows[:1]]) for metric in METRICS]
            print(f"| {task} | {label} | base rate (validation) | {' | '.join(base)} |")


if __name__ == "__main__":
    main()
