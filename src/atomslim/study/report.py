"""The report of a study: one HTML file that works offline, on a phone, in light and in dark; and its tables as text."""

import html
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from atomslim.files import atomic_write
from atomslim.measure import page
from atomslim.measure.page import TextTable
from atomslim.study import figures, tables
from atomslim.study.results import Results, Variant


def write_report(results: Results, folder: Path) -> Path:
    """Write report.html, report.md and results.json into a study's folder, and return the first."""
    shown = list(_tables(results))
    _write(folder / "report.html", _page(results, shown))
    _write(folder / "report.md", f"# {results.options.title}\n\n" + "\n".join(table.markdown() for table in shown))
    _write(
        folder / "results.json", json.dumps({table.title: [table.columns, *table.rows] for table in shown}, indent=1)
    )
    return folder / "report.html"


def summary(results: Results) -> list[str]:
    """Say in a few plain sentences what was cut, what it cost, and what won it back."""
    options = results.options
    sentences = []
    states = list(results.board.states().values())
    sentences.append(f"{states.count('done')} of {len(states)} cells are finished.")
    full = results.parameters(Variant("full", None))
    for blocks in options.blocks:
        cut = results.parameters(Variant("sliced", blocks))
        if full and cut:
            sentences.append(
                f"With {blocks} blocks the model has {cut / full:.0%} of its parameters. " + _cost(results, blocks)
            )
    return sentences


def _cost(results: Results, blocks: int) -> str:
    """Say how much the force error grows, as a geometric mean over the tasks, for every strategy."""
    parts = []
    for variant in results.variants:
        if variant.blocks == blocks:
            ratio = _growth(results, variant)
            if ratio is not None:
                parts.append(f"{variant.strategy} {ratio:.2f} ×")
    return f"Force error beside the full model's, geometric mean over tasks: {', '.join(parts)}." if parts else ""


def _growth(results: Results, variant: Variant) -> float | None:
    product, count = 1.0, 0
    for task in results.options.mix:
        full, own = results.reduced(Variant("full", None), task.name), results.reduced(variant, task.name)
        if full is not None and own is not None:
            product, count = product * own.mean / full.mean, count + 1
    return product ** (1 / count) if count else None


def _tables(results: Results) -> Iterator[TextTable]:
    if results.options.mix:
        yield tables.pretraining(results)
        yield tables.recovery(results)
        yield tables.published(results)
    if results.options.downstream:
        yield tables.downstream(results)
    missing = tables.failures(results)
    if missing.rows:
        yield missing


def _page(results: Results, shown: list[TextTable]) -> str:
    versions = (results.board.folder / "versions.json").read_text(encoding="utf-8")
    body = [
        page.summary(summary(results)),
        *_figures(results),
        *(table.html() for table in shown),
        "<h2>Configuration</h2>",
        f"<pre>{html.escape(_configuration(results))}</pre>",
        f"<pre>{html.escape(versions)}</pre>",
    ]
    return page.page(results.options.title, body)


def _configuration(results: Results) -> str:
    text: str = yaml.safe_dump(results.options.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _figures(results: Results) -> Iterator[str]:
    options = results.options
    if options.mix:
        yield page.picture(figures.pretraining(results), "Force error on the pre-training tasks against blocks kept.")
    if figures.has_curves(results, options.downstream):
        yield page.picture(figures.downstream(results), "Test error after fine-tuning under equal budgets.")
        yield page.picture(figures.convergence(results), "Validation error against seconds of training, first seed.")


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
