"""The report of a study: one HTML file that works offline, on a phone, in light and in dark; and its tables as text."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from ase import Atoms
from matplotlib.figure import Figure

from atomslim.benchmarking.structures import structure
from atomslim.errors import ConfigError
from atomslim.files import atomic_write
from atomslim.models.registry import BEST
from atomslim.report import page
from atomslim.report.page import TextTable
from atomslim.report.structure_view import structure_view
from atomslim.study import figures, tables
from atomslim.study.results import Results
from atomslim.study.summary import sentences

ABOUT = (
    "Interaction blocks are removed from the end of the model, its readout is re-aligned, and the full model may be "
    "distilled into the pruned one, as in arXiv 2504.19538, whose results are shown beside ours."
)

BARS = "Bars: standard deviation, if there are several seeds."

Drawn = dict[str, list[Figure]]
"""Panels of the figures, by section of the report."""


def write_report(results: Results, folder: Path) -> Path:
    """Write report.html, report.md with figures/, and results.json into a study's folder, and return the first."""
    shown, drawn = all_tables(results), _drawn(results)
    lines = [f"# {results.options.title}", "", *(f"- {text}" for text in sentences(results)), ""]
    _write(folder / "report.html", _page(results, drawn))
    pictures = [_saved(panel, folder, name) for name, panels in drawn.items() for panel in panels]
    _write(folder / "report.md", "\n".join([*lines, *(table.markdown() for table in shown), *pictures, ""]))
    content = {table.title: [table.columns, *table.rows] for table in shown}
    _write(folder / "results.json", json.dumps(content, indent=1, ensure_ascii=False))
    return folder / "report.html"


def all_tables(results: Results) -> list[TextTable]:
    """Return every table that has data."""
    mix, downstream = bool(results.options.mix), bool(results.options.downstream)
    found = [
        tables.units(results),
        tables.pretraining(results) if mix else None,
        tables.shares(results) if mix else None,
        tables.growth(results) if mix else None,
        tables.published(results) if mix else None,
        tables.downstream(results) if downstream else None,
        tables.physics(results),
        tables.efficiency(results),
        tables.failures(results),
    ]
    return [table for table in found if table is not None]


def _drawn(results: Results) -> Drawn:
    """Draw every figure that has data."""
    drawn: Drawn = {}
    if results.relevance is not None:
        drawn["relevance"] = figures.relevance(results.relevance)
    if results.options.mix:
        drawn["pretraining"] = figures.pretraining(results)
        drawn["finer"] = figures.finer(results)
        drawn["learning"] = figures.learning(results)
    if any(results.unit(part) for part in results.options.downstream):
        drawn["downstream"] = figures.downstream(results)
        drawn["finer-downstream"] = figures.finer_downstream(results)
        drawn["convergence"] = figures.convergence(results)
    return drawn


def _saved(panel: Figure, folder: Path, name: str) -> str:
    """Save a panel as a separate file, and return its Markdown."""
    title = panel.axes[0].get_title()
    words = re.findall(r"\w+", title)
    path = folder / "figures" / f"{'-'.join([name, *words])}.png"
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as temporary:
        panel.savefig(temporary, format="png", dpi=150)
    return f"![{name}, {title}]({path.relative_to(folder).as_posix()})"


def _page(results: Results, drawn: Drawn) -> str:
    versions = results.board.folder / "versions.json"
    texts = {"Configuration": _configuration(results)}
    if versions.is_file():
        texts["Versions"] = versions.read_text(encoding="utf-8")
    return page.page(
        results.options.title,
        [page.summary(sentences(results)), *_sections(results, drawn), _models(results), page.footer(texts)],
    )


def _models(results: Results) -> str:
    """Link to the models that were trained."""
    folder = results.board.folder
    runs = sorted((folder / "cells").glob(f"*/run/{BEST}"))
    return page.links({path.parent.parent.name: path for path in runs}, folder)


def _sections(results: Results, drawn: Drawn) -> Iterator[str]:
    yield f"<p class=note>{ABOUT}</p>"
    yield from _sample(results)
    yield from _relevance(drawn)
    units = tables.units(results)
    if units is not None:
        yield units.html()
    yield from _mix(results, drawn)
    yield from _downstream(results, drawn)
    last = (tables.physics(results), tables.efficiency(results), tables.failures(results))
    yield from (table.html() for table in last if table is not None)


def _relevance(drawn: Drawn) -> Iterator[str]:
    if "relevance" in drawn:
        yield page.heading("How much each block matters")
        yield page.pictures(
            drawn["relevance"],
            "GradCAM scores of the blocks' features (node: of atoms, edge: of pairs), as fractions of their sum; emb. "
            "is the embedding, which is never removed. Bars: standard error, if there are several batches. "
            "In the paper's Fig. 2, scores of JMP-L fall with depth: block 6 lowest, block 5 next.",
        )


def _mix(results: Results, drawn: Drawn) -> Iterator[str]:
    if "pretraining" in drawn:
        pretraining = tables.pretraining(results)
        yield page.heading(pretraining.title, pretraining.note)
        if drawn["pretraining"]:
            yield page.pictures(drawn["pretraining"], f"Force error against the blocks kept. {BARS}")
        if drawn["finer"]:
            yield page.pictures(drawn["finer"], f"Force error of cuts by what they leave out. {BARS}")
        if drawn["learning"]:
            yield page.pictures(
                drawn["learning"],
                "Force error in distillation against steps (first seed) and against the number of training structures "
                "(the best of each run, over seeds), by what validation compares with: labels, or the teacher.",
            )
        yield pretraining.body()
        costs = tables.shares(results)
        if costs is not None:
            yield costs.html()
        yield tables.growth(results).html()
        yield tables.published(results).folded()


def _downstream(results: Results, drawn: Drawn) -> Iterator[str]:
    if "downstream" in drawn:
        tuned = tables.downstream(results)
        yield page.heading(tuned.title, tuned.note)
        if drawn["downstream"]:
            yield page.pictures(drawn["downstream"], f"Test error against the blocks kept (Fig. 3). {BARS}")
        if drawn["finer-downstream"]:
            yield page.pictures(drawn["finer-downstream"], f"Test error of cuts by what they leave out. {BARS}")
        yield tuned.body()
    if drawn.get("convergence"):
        yield page.heading("Convergence")
        yield page.pictures(
            drawn["convergence"],
            "Validation error against seconds or steps of training under the same budget, first seed (Fig. 4): cut "
            "models after distillation where there is one, sliced otherwise.",
        )


def _sample(results: Results) -> Iterator[str]:
    """Show one of the validation structures, or else the one for timing."""
    sample, speed = results.sample, results.options.speed
    if sample is not None:
        atoms, where = Atoms(**sample["atoms"]), f"a validation structure of {sample['task']}"
    elif speed is not None:
        try:
            atoms, where = structure(speed.structures), "the structure that speed is measured on"
        except ConfigError:  # a file that is not here
            return
    else:
        return
    text = f"{atoms.get_chemical_formula()}, {len(atoms)} atoms: {where}. Drag, swipe or use the arrow keys to turn it."
    yield structure_view(atoms, text)


def _configuration(results: Results) -> str:
    text: str = yaml.safe_dump(results.options.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
