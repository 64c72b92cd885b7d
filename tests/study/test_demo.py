"""The demo: the embedded model through the whole story, with a few steps in place of its budgets."""

from pathlib import Path
from typing import Any

import pytest

from atomslim import compare, load
from atomslim.study.demo import compared, demo_options
from atomslim.study.options import StudyOptions
from atomslim.study.study import run_study


def _quick(options: StudyOptions) -> StudyOptions:
    values: dict[str, Any] = options.model_dump(mode="json")
    few = {"steps": 1, "batch_cost": None, "batch_size": 2, "validate_every": "1 steps"}
    values["distill"] |= few
    values["downstream"][0]["finetune"] |= few
    values["downstream"][0]["strategies"] = ["full", "least-squares-distilled"]
    for task in values["mix"]:
        task["split"] = {"train": 4, "validation": 2, "test": 1}
    values["downstream"][0]["finetune"]["split"] = {"train": 4, "validation": 2, "test": 2}
    return StudyOptions.model_validate(values | {"calibration": 2, "relevance": 1, "speed": None})


@pytest.mark.slow
def test_the_demo_runs_from_relevance_to_comparison(tmp_path: Path) -> None:
    results = run_study(_quick(demo_options()), tmp_path, say=lambda _: None)
    assert set(results.board.states().values()) == {"done"}
    models, data, split = compared(results)
    assert list(models) == ["full", "4 distilled"]
    report = compare({name: load(path) for name, path in models.items()}, data, split=split, speed=False)
    assert [model.blocks for model in report.models] == [6, 4]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text.replace("http://www.w3.org", "")
