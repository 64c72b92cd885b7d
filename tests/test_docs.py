"""The documentation is true: its Python runs, its command lines make sense, its site builds."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from ase.io import write

import atomslim
from atomslim.cli.main import app
from atomslim.data.known import names
from atomslim.families.jmp.checkpoint import PRETRAINING_TASKS
from atomslim.train.finetune import FinetuneOptions
from atomslim.train.options import RunOptions, validated
from atomslim.train.pretrain import PretrainOptions
from pages import ROOT, blocks, command_lines, run_python, without_drawing
from small_models import jmp
from train.water import waters

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_COMMANDS = [page for page in (*PAGES, ROOT / "README.md") if list(command_lines(page))]
YAML = [block for page in PAGES for block in blocks(page, "yaml")]
OPTIONS: dict[str, type[RunOptions]] = {"atomslim finetune": FinetuneOptions, "atomslim pretrain": PretrainOptions}

SLURM = {"--gpus-per-node", "--gpus-per-task", "--ntasks", "--ntasks-per-node", "--requeue", "--signal"}
"""Options of srun and sbatch, which stand beside ours on the page about clusters."""

NUMBER = re.compile(r"\**[±≤≥<>~+−-]?\s?\d[\d.,\u202f ]*(?:\s?(?:±|to|/|–)\s?[\d.,]+)*\s?(?:[×%]|[^\W\d]+\S*)?\**")
"""A cell of a table that is a number, perhaps with its spread and its unit."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a page takes for granted: a checkpoint of JMP, and labelled structures."""
    atomslim.export(jmp(*PRETRAINING_TASKS, num_blocks=5).float(), tmp_path / "jmp-l.pt")
    for seed, name in enumerate(("frames", "oc20", "ani1x", "aspirin")):
        write(tmp_path / f"{name}.xyz", [sample.to_ase() for sample in waters(12, seed=seed)])
    monkeypatch.chdir(tmp_path)
    without_drawing(monkeypatch)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*different reference energies")  # the models here are not trained
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python(page: Path, reader: Path) -> None:
    run_python(page, budget="steps=1")
    assert page.name != "story.md" or {"compare", "jmp-l-4.pt", "runs"} <= {path.name for path in reader.iterdir()}


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_command_lines(page: Path) -> None:
    for words in command_lines(page):
        app.parse_args(words, print_error=False, exit_on_error=False)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shown = [option for code in re.findall(r"`([^`\n]+)`", text) for option in re.findall(r"(?<!\S)--[a-z0-9-]+", code)]
    assert set(shown) <= all_options() | SLURM


@cache
def all_options() -> set[str]:
    commands = [app[name] for name in app if not name.startswith("-")]
    commands += [app["data"][name] for name in app["data"] if not name.startswith("-")]
    collections = [command.assemble_argument_collection() for command in commands if command.default_command]
    return {
        "--help",
        "--help-all",
        *(name for arguments in collections for argument in arguments for name in argument.names),
    }


@pytest.mark.parametrize("block", YAML)
def test_options_in_yaml(block: str) -> None:
    """A block of options begins with the command that it is for."""
    kind = OPTIONS[block.partition("\n")[0].removeprefix("# ")]
    validated(kind, yaml.safe_load(block))


def test_every_command_has_its_section() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## ([a-z]+)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    assert sections.keys() == {name for name in app if not name.startswith("-")}
    for name, section in sections.items():
        assert f"atomslim {name} " in section, f"{name} has no example"
    for name in app["data"]:
        assert name.startswith("-") or f"atomslim data {name} " in sections["data"]


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference/api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: atomslim\S*\.(\w+)$", text, flags=re.MULTILINE))
    assert set(atomslim.__all__) - {"__version__"} <= shown


def test_every_dataset_is_named() -> None:
    table = (DOCS / "data.md").read_text(encoding="utf-8").partition("## Datasets by name")[2].partition("## Splits")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == names()


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES]
    missing = [name for name in pages if f": {name}\n" not in text]
    assert not missing, f"name these pages in mkdocs.yml under nav: {missing}"


def test_no_formatter_broke_the_marks_of_files_that_pages_take_in() -> None:
    assert not [name_of(page) for page in PAGES if "--8 <" in page.read_text(encoding="utf-8")]


def test_every_benchmark_is_on_the_page() -> None:
    text = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert all(name_of(found) in text for found in (ROOT / "benchmarks" / "results").glob("*.md"))


def test_the_site_builds_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")):
        pytest.skip("needs mkdocs-material and mkdocstrings: pip install -c constraints.txt 'atomslim[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    elsewhere = r'(?:src=|<link[^>]+href=|url\()["\']?(?:https?:)?//[^"\'>)\s]+'
    for built in (*tmp_path.rglob("*.html"), *tmp_path.rglob("*.css")):
        assert not re.findall(elsewhere, built.read_text(encoding="utf-8")), f"{built.name} needs the network"


def tables(page: Path) -> Iterator[tuple[list[str], list[str], list[list[str]]]]:
    """Give the heads, the alignments and the rows of a page's tables."""
    for table in re.findall(r"(?:^\|.*\n?)+", page.read_text(encoding="utf-8"), re.MULTILINE):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
        head, alignment, *rows = [[cell.strip() for cell in line] for line in lines]
        yield head, alignment, rows


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name_of)
def test_tables_have_labels_and_numbers_stand_right(page: Path) -> None:
    for head, alignment, rows in tables(page):
        for column, label in enumerate(head):
            cells = [row[column] for row in rows if row[column]]
            assert label or not cells, f"{head}: column {column + 1} has no label"
            numbers = [cell for cell in cells if NUMBER.fullmatch(cell)]
            assert column == 0 or len(numbers) <= len(cells) / 2 or alignment[column].endswith(":"), f"{head}: {label}"
