"""Tables and self-contained HTML pages that work offline, on a phone, in light and in dark."""

import html
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.figure import Figure
from rich.table import Table

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
td:first-child { white-space: normal; min-width: 6rem; max-width: 40vw }
figure { margin: 1rem 0; background: #ffffff; border-radius: .3rem; padding: .4rem; overflow-x: auto }
figure svg { max-width: 100%; height: auto }
figcaption { color: #444; font-size: .85rem }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; font-size: .8rem }
.note { opacity: .8; font-size: .92rem }
"""


@dataclass(frozen=True)
class TextTable:
    """A table of texts with a title and a sentence that says how to read it."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Write it as Markdown."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"### {self.title}\n\n{self.note}\n\n{body}\n"

    def rich(self) -> Table:
        """Give it to the terminal."""
        table = Table(*self.columns, title=self.title)
        for row in self.rows:
            table.add_row(*row)
        return table

    def html(self) -> str:
        """Write it as a part of a page."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        return (
            f"<h2>{html.escape(self.title)}</h2><p class=note>{html.escape(self.note)}</p>"
            f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        )


def number(value: float, digits: int = 3) -> str:
    """Write a number with at least so many significant digits and never an exponent: 0.0123, 4.57, 14,000."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{decimals}f}"


def page(title: str, body: Iterable[str]) -> str:
    """Put parts together as one HTML page that needs nothing else."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def summary(sentences: Iterable[str]) -> str:
    """Write sentences as the box at the top of a page."""
    return '<div class="summary">' + "".join(f"<p>{html.escape(text)}</p>" for text in sentences) + "</div>"


def picture(figure: Figure, caption: str) -> str:
    """Write a figure as a part of a page; the same figure always gives the same text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{html.escape(caption)}</figcaption></figure>"
