"""Writes the notebooks: a script in the percent format becomes the .ipynb beside it, without outputs.

    python docs/notebooks/convert.py

`# %%` begins a cell of code, `# %% [markdown]` one of text, whose lines are comments.
"""

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def scripts() -> list[Path]:
    """Return the scripts that are notebooks."""
    return [path for path in sorted(FOLDER.glob("*.py")) if path != Path(__file__)]


def notebook(script: str) -> str:
    """Return the text of a notebook with a script's cells."""
    marks = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)[1:]
    pairs = zip(marks[::2], marks[1::2], strict=True)
    cells = [_cell(mark.strip() == "[markdown]", text.strip("\n"), number) for number, (mark, text) in enumerate(pairs)]
    content = {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(is_text: bool, text: str, number: int) -> dict[str, Any]:  # noqa: FBT001 -- the one thing that cells differ in
    if is_text:
        text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
    own: dict[str, Any] = {} if is_text else {"execution_count": None, "outputs": []}
    kind = "markdown" if is_text else "code"
    return {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, **own, "source": text.splitlines(keepends=True)}


if __name__ == "__main__":
    for path in scripts():
        path.with_suffix(".ipynb").write_text(notebook(path.read_text(encoding="utf-8")), encoding="utf-8")
