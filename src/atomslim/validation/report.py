"""A page, a table and JSON of a validation."""

import html as markup
import json
import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from atomslim.files import atomic_write
from atomslim.report import page
from atomslim.report.page import TextTable
from atomslim.validation.checks import Verdict, checks
from atomslim.validation.measurement import Measurement
from atomslim.validation.result import Validation

DRAWN = ("mesh", "positions")
"""Curves that are only compared."""

PANELS = 12
"""At most so many figures of one check."""


def write(result: Validation, folder: Path) -> None:
    """Write validation.json, validation.md and validation.html."""
    content = {
        "model": result.model,
        "against": result.against,
        "sentence": result.sentence(),
        "passed": result.passed,
        "complete": not result.incomplete,
        "seconds": {name: round(seconds, 3) for name, seconds in result.seconds.items()},
        "notes": list(result.notes),
        "verdicts": [_finite(verdict.model_dump()) for verdict in result.verdicts],
        "not done": [dict(zip(("check", "structure", "reason"), one, strict=True)) for one in result.not_done],
    }
    _write(folder / "validation.json", json.dumps(content, indent=1, ensure_ascii=False))
    tables = [table_of(result, name) for name in dict.fromkeys(verdict.check for verdict in result.verdicts)]
    tables.append(times_of(result))
    lines = "\n".join(f"- {line}" for line in result.lines())
    text = "\n".join(table.markdown() for table in tables)
    _write(folder / "validation.md", f"# Validation\n\n{result.sentence()}\n\n{lines}\n\n{text}")
    _write(folder / "validation.html", html(result, tables))


def html(result: Validation, tables: list[TextTable]) -> str:
    """Return the page: the sentence, a line for each check, then tables and figures."""
    body = [page.summary([result.sentence()]), page.heading("Every check in a line"), _list(result.lines())]
    for table in tables:
        body.append(table.html())
        figures = [
            figure
            for (check, structure), found in result.curves.items()
            if check == table.title and (figure := draw(structure, *found)) is not None
        ][:PANELS]
        if figures:
            body.append(page.pictures(figures, "Blue: the model. Orange, dashed: the reference."))
    return page.page(f"Validation of {result.model}", body)


def table_of(result: Validation, check: str) -> TextTable:
    """Return one check's numbers, one row each."""
    rows = [_row(verdict) for verdict in result.verdicts if verdict.check == check]
    known = checks()[check]
    note = f"{known.means} Definition: {known.definition}. Source: {known.source}."
    return TextTable(
        check, note, ("structure", "number", "model", "reference", "difference", "bar", "verdict"), tuple(rows)
    )


def times_of(result: Validation) -> TextTable:
    """Return the seconds of each check, the longest first."""
    longest = sorted(result.seconds.items(), key=lambda one: -one[1])
    total = sum(result.seconds.values())
    note = (
        f"{total:.3g} s of wall clock in all, of model and reference. "
        "A relaxation counts for the check that asks for it first."
    )
    return TextTable("Time", note, ("check", "seconds"), tuple((name, f"{seconds:.2f}") for name, seconds in longest))


def draw(structure: str, model: Measurement, reference: Measurement | None) -> Figure | None:
    """Draw the curves of one structure, the reference's dashed; None where there is nothing to draw."""
    names = [name for name in model.curves if name not in DRAWN]
    if not names:
        return None
    one = len({len(model.curves[name][0]) for name in names}) == 1 or all(name.startswith("band") for name in names)
    shown = names if one else names[:1]
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    axes = figure.subplots()
    for found, style in ((model, "-"), (reference, "--")):
        for place, name in enumerate(shown):
            if found is not None and name in found.curves:
                colour = "#0072b2" if found is model else "#e69f00"
                axes.plot(*found.curves[name], style, color=colour, linewidth=1.2, alpha=1 - 0.6 * place / len(shown))
    axes.set_title(structure, fontsize=9)
    axes.set_xlabel(model.axes[0] or shown[0])
    axes.set_ylabel(model.axes[1] or shown[0])
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _row(verdict: Verdict) -> tuple[str, ...]:
    outcome = {True: "passed", False: "FAILED", None: ""}[verdict.passed]
    unit = f" {verdict.unit}" if verdict.unit else ""
    return (
        verdict.structure,
        verdict.number,
        f"{_number(verdict.value)}{unit}",
        "" if verdict.reference is None else _number(verdict.reference),
        "" if verdict.difference is None else _number(verdict.difference),
        "" if verdict.bar is None else f"{verdict.bar:g}",
        outcome,
    )


def _finite(content: dict[str, Any]) -> dict[str, Any]:
    """Return the same with None for what is no number: JSON has none of those."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in content.items()}


def _number(value: float) -> str:
    if math.isfinite(value) and 0 < abs(value) < 1e-4:
        return f"{value:.1e}"
    return page.number(value)


def _list(lines: list[str]) -> str:

    return "<ul>" + "".join(f"<li>{markup.escape(line)}</li>" for line in lines) + "</ul>"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
