"""Models that come with the package, by name: `mini`, and `mini-smooth` for dynamics. Each has a card beside it."""

from pathlib import Path

HERE = Path(__file__).parent

NAMES = ("mini", "mini-smooth")
"""What there is."""


def file_of(name: str) -> Path:
    """Return the file of an embedded model."""
    return HERE / f"{name}.safetensors"


def card(name: str) -> str:
    """Read the model card of an embedded model: data, labels, training, errors, limits."""
    return (HERE / f"{name}.md").read_text(encoding="utf-8")
