import ast
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

import atomslim

TIME_LIMIT = 3.0
"""Seconds for a fresh interpreter on a busy machine; a quiet one takes a small part of it."""

PROBE = """
import sys
{statement}
print("imported:", *({{"torch", "ase", "lightning", "matplotlib", "scipy"}} & sys.modules.keys()))
"""

STATEMENTS = {
    "package": "import atomslim",
    "version": "import atomslim; atomslim.__version__; dir(atomslim)",
    "help": "from atomslim.cli.main import main; main(['--help'])",
    "help of a command": "from atomslim.cli.main import main; main(['predict', '--help'])",
}


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_is_quick_and_imports_nothing_heavy(statement: str) -> None:
    start = time.perf_counter()
    output = subprocess.check_output([sys.executable, "-c", PROBE.format(statement=statement)], text=True)
    assert time.perf_counter() - start < TIME_LIMIT
    assert output.splitlines()[-1].strip() == "imported:"


@pytest.mark.parametrize("name", atomslim.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(atomslim, name)
    assert name in dir(atomslim)
    assert name == "__version__" or value is getattr(import_module(atomslim._HOMES[name]), name)


def test_type_checkers_and_users_see_the_same_names() -> None:
    tree = ast.parse(Path(atomslim.__file__).read_text())
    for_type_checkers = {
        alias.name: statement.module
        for block in tree.body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert for_type_checkers == atomslim._HOMES
    assert sorted([*for_type_checkers, "__version__"]) == sorted(atomslim.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'loda'"):
        atomslim.loda  # noqa: B018 - the access is what is tested
