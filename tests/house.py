"""Draws the picture of the rooms in CONTRIBUTING.md from their imports and docstrings: `python tests/house.py`.

A room is a folder or a file directly in the package. Its layer is one above the highest of the rooms that it imports
from, inside functions too; what only annotations name does not count.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import atomslim

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
PACKAGE = ROOT / "src" / "atomslim"
BEGIN, END = "<!-- drawn by tests/house.py -->", "<!-- end of the picture -->"


@cache
def rooms() -> list[str]:
    """Name all rooms, alphabetically."""
    files = [path.parts[0].removesuffix(".py") for path in (one.relative_to(PACKAGE) for one in PACKAGE.rglob("*.py"))]
    return sorted(set(files) - {"__init__"})


def sources(room: str) -> list[Path]:
    """List the files of a room."""
    folder = PACKAGE / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def description(room: str) -> str:
    """Return the first line of a room's docstring."""
    docstring = ast.get_docstring(ast.parse(sources(room)[0].read_text(encoding="utf-8"))) or ""
    return docstring.splitlines()[0].removesuffix(".")


def imported_modules(tree: ast.AST, package: str) -> Iterator[str]:
    """Give every module or name of atomslim that a source imports, inside functions too, as a dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "atomslim")


def without_annotations(source: str) -> ast.Module:
    """Parse a source, without what it imports for type checkers only."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return tree


def room_of(module: str) -> str:
    """Name the room of `atomslim.room.…`; a public name of the package stands for the room it lives in."""
    name = module.split(".")[1]
    return atomslim._HOMES[name].split(".")[1] if name in atomslim._HOMES else name


def used_rooms(room: str) -> set[str]:
    """Name the rooms from which a room imports."""
    found: set[str] = set()
    for path in sources(room):
        package = ".".join(["atomslim", *path.relative_to(PACKAGE).parent.parts])
        modules = imported_modules(without_annotations(path.read_text(encoding="utf-8")), package)
        found |= {room_of(name) for name in modules if "." in name}
    return (found & set(rooms())) - {room}


@cache
def layers() -> list[list[str]]:
    """Return the rooms by layer, the highest first; raises ValueError for a circle."""
    waiting = {room: used_rooms(room) for room in rooms()}
    found: list[list[str]] = []
    while waiting:
        free = sorted(room for room, used in waiting.items() if not used & waiting.keys())
        if not free:
            raise ValueError(f"rooms that import from each other: {', '.join(sorted(waiting))}")
        found.append(free)
        waiting = {room: used for room, used in waiting.items() if room not in free}
    return found[::-1]


def picture() -> str:
    """Draw the rooms: a line each with its layer, counted from the bottom, and what it is."""
    found = layers()
    width = max(map(len, rooms()))
    return "\n".join(
        f"    {len(found) - depth:2}  {room:{width}}  {description(room)}"
        for depth, layer in enumerate(found)
        for room in layer
    )


def drawn(text: str) -> str:
    """Return the page with the picture of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{picture()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
