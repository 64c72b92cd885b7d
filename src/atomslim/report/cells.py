"""Cells of CSV files: names stay names, even in spreadsheets, which would take some for formulas."""

from collections.abc import Iterable, Mapping
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def plain_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet runs: a text that begins like a formula gets a leading quote.

    Numbers, and texts that are numbers, stay as they are.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(_FORMULA) or _is_number(value):
        return value
    return f"'{value}"


def plain_row(row: Iterable[Any]) -> list[Any]:
    """Return the cells of a row, none of them a formula."""
    return [plain_cell(value) for value in row]


def plain_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows by column, with neither names nor cells that are formulas."""
    return [{plain_cell(name): plain_cell(value) for name, value in row.items()} for row in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
