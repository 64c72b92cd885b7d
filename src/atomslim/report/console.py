"""Tables and texts on the terminal: file names and what files hold are shown as they are, and never obeyed."""

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from atomslim.errors import printable

WIDE = 160
"""Columns of what goes into a file or a pipe, which has no width of its own."""


class _PlainConsole(Console):
    """Shows texts without a meaning of their own: brackets are not markup, an escape sequence is not a command.

    What is too wide for a column of a table goes on in the next line, since a name cut short is not a name.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for column in renderable.columns if isinstance(renderable, Table) else ():
            column.overflow = "fold"
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def plain_console(*, stderr: bool = False, **options: Any) -> Console:
    """Return a console for stdout or stderr; ``options`` are those of rich's."""
    console = _PlainConsole(stderr=stderr, markup=False, emoji=False, **options)
    if not console.is_terminal and "COLUMNS" not in os.environ and "width" not in options:
        console.width = WIDE
    return console
