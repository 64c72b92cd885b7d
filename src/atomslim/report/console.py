"""Tables and texts on the terminal: file names and what files hold are shown as they are, and never obeyed."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from atomslim.errors import printable


class _PlainConsole(Console):
    """Shows texts without a meaning of their own: brackets are no markup, an escape sequence is no command."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def plain_console(*, stderr: bool = False, **options: Any) -> Console:
    """Return a console for stdout or stderr; ``options`` are those of rich's."""
    return _PlainConsole(stderr=stderr, markup=False, emoji=False, **options)
