"""What a page of documentation shows: Python that runs, and command lines that make sense."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]

_FENCED = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language, in order; a tab's blocks are indented."""
    text = page.read_text(encoding="utf-8")
    return [dedent(content) for _, name, content in _FENCED.findall(text) if name == language]


def run_python(page: Path, **replacements: str) -> dict[str, Any]:
    """Run a page's Python, block after block, as a reader would paste it; return the names it defines.

    ``replacements`` are texts by what stands in their place on the page: budget="2h" would take two hours.
    """
    namespace: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks(page, "python"):
        for written, instead in replacements.items():
            block = re.sub(rf'\b{written}="[^"]*"', instead, block)  # noqa: PLW2901 - the same block, quicker
        exec(compile(block, str(page), "exec"), namespace)  # noqa: S102 - our own page
    return namespace


def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing into files: it takes as long as the rest, and is tested where figures are made."""
    drawn = Figure.savefig

    def perhaps_drawn(figure: Figure, target: Any, **options: Any) -> None:
        return target.touch() if isinstance(target, Path) else drawn(figure, target, **options)

    monkeypatch.setattr(Figure, "savefig", perhaps_drawn)


def command_lines(page: Path) -> Iterator[list[str]]:
    """Give the words after each `atomslim` in blocks of shell commands, fenced (sh) or indented."""
    text = page.read_text(encoding="utf-8")
    indented = re.findall(r"^ {4,}(.*\batomslim .*)$", _FENCED.sub("", text), flags=re.MULTILINE)
    for line in [*"\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines(), *indented]:
        words = shlex.split(line, comments=True)
        if "atomslim" in words:
            yield words[words.index("atomslim") + 1 :]
