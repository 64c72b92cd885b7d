"""Keeps the picture of the house true: a room imports from lower lines only, never from its own line or above."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import atomslim

LINES = [
    {"cli", "testing"},  # testing is the kit for block models: it may use every room, and no room uses it
    {"study"},
    {"train"},
    {"compress"},
    {"evaluation"},
    {"benchmarking", "inference"},
    {"families"},
    {"models", "data", "report"},
    {"atoms"},
    {"errors", "files", "memory", "threads"},
]
LINE = {room: depth for depth, rooms in enumerate(LINES) for room in rooms}

NARROWER = {"data": {"atoms", "errors", "files", "memory"}}
"""Rooms that may use less than everything below them."""

FAMILY_IN_CORE = {"metadata.py", "model_file.py"}
"""Files of the core that still name a family: to be dissolved."""

PACKAGE = Path(atomslim.__file__).parent
SOURCES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE) + [
    path.relative_to(PACKAGE) for path in sorted(PACKAGE.glob("*.py")) if path.name != "__init__.py"
]


def room_of(module: str) -> str:
    """Name the room of `atomslim.room.…`; a public name of the package stands for the room it lives in."""
    name = module.split(".")[1]
    return name if name in LINE else room_of(atomslim._HOMES[name])


def imported_modules(source: str, package: str) -> Iterator[str]:
    """Give every module or name of atomslim that a source imports, inside functions too, as a dotted name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "atomslim")


def violations(path: Path, source: str) -> list[str]:
    """List what a file (path inside the package) imports against the picture."""
    room = path.parts[0].removesuffix(".py")
    package = ".".join(["atomslim", *path.parent.parts])
    found = []
    for module in imported_modules(source, package):
        if module == "atomslim":
            found.append(f"{path}: imports the whole package: name the module it needs")
        elif path.parts[0] == "models" and path.name in FAMILY_IN_CORE and module.startswith("atomslim.families."):
            continue
        elif module != "atomslim.__version__" and not allowed(room, room_of(module)):
            found.append(f"{path}: {room} may not import {module}")
    return found


def allowed(room: str, other: str) -> bool:
    """Say whether a room may import from another (or from itself)."""
    return other == room or (LINE[other] > LINE[room] and other in NARROWER.get(room, LINE))


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_go_downwards(path: Path) -> None:
    assert path.parts[0].removesuffix(".py") in LINE, "a new room: give it a line in the picture"
    assert violations(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("families/jmp/model.py", "from atomslim.compress import prune"),
        ("families/jmp/model.py", "def f():\n    import atomslim.inference.calculator"),
        ("families/jmp/model.py", "from ...inference.calculator import Calculator"),
        ("families/jmp/gemnet_oc/block.py", "from ....train import run"),
        ("benchmarking/costs.py", "from atomslim.train.run import train"),
        ("compress/prune.py", "from atomslim import finetune"),
        ("compress/prune.py", "import atomslim"),
        ("data/qm9.py", "from atomslim.models.model_file import load"),
        ("cli/main.py", "from atomslim.testing import kit"),
        ("errors.py", "from atomslim.atoms import from_ase"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    assert len(violations(Path(path), source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("families/jmp/model.py", "from .gemnet_oc import graphs"),
        ("families/jmp/gemnet_oc/block.py", "from ..model import JMP\nfrom .bases import Bases\nfrom . import graphs"),
        ("compress/prune.py", "from atomslim import load, __version__"),
        ("cli/main.py", "import torch\nfrom atomslim.errors import AtomslimError"),
    ],
)
def test_a_right_import_is_not(path: str, source: str) -> None:
    assert violations(Path(path), source) == []
