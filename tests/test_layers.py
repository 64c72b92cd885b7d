"""Keeps the layers of the house: a room imports from lower ones only, and the picture in CONTRIBUTING.md is in step."""

import ast
import re
from pathlib import Path

import pytest

from house import PACKAGE, PAGE, drawn, imported_modules, layers, room_of, without_annotations

LINE = {room: depth for depth, layer in enumerate(layers()) for room in layer}

NARROWER = {
    "data": {"arguments", "atoms", "errors", "files", "memory", "parsing", "progress", "terminal", "unpickle", "words"}
}
"""Rooms that may use less than everything below them."""

SOURCES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE) + [
    path.relative_to(PACKAGE) for path in sorted(PACKAGE.glob("*.py")) if path.name != "__init__.py"
]


def violations(path: Path, source: str) -> list[str]:
    """List what a file (path inside the package) imports against the picture."""
    room = path.parts[0].removesuffix(".py")
    package = ".".join(["atomslim", *path.parent.parts])
    found = []
    for module in imported_modules(ast.parse(source), package):
        if module == "atomslim":
            found.append(f"{path}: imports the whole package: name the module it needs")
        elif module != "atomslim.__version__" and not allowed(room, room_of(module)):
            found.append(f"{path}: {room} may not import {module}")
    return found


def allowed(room: str, other: str) -> bool:
    """Say whether a room may import from another (or from itself)."""
    return other == room or (LINE[other] > LINE[room] and other in NARROWER.get(room, LINE) and other != "testing")


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_go_downwards(path: Path) -> None:
    assert violations(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("families/jmp/model.py", "from atomslim.compress import prune"),
        ("families/jmp/model.py", "def f():\n    import atomslim.inference.calculator"),
        ("families/jmp/model.py", "from ...inference.calculator import Calculator"),
        ("families/jmp/gemnet_oc/block.py", "from ....train import trainer"),
        ("benchmarking/costs.py", "from atomslim.train.trainer import train"),
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


# -- families


FAMILIES = {"jmp", "gemnet", "sevennet", "sevenn", "chgnet", "mace", "orb", "orb_models"}
"""Families that there are or that may come, their backbones and packages."""

NEUTRAL = [path for path in (*SOURCES, Path("__init__.py")) if path.parts[0] != "families"]


def families_named(source: str) -> set[str]:
    """List the families that a source imports, calls something after, or has as a string of its own; prose may."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        words = [getattr(node, field, None) for field in ("id", "attr", "name", "arg", "module", "asname", "value")]
        for word in words:
            if isinstance(word, str) and not re.search(r"\s", word):
                found |= set(re.split(r"[\W_]+", word.lower())) & FAMILIES
                found |= {long for long in FAMILIES if len(long) > 4 and long in word.lower()}
    return found


@pytest.mark.parametrize("path", NEUTRAL, ids=str)
def test_no_room_but_families_names_a_family(path: Path) -> None:
    assert families_named((PACKAGE / path).read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "source",
    [
        "from atomslim.families.jmp import JMP",
        "import sevenn",
        "import chgnet.model as model",
        "def export_jmp(): pass",
        "isinstance(model, JMP)",
        "name = 'mace'",
        "load(jmp=1)",
        "GemNetOCConfig()",
    ],
)
def test_a_family_that_is_named_is_found(source: str) -> None:
    assert families_named(source)


def test_the_picture_is_in_step() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == drawn(text), "a room moved to another layer: undo that, or draw the picture anew (tests/house.py)"


def test_the_picture_shows_every_room_in_its_layer() -> None:
    shown = {
        room: int(layer) for layer, room in re.findall(r"^    ([ \d]\d)  (\w+) ", PAGE.read_text("utf-8"), re.MULTILINE)
    }
    assert shown == {room: max(LINE.values()) + 1 - depth for room, depth in LINE.items()}
    assert shown["cli"] > shown["train"] > shown["compress"] > shown["models"] > shown["atoms"] > shown["errors"]


def test_every_file_of_train_has_its_layer() -> None:
    line = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("- `train`"))
    files = {path.stem for path in SOURCES if path.parts[0] == "train" and path.name != "__init__.py"}
    assert set(re.findall(r"`(\w+)`", line)) - {"train"} == files


# -- circles


def uses(path: Path, source: str) -> set[str]:
    """List the modules that a file imports, inside functions too; what only annotations name does not count."""
    package = ".".join(["atomslim", *path.parent.parts])
    names = set(imported_modules(without_annotations(source), package))
    return names | {name.rpartition(".")[0] for name in names}


def circles(modules: dict[str, set[str]]) -> set[str]:
    """Return the modules that come back to themselves by way of others, and those between two such circles."""
    left = {name: (found & modules.keys()) - {name} for name, found in modules.items()}
    while True:
        used = set().union(*left.values())
        inside = {name: found & left.keys() for name, found in left.items() if found & left.keys() and name in used}
        if inside == left:
            return set(left)
        left = inside


def test_no_circles_outside_families() -> None:
    dotted = {
        path: ".".join(["atomslim", *path.with_suffix("").parts]) for path in SOURCES if path.name != "__init__.py"
    }
    modules = {
        name: uses(path, (PACKAGE / path).read_text(encoding="utf-8"))
        for path, name in dotted.items()
        if path.parts[0] != "families"  # there, the object that stands for a family and its models name one another
    }
    assert circles(modules) == set()


def test_a_circle_is_found() -> None:
    figure = uses(Path("report/figure.py"), "from atomslim.report.page import Page")
    page = uses(Path("report/page.py"), "def draw():\n    from atomslim.report import figure")
    assert circles({"atomslim.report.figure": figure, "atomslim.report.page": page, "atomslim.files": set()})


# -- sizes


def test_no_file_is_longer_than_400_lines() -> None:
    files = [*PACKAGE.rglob("*.py"), *PAGE.parent.glob("tests/**/*.py"), *PAGE.parent.glob("benchmarks/*.py")]
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


# -- what comes along


FILES = {
    ".".join(["atomslim", *path.with_suffix("").parts]).removesuffix(".__init__"): PACKAGE / path for path in SOURCES
}


def loaded_by(module: str) -> set[str]:
    """List the modules of the package that an import of one loads; those that functions import do not count."""
    loaded: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in FILES or name in loaded:
            continue
        loaded.add(name)
        found = uses(FILES[name].relative_to(PACKAGE), without_functions(FILES[name]))
        waiting += [*found, name.rpartition(".")[0]]
    return loaded


def without_functions(path: Path) -> str:
    """Return a source whose functions do nothing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Pass()]
    return ast.unparse(tree)


@pytest.mark.parametrize(
    ("module", "most", "without"),
    [
        ("compress.prune", 32, {"data", "evaluation", "inference", "train"}),
        ("train.distill", 98, {"benchmarking", "families", "labelling", "validation"}),
    ],
)
def test_what_is_not_needed_is_not_loaded(module: str, most: int, without: set[str]) -> None:
    loaded = loaded_by(f"atomslim.{module}")
    assert not {room for name in loaded for room in name.split(".")[1:2]} & without
    assert len(loaded) <= most
