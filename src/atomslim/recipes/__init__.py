"""Configurations to start from, for `atomslim recipes`: the head of each file says what it does and how to run it."""

from dataclasses import dataclass
from importlib.resources import files
from itertools import takewhile


@dataclass(frozen=True)
class Recipe:
    """A YAML file that comes with the package."""

    name: str
    text: str

    @property
    def file(self) -> str:
        """Its name as a file."""
        return f"{self.name}.yaml"

    @property
    def head(self) -> list[str]:
        """The lines of comment that it begins with: first what it does, last the command that runs it."""
        lines = takewhile(lambda line: line.startswith("#"), self.text.splitlines())
        return [line.removeprefix("#").strip() for line in lines]

    @property
    def command(self) -> list[str]:
        """The words after `atomslim` that run it."""
        return self.head[-1].split()[1:]


def recipes() -> dict[str, Recipe]:
    """Return all recipes by name."""
    found = (path for path in files(__name__).iterdir() if path.name.endswith(".yaml"))
    names = sorted((path.name.removesuffix(".yaml"), path) for path in found)
    return {name: Recipe(name, path.read_text(encoding="utf-8")) for name, path in names}
