"""The configurations that ship with the repository are valid, and their models are as large as they say."""

import re
import subprocess
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from atomslim.data.container import SUFFIX
from atomslim.data.registry import resolve
from atomslim.errors import ConfigError
from atomslim.families.jmp import FAMILY, JMP, JMPConfig, JMPGraphSettings, jmp_l
from atomslim.families.jmp.checkpoint import PRETRAINING_TASKS
from atomslim.models import Task
from atomslim.models.tasks import Target
from atomslim.slimming.options import SlimOptions
from atomslim.study import paper
from atomslim.study.cells import cells_of
from atomslim.study.options import StudyOptions, read_study
from atomslim.train.distill import DistillOptions
from atomslim.train.finetune import FinetuneOptions
from atomslim.train.options import OptimiserOptions, RunOptions, TaskOptions, validated
from atomslim.train.pretrain import PretrainOptions

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "studies/paper/jmp-l.yaml"
FILES = sorted(ROOT.glob("studies/**/*.yaml"))
OPTIONS: dict[str, type[RunOptions | SlimOptions]] = {
    "pretrain": PretrainOptions,
    "finetune": FinetuneOptions,
    "distill": DistillOptions,
    "slim": SlimOptions,
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
    return Task(
        graph=JMPGraphSettings(),
        name=options.name,
        targets=tuple(target(name, one.kind) for name, one in options.targets.items()),
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_are_valid_and_the_model_is_as_large_as_the_header_says(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOMSLIM_TEST_DATA", "data")
    monkeypatch.setenv("MPTRJ", "mptrj.xyz")
    kind = command(path)
    if kind == "study":
        study = read_study(path)
        assert_tasks_of_its_model(study, path)
        assert_datasets_are_known(study)
        return
    options = validated(OPTIONS[kind], read(path))
    if isinstance(options, SlimOptions):
        assert all((ROOT / name).is_file() for name in options.structures)
    if isinstance(options, PretrainOptions) and options.sizes is not None:
        assert parameters(options) == pytest.approx(stated_parameters(path), rel=0.1)


def assert_tasks_of_its_model(study: StudyOptions, path: Path) -> None:
    """Require the tasks of a study to be those of the pre-training that its header names."""
    for name, kind in commands(path).items():
        if kind == "pretrain":
            tasks = validated(PretrainOptions, read(ROOT / name)).tasks
            named = [(task.name, task.data, task.validation_data, task.split) for task in study.mix]
            assert named == [(task.name, task.data, task.validation_data, task.split) for task in tasks]


def assert_datasets_are_known(study: StudyOptions) -> None:
    """Require names that registered datasets and variants have; their files need not be here."""
    for options in study.mix:
        for name in filter(None, (options.data, options.validation_data, options.test_data)):
            require_known(name, options.options)
    for part in study.downstream:
        require_known(part.data, part.finetune.get("options", {}))


def require_known(name: str, options: dict[str, str]) -> None:
    if not name.endswith(SUFFIX):  # a container, which is there or not
        resolve(name, options=options)


def parameters(options: PretrainOptions) -> int:
    tasks = [task(one) for one in options.tasks]
    assert isinstance(options.sizes, JMPConfig)
    sizes = options.sizes.model_copy(update={"direct_forces": any(one.direct for one in tasks)})
    with torch.device("meta"):
        return sum(weight.numel() for weight in JMP(sizes, tasks).parameters())


def stated_parameters(path: Path) -> float:
    found = re.search(r"([\d.]+) M parameters", " ".join(header(path)))
    assert found, f"{path}: the header does not say how many parameters the model has: about 1.2 M parameters, say"
    return float(found[1]) * 1e6


def test_there_are_studies() -> None:
    assert FILES


def test_the_script_of_the_real_models_names_studies_that_are_there() -> None:
    script = ROOT / "studies/gpu.sh"
    subprocess.run(["/bin/sh", "-n", str(script)], check=True)
    families = re.findall(r"^study (\w+) \w+:\S+$", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert families == ["sevennet", "chgnet"]
    for family in families:
        for name in ("one-material", "universal"):
            assert read_study(ROOT / f"studies/{family}/{name}.yaml").seeds == (0, 1, 2)


def test_the_script_for_one_core_names_files_that_are_there() -> None:
    script = ROOT / "studies/cpu.sh"
    subprocess.run(["/bin/sh", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    assert all((ROOT / "studies" / name).is_file() for name in re.findall(r"\$here/(\w+\.py)", text))
    for family in re.findall(r"^(\w+)\) model=", text, re.MULTILINE):
        for name in re.findall(r"\$here/\$family/(\S+\.yaml)", text):
            assert read_study(ROOT / "studies" / family / name).seeds == (0,)


def test_an_unknown_variant_would_be_found() -> None:
    study = read_study(PAPER)
    wrong = study.mix[0].model_copy(update={"data": "oc20:21M"})
    with pytest.raises(ConfigError, match="oc20"):
        assert_datasets_are_known(study.model_copy(update={"mix": (wrong,)}))


def test_the_papers_study_is_the_papers() -> None:
    """Its grid, targets and budgets, and the scales of the original's tasks (arXiv 2504.19538, 2310.16802)."""
    study = read_study(PAPER)
    assert study.blocks == (5, 4, 3, 2)
    assert {task.name: scales(task) for task in study.mix} == {task.name: scales(task) for task in PRETRAINING_TASKS}
    weights = {task.name: task.targets["forces"].weight for task in study.mix}
    assert weights == {"oc20": 73, "oc22": 80, "ani1x": 15, "transition1x": 14}
    assert [part.data for part in study.downstream] == [
        "rmd17:aspirin",
        "qm9:U0",
        "spice:solvated_amino_acids",
        "md22:Ac-Ala3-NHMe",
        "qmof",
    ]
    assert all(part.strategies == ("full", "sliced", "random", "distilled") for part in study.downstream)
    assert [str(part.finetune["budget"]) for part in study.downstream] == ["1 day", "2 days", *["1 day"] * 3]
    assert len([cell for cell in cells_of(study) if cell.kind == "tune"]) == 5 * (1 + 3 * 4)
    for part in study.downstream:
        options = validated(FinetuneOptions, part.finetune)
        assert options.optimiser.model_copy(update={"rates": None}) == OptimiserOptions()  # the recipe's
        assert options.optimiser.rates == dict(FAMILY.rates)
        assert str(options.schedule.cosine) == "32 epochs"
    assert study.distill is not None
    distillation = validated(DistillOptions, study.distill.run)
    assert distillation.temperature == 2
    assert distillation.batch_size * (distillation.steps or 0) < 0.015 * 120e6
    assert sorted(paper.LONG_RECIPE) == sorted(part.data for part in study.downstream)


def scales(task: TaskOptions | Task) -> dict[str, float | None]:
    if isinstance(task, Task):
        return {target.name: target.std for target in task.targets}
    return {name: target.std for name, target in task.targets.items()}


def test_the_papers_model_has_the_papers_parameters() -> None:
    """Fine-tuned on QMOF: one scalar head, no force branch."""
    gap = Task(graph=JMPGraphSettings(), name="qmof", targets=(target("band_gap", "scalar"),))
    for blocks, (_, _, millions) in paper.EFFICIENCY.items():
        with torch.device("meta"):
            model = JMP(jmp_l(num_blocks=blocks, direct_forces=False), [gap])
        assert sum(weight.numel() for weight in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
