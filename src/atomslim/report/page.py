"""Tables and self-contained HTML pages that work offline, on a phone, in light and in dark.

Parts of a page are texts that are put together:

    body = [summary(["It is faster."]), heading("How much"), pictures(figures, "Times."), table.html()]
    text = page("Report", [*body, structure_view(atoms, "Drag to turn."), footer({"config.yaml": "a: 1"})])
"""

import html
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from urllib.parse import quote

from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.table import Table

from atomslim.terminal import command_line

_LONG = 30
"""Characters above which a cell is wrapped."""

_NUMBER = re.compile(r"[±≤≥<>~≈+−-]?\s?(\d|nan|inf)")
"""How a cell with a number begins."""


_COPY = (
    "const text=this.nextElementSibling;getSelection().selectAllChildren(text);"
    "navigator.clipboard?navigator.clipboard.writeText(text.textContent):document.execCommand('copy');"
    "this.textContent='copied'"
)
"""Copies the text beside a button, also on pages without HTTPS, where browsers offer no clipboard."""


@dataclass(frozen=True)
class TextTable:
    """A table of texts with a title and a note on how to read it."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Write it as Markdown."""
        lines = [self.columns, tuple("---:" if numeric else "---" for numeric in self._numeric()), *self.rows]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"### {self.title}\n\n{self.note}\n\n{body}\n"

    def rich(self) -> Table:
        """Render it for the terminal."""
        table = Table(title=self.title)
        for name, numeric in zip(self.columns, self._numeric(), strict=True):
            table.add_column(name, justify="right" if numeric else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def html(self) -> str:
        """Write it as a section of a page."""
        return heading(self.title, self.note) + self.body()

    def folded(self) -> str:
        """Write it as a section of a page that opens with a click on its title."""
        note = f"<p class=note>{html.escape(self.note)}</p>"
        return f"<details><summary>{html.escape(self.title)}</summary>{note}{self.body()}</details>"

    def body(self) -> str:
        """Write it without title and note."""
        numeric = self._numeric()
        head = _row("th", self.columns, numeric)
        body = "".join(_row("td", row, numeric) for row in self.rows)
        return f'<div class="wide" tabindex="0"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'

    def _numeric(self) -> list[bool]:
        """Say for each column whether most of its cells are numbers; the first one has names, such as 4 blocks."""
        columns = ([row[index] for row in self.rows if row[index]] for index in range(1, len(self.columns)))
        return [False, *(sum(map(bool, map(_NUMBER.match, cells))) * 2 > len(cells) for cells in columns)]


def _row(tag: str, texts: Sequence[str], numeric: Sequence[bool]) -> str:
    """Write a row; numbers are right-aligned, texts left-aligned, and long texts wrapped."""
    kinds = ["" if right else "left" for right in numeric]
    if tag == "td":
        kinds = ["text" if len(text) > _LONG else kind for text, kind in zip(texts, kinds, strict=True)]
    shown = (
        f' class="{kind}">{html.escape(text)}' if kind else f">{html.escape(text)}"
        for text, kind in zip(texts, kinds, strict=True)
    )
    return f"<tr>{''.join(f'<{tag}{cell}</{tag}>' for cell in shown)}</tr>"


def number(value: float, digits: int = 3) -> str:
    """Write a number with at least so many significant digits and never an exponent: 0.0123, 4.57, 14,000."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{decimals}f}"


def page(title: str, body: Iterable[str]) -> str:
    """Put parts together as one self-contained HTML page."""
    content = "\n".join([*body, *_command()])
    script = f"<script>{_resource('structure_view.js')}</script>" if '<canvas class="structure"' in content else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_resource('page.css')}</style></head><body>\n"
        f"<h1>{html.escape(title)}</h1>\n{content}\n{script}</body></html>\n"
    )


def _command() -> list[str]:
    """Say which command makes the page, with a button that copies it; nothing where it is made in Python."""
    line = command_line()
    if line is None:
        return []
    text = html.escape(line)
    return ["<h2>Made by</h2>", f'<div class="command"><button onclick="{_COPY}">copy</button><pre>{text}</pre></div>']


def summary(sentences: Iterable[str]) -> str:
    """Write sentences as the box at the top of a page."""
    return '<div class="summary">' + "".join(f"<p>{html.escape(text)}</p>" for text in sentences) + "</div>"


def links(files: Mapping[str, str | os.PathLike[str]], folder: str | os.PathLike[str]) -> str:
    """Write links to files by name, from a page in a folder; nothing for missing ones."""
    there = {name: os.path.relpath(path, folder) for name, path in files.items() if Path(path).is_file()}
    shown = (f'<a href="{quote(Path(path).as_posix())}">{html.escape(name)}</a>' for name, path in there.items())
    return f"<p class=note>Model files: {', '.join(shown)}.</p>" if there else ""


def heading(title: str, note: str = "") -> str:
    """Begin a section, with a sentence that says how to read it."""
    return f"<h2>{html.escape(title)}</h2>" + (f"<p class=note>{html.escape(note)}</p>" if note else "")


def picture(figure: Figure, caption: str) -> str:
    """Write a figure as a part of a page; the same figure always gives the same text."""
    return f"<figure>{_svg(figure)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def pictures(figures: Sequence[Figure], caption: str) -> str:
    """Write panels side by side where there is room, and below each other on a phone."""
    panels = "".join(f"<div>{_svg(figure)}</div>" for figure in figures)
    return f'<figure><div class="panels">{panels}</div><figcaption>{html.escape(caption)}</figcaption></figure>'


def footer(texts: Mapping[str, str]) -> str:
    """End a page with texts that few will read, such as its configuration, collapsed under their names."""
    return "".join(
        f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"
        for name, text in texts.items()
    )


def _svg(figure: Figure) -> str:
    """Draw a figure without background; black takes the colour of the page's text."""
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "atomslim", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    drawn = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    return drawn[drawn.index("<svg") :].replace("#000000", "currentColor")


def _resource(name: str) -> str:
    return resources("atomslim.report").joinpath(name).read_text(encoding="utf-8")
