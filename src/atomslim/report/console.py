"""Tables and texts on the terminal: file names and contents of files are shown literally, never as markup."""

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from atomslim.errors import printable

WIDE = 160
"""Width in columns for files and pipes, which have none themselves."""


class _PlainConsole(Console):
    """Shows texts literally: brackets are not markup, an escape sequence is not a command.

    Text too wide for a table column is wrapped, not truncated: a truncated name would be useless.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for column in renderable.columns if isinstance(renderable, Table) else ():
            column.overflow = "fold"
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def plain_console(*, stderr: bool = False, **options: Any) -> Console:
    """Return a console for stdout or stderr; ``options`` are rich's."""
    console = _PlainConsole(stderr=stderr, markup=False, emoji=False, **options)
    if not console.is_terminal and "COLUMNS" not in os.environ and "width" not in options:
        console.width = WIDE
    return console
