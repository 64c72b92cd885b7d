"""The report of a study: one HTML file that works offline, on a phone, in light and in dark; and its tables as text."""

import html
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from atomslim.files import atomic_write
from atomslim.study import figures, tables
from atomslim.study.results import Results, Variant
from atomslim.study.tables import Table

_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --back: #ffffff; --line: #d5d5d5; --soft: #f5f6f7; --mark: #0072b2 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --back: #16181b; --line: #3a3d42; --soft: #202328; --mark: #6cb8e6 }
}
body {
  font: 16px/1.55 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 62rem; margin: 0 auto; padding: 1rem;
}
h1 { font-size: 1.7rem; line-height: 1.2 }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line) }
.summary { background: var(--soft); border-left: 4px solid var(--mark); padding: .6rem 1rem; border-radius: .3rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--back) }
figure { margin: 1rem 0; background: #ffffff; border-radius: .3rem; padding: .4rem; overflow-x: auto }
figure svg { max-width: 100%; height: auto }
figcaption { color: #444; font-size: .85rem }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .8rem }
.note { opacity: .8; font-size: .92rem }
"""


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


def _tables(results: Results) -> Iterator[Table]:
    if results.options.mix:
        yield tables.pretraining(results)
        yield tables.recovery(results)
        yield tables.published(results)
    if results.options.downstream:
        yield tables.downstream(results)
    missing = tables.failures(results)
    if missing.rows:
        yield missing


def _page(results: Results, shown: list[Table]) -> str:
    options = results.options
    body = [
        f"<h1>{html.escape(options.title)}</h1>",
        '<div class="summary">' + "".join(f"<p>{html.escape(text)}</p>" for text in summary(results)) + "</div>",
        *(_figure(svg, caption) for svg, caption in _figures(results)),
        *(_table(table) for table in shown),
        "<h2>Configuration</h2>",
        f"<pre>{html.escape(_configuration(results))}</pre>",
        f"<pre>{html.escape((results.board.folder / 'versions.json').read_text(encoding='utf-8'))}</pre>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(options.title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _configuration(results: Results) -> str:
    text: str = yaml.safe_dump(results.options.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _figures(results: Results) -> Iterator[tuple[str, str]]:
    options = results.options
    if options.mix:
        yield figures.svg(figures.pretraining(results)), "Force error on the pre-training tasks against blocks kept."
    if figures.has_curves(results, options.downstream):
        yield figures.svg(figures.downstream(results)), "Test error after fine-tuning under equal budgets."
        yield figures.svg(figures.convergence(results)), "Validation error against seconds of training, first seed."


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return (
        f"<h2>{html.escape(table.title)}</h2><p class=note>{html.escape(table.note)}</p>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
