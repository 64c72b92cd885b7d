"""Results that a REPL shows in a few lines, and a notebook with tables and figures."""

import html
from collections.abc import Iterable

from atomslim.errors import printable

MOST_LINES = 12
"""Most lines that a REPL shows."""


class Shown:
    """A result that describes itself in sentences; a dataclass of this kind has ``repr=False``."""

    def words(self) -> Iterable[str]:
        """Describe the result in sentences."""
        raise NotImplementedError

    def parts(self) -> Iterable[str]:
        """Give what a notebook shows below the sentences: tables and figures as HTML."""
        return ()

    def __repr__(self) -> str:
        lines = [printable(line) for line in self.words()]
        more = [f"… and {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
        return "\n".join([f"{type(self).__name__}:", *(f"  {line}" for line in (*lines[:MOST_LINES], *more))])

    def _repr_html_(self) -> str:
        sentences = "".join(f"<p>{html.escape(printable(line))}</p>" for line in self.words())
        return f"<div>{sentences}{''.join(self.parts())}</div>"
