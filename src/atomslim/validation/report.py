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

COMPARED = ("mesh", "positions")
"""Curves that are not drawn."""

SCATTERED = ("change",)
"""Curves that are points without order."""

FEW = 21
"""Points of a curve up to which they are marked."""

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Okabe and Ito's colours, which the colour-blind can distinguish."""

AXES = {
    "bands": ("along Γ, (½, 0, 0), (½, ½, 0), Γ", "frequency (THz)"),
    "radial distribution": ("distance (Å)", "radial distribution"),
    "bond lengths": ("length of a bond (Å)", "share"),
    "bond angles": ("angle between bonds (°)", "share"),
    "mean squared displacement": ("time (ps)", "mean squared displacement (Å²)"),
}
"""Labels of further curves of a measurement, a figure each."""

PANELS = 12
"""Most figures of one check."""


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
    _write(folder / "validation.html", html(result, tables, folder))


def html(result: Validation, tables: list[TextTable], folder: Path) -> str:
    """Return the page of a folder: the sentence, a line for each check, then tables and figures."""
    body = [page.summary([result.sentence()]), page.links({Path(result.model).name: result.model}, folder)]
    body += [page.heading("All checks"), _list(result.lines())]
    for table in tables:
        body.append(table.html())
        found = [(structure, pair) for (check, structure), pair in result.curves.items() if check == table.title]
        figures = [figure for structure, pair in found for figure in draw(structure, *pair)][:PANELS]
        if figures:
            body.append(page.pictures(figures, "Solid lines, or blue: the model. Dashed, or orange: the reference."))
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
        f"{total:.3g} s of wall-clock time in all, for model and reference. "
        "A relaxation counts for the check that needs it first."
    )
    return TextTable("Time", note, ("check", "seconds"), tuple((name, f"{seconds:.2f}") for name, seconds in longest))


def draw(structure: str, model: Measurement, reference: Measurement | None) -> list[Figure]:
    """Draw the curves of one structure, related ones in one figure; the reference's are dashed."""
    panels: dict[str, list[str]] = {}
    for name in model.curves:
        if name not in COMPARED:
            panels.setdefault("bands" if name.startswith("band ") else name if name in AXES else "", []).append(name)
    return [_panel(structure, names, AXES.get(panel, model.axes), model, reference) for panel, names in panels.items()]


def _panel(
    structure: str, names: list[str], labels: tuple[str, str], model: Measurement, reference: Measurement | None
) -> Figure:
    figure = Figure(figsize=(4.2, 3.0), layout="constrained")
    axes = figure.subplots()
    told = 1 < len(names) <= len(COLOURS) and not names[0].startswith("band ")
    for index, name in enumerate(names):
        first, second = (COLOURS[index], COLOURS[index]) if told else COLOURS[:2]
        few: dict[str, Any] = {"marker": "o", "markersize": 2.5} if len(model.curves[name][0]) <= FEW else {}
        line = "" if name in SCATTERED else "-"
        few |= {"marker": ".", "markersize": 3.0} if name in SCATTERED else {}
        axes.plot(*model.curves[name], line, color=first, linewidth=1.2, label=name if told else None, **few)
        if reference is not None and name in reference.curves:
            axes.plot(*reference.curves[name], line and "--", color=second, linewidth=1.2, **few)
    if told:
        axes.legend(frameon=False, fontsize=8)
    axes.set_title(structure, fontsize=9)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
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
        _difference(verdict),
        "" if verdict.bar is None else verdict.amounts()[1],
        outcome,
    )


def _finite(content: dict[str, Any]) -> dict[str, Any]:
    """Return the same with None for NaN, which JSON lacks."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in content.items()}


def _number(value: float) -> str:
    if math.isfinite(value) and 0 < abs(value) < 1e-4:
        return f"{value:.1e}"
    return page.number(value)


def _difference(verdict: Verdict) -> str:
    """Write a difference, in per cent if it is relative."""
    if verdict.difference is None:
        return ""
    return f"{_number(100 * verdict.difference)} %" if verdict.relative else _number(verdict.difference)


def _list(lines: list[str]) -> str:
    items = [markup.escape(line).replace("FAILED", "<b>FAILED</b>", 1) for line in lines]
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
