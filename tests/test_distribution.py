"""What surrounds the code agrees with pyproject.toml: the recipe for conda, the citation, the workflows, the module."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import atomslim
from atomslim.models.card import MARK, write_card
from pages import ROOT
from samples import DIRECT, small_model

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
"""Names of packages that conda-forge calls otherwise."""


def test_condas_recipe_has_the_same_dependencies() -> None:
    text = (ROOT / "conda/meta.yaml").read_text(encoding="utf-8")
    run = text.partition("  run:\n")[2].partition("\n\n")[0]
    found = {line.strip(" -") for line in run.splitlines()} - {f"python {PROJECT['requires-python']}"}
    wanted = set()
    for line in PROJECT["dependencies"]:
        name, limits = re.fullmatch(r"([a-z-]+)(.*)", line).groups()  # type: ignore[union-attr]
        wanted.add(f"{CONDA.get(name, name)} {limits}")
    assert found == wanted
    assert f'version = "{PROJECT["version"]}"' in text


def test_the_citation_has_the_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_workflows_do_what_the_repository_does() -> None:
    steps = [
        step.get("run")
        for path in sorted((ROOT / ".github/workflows").glob("*.yml"))
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        for step in job["steps"]
    ]
    assert {".ci/run", "make docs"} <= set(steps)


def text_of(*names: str) -> str:
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


WORKFLOWS = [f".github/workflows/{name}.yml" for name in ("test", "docs")]


def test_targets_that_are_named_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    run = text_of(".ci/run", "CONTRIBUTING.md", *WORKFLOWS)
    named = set(re.findall(r"^(?:    |.*run: |)make ([a-z-]+)", run, re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z-]+)`", text_of("README.md", "CONTRIBUTING.md", "docs/index.md")))
    assert {"lint", "test", "test-mace", "test-orb", "dist", "docs"} <= named <= targets


def test_extras_and_files_that_are_named_are_there() -> None:
    extras = re.findall(r"\.\[([a-z,-]+)\]", text_of("Makefile", "Dockerfile", "CONTRIBUTING.md"))
    assert {extra for named in extras for extra in named.split(",")} <= set(PROJECT["optional-dependencies"])
    copied = re.findall(r"^COPY (.+) \S+$", text_of("Dockerfile"), re.MULTILINE)
    files = {name for line in copied for name in line.split()}
    assert files == {line.removeprefix("!") for line in text_of(".dockerignore").split() if line != "*"}
    files |= set(re.findall(r"cache-dependency-path: (\S+)", text_of(*WORKFLOWS)))
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_pythons_that_are_tested_are_those_that_are_promised() -> None:
    promised = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    job = yaml.safe_load(text_of(WORKFLOWS[0]))["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"
    others = re.findall(r"(?:python:|python-version: \"?)(3\.\d+)", text_of("Dockerfile", WORKFLOWS[1]))
    assert len(others) == 2
    assert set(others) <= set(promised)


def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["atomslim", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("atomslim", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == atomslim.__version__


def test_a_card_says_what_a_model_is_and_replaces_no_other_file(tmp_path: Path) -> None:
    model = atomslim.keep_blocks(small_model(DIRECT).float(), 1)
    path, card = tmp_path / "small.safetensors", tmp_path / "small.md"
    atomslim.save(model, path)
    write_card(model, path, ["forces: 12 meV/Å"])
    text = card.read_text(encoding="utf-8")
    assert text.startswith(MARK)
    for said in ("keep blocks", "forces: 12 meV/Å", 'Calculator("small.safetensors"', "SHA-256"):
        assert said in text
    card.write_text("mine", encoding="utf-8")
    write_card(model, path)
    assert card.read_text(encoding="utf-8") == "mine"
