"""The card of a model: what it is, what was done to it, and how to use it, in Markdown beside the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atomslim.files import atomic_write
from atomslim.models.metadata import checksum
from atomslim.models.short import facts

if TYPE_CHECKING:
    from atomslim.models.block_model import BlockModel

MARK = "<!-- written by atomslim; it is replaced with its model -->"
"""First line of a card; a file without it is not ours, and is kept."""


def write_card(model: "BlockModel", path: Path, results: Sequence[str] = ()) -> None:
    """Write the card of a model's file beside it, with what is known of its errors; never over a file that is not ours.

    Raises OSError if it cannot be written.
    """
    card_path = path.with_suffix(".md")
    if card_path.exists() and MARK not in card_path.read_text(encoding="utf-8", errors="replace")[: len(MARK)]:
        return
    with atomic_write(card_path) as temporary:
        temporary.write_text(card(model, path, results), encoding="utf-8")


def card(model: "BlockModel", path: Path, results: Sequence[str] = ()) -> str:
    """Return the card of a model that lies at `path`."""
    title = type(model).__name__ if model.family is None else model.family.title
    table = {"family": title, **facts(model), "SHA-256": checksum(path)}
    if model.family is not None and model.family.licences[1]:
        table["licence of the weights it started from"] = model.family.licences[1]
    lines = [MARK, f"# {path.stem}", "", "| | |", "|---|---|"]
    lines += [f"| {what} | {_cell(value)} |" for what, value in table.items() if what != "history"]
    lines += ["", "## What was done", ""]
    lines += [f"{number}. {_entry(entry)}" for number, entry in enumerate(model.history, start=1)] or ["Nothing."]
    if results:
        lines += ["", "## Errors", "", *(f"- {line}" for line in results)]
    task = next(iter(model.tasks), "")
    name = f', task="{task}"' if len(model.tasks) > 1 else ""
    lines += ["", "## Use it", "", "```python", "import atomslim", ""]
    lines += [f'atoms.calc = atomslim.Calculator("{path.name}"{name})', "```"]
    lines += ["", "Check it on structures like those you will use it for: `atomslim validate`, `atomslim compare`.", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _entry(entry: dict[str, object]) -> str:
    """Write an entry of the history in one line: the operation, and its short values."""
    rest = [f"{key}: {value}" for key, value in entry.items() if key != "operation" and len(str(value)) <= 80]
    return _cell("; ".join([str(entry.get("operation", "?")), *rest]))
