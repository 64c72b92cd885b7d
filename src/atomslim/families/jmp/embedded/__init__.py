"""Models that come with the package, by name: `atomslim.load("mini")`. Each has a model card beside it."""

import os
from pathlib import Path

HERE = Path(__file__).parent

NAMES = ("mini",)
"""What there is."""


def located(path: str | os.PathLike[str]) -> Path:
    """Give the file of a model: of the embedded one of this name, unless there is a file that is called so."""
    if str(path) in NAMES and not Path(path).is_file():
        return HERE / f"{path}.safetensors"
    return Path(path)


def card(name: str) -> str:
    """Read the model card of an embedded model: data, labels, training, errors, limits."""
    return (HERE / f"{name}.md").read_text(encoding="utf-8")
