"""Validations of several models beside each other: columns of the tables of comparisons and studies."""

from collections.abc import Mapping, Sequence

from atomslim.report.page import TextTable
from atomslim.validation.checks import Verdict
from atomslim.validation.result import Validation

TITLE = "Is it still usable"

NOTE = (
    "The outcome of `atomslim validate`: passed, failed with the number that exceeds its bar, or not done. "
    "A check without a bar and without a reference is only measured. The documentation explains each."
)


def outcomes(found: Validation) -> dict[str, str]:
    """Return for each check passed, what failed, measured, or not done."""
    names = dict.fromkeys([*(verdict.check for verdict in found.verdicts), *(name for name, _, _ in found.not_done)])
    return {name: _outcome([one for one in found.verdicts if one.check == name]) for name in names}


def column_table(rows: Mapping[str, Mapping[str, str]], head: str = "model", note: str = NOTE) -> TextTable:
    """Show outcomes of models side by side: a row for each model, a column for each check."""
    names = list(dict.fromkeys(name for found in rows.values() for name in found))
    cells = tuple((label, *(found.get(name, "") for name in names)) for label, found in rows.items())
    return TextTable(TITLE, note, (head, *names), cells)


def failed(found: Mapping[str, str]) -> list[str]:
    """Return the checks that failed."""
    return [name for name, outcome in found.items() if outcome.startswith("FAILED")]


def sentence(name: str, found: Mapping[str, str]) -> str:
    """Say which checks a model passes and which it fails."""
    broken, judged = failed(found), [one for one in found.values() if one.startswith(("passed", "FAILED"))]
    if not judged:
        return f"{name}: no check of its physics could be judged."
    if not broken:
        return f"{name}: passes all {len(judged)} checks of its physics that were judged."
    return f"{name}: fails {len(broken)} of {len(judged)} checks of its physics: {', '.join(broken)}."


def _outcome(verdicts: Sequence[Verdict]) -> str:
    broken = [verdict for verdict in verdicts if verdict.passed is False]
    if broken:
        value, bar = broken[0].amounts(2)
        return f"FAILED: {broken[0].number} {value} (bar {bar})"
    if any(verdict.passed for verdict in verdicts):
        return "passed"
    return "measured" if verdicts else "not done"
