"""The configurations that ship with the repository are valid, and their models are as large as they say."""

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from atomslim.models import JMP, Task
from atomslim.models.tasks import Target
from atomslim.study.options import StudyOptions, read_study
from atomslim.train.distill import DistillOptions
from atomslim.train.finetune import FinetuneOptions
from atomslim.train.options import RunOptions, TaskOptions, validated
from atomslim.train.pretrain import PretrainOptions

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("studies/**/*.yaml"))
OPTIONS: dict[str, type[RunOptions]] = {
    "pretrain": PretrainOptions,
    "finetune": FinetuneOptions,
    "distill": DistillOptions,
}


def header(path: Path) -> list[str]:
    """Return the lines of the comment that a file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]


def commands(path: Path) -> dict[str, str]:
    """Return the files of options that a header names, each with the subcommand that it is for."""
    found = [re.match(r"atomslim (\w+) .*?(studies/\S+\.yaml) ", line) for line in header(path)]
    return {match[2]: match[1] for match in found if match}


def command(path: Path) -> str:
    """Return the subcommand that a file is for: its header shows how to run it."""
    name = path.relative_to(ROOT).as_posix()
    assert name in commands(path), f"{name}: no line like `atomslim pretrain {name} -o FOLDER` in the header"
    return commands(path)[name]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def target(name: str, kind: str) -> Target:
    return Target.model_validate({"name": name, "kind": kind})


def task(options: TaskOptions) -> Task:
    return Task(name=options.name, targets=tuple(target(name, one.kind) for name, one in options.targets.items()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_are_valid_and_the_model_is_as_large_as_the_header_says(path: Path) -> None:
    kind = command(path)
    if kind == "study":
        study = read_study(path)
        assert_tasks_of_its_model(study, path)
        validated(DistillOptions, study.distill or {"steps": 1})
        for downstream in study.downstream:
            validated(FinetuneOptions, downstream.finetune)
        return
    options = validated(OPTIONS[kind], read(path))
    if isinstance(options, PretrainOptions) and options.sizes is not None:
        assert parameters(options) == pytest.approx(stated_parameters(path), rel=0.1)


def assert_tasks_of_its_model(study: StudyOptions, path: Path) -> None:
    """Require the tasks of a study to be those of the pre-training that its header names."""
    for name, kind in commands(path).items():
        if kind == "pretrain":
            tasks = validated(PretrainOptions, read(ROOT / name)).tasks
            named = [(task.name, task.data, task.validation_data, task.split) for task in study.mix]
            assert named == [(task.name, task.data, task.validation_data, task.split) for task in tasks]


def parameters(options: PretrainOptions) -> int:
    tasks = [task(one) for one in options.tasks]
    assert options.sizes is not None
    sizes = options.sizes.model_copy(update={"direct_forces": any(one.direct for one in tasks)})
    with torch.device("meta"):
        return sum(weight.numel() for weight in JMP(sizes, tasks).parameters())


def stated_parameters(path: Path) -> float:
    found = re.search(r"([\d.]+) M parameters", " ".join(header(path)))
    assert found, f"{path}: the header does not say how many parameters the model has: about 1.2 M parameters, say"
    return float(found[1]) * 1e6


def test_there_are_studies() -> None:
    assert FILES
