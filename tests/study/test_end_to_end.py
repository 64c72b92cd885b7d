"""A whole study on water and a tiny model: every kind of cell does real work."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ase.io import write

import atomslim
from atomslim.study.options import DISTILLED, StudyOptions
from atomslim.study.report import all_tables
from atomslim.study.results import FULL_MODEL, Results, Variant
from atomslim.study.study import run_study
from samples import DIRECT
from small_models import jmp
from train.water import waters

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*different reference energies")]

STRATEGIES = ["full", "sliced", "random", "distilled"]
SPLIT = {"train": 8, "validation": 4}


def downstream(data: str, **changes: Any) -> dict[str, Any]:
    run = {"budget": "0.2s", "batch_size": 4, "validate_every": "50%", "split": SPLIT, "cutoff": 4.0}
    return {"name": "other", "data": f"xyz:{data}", "strategies": STRATEGIES, "finetune": run | changes}


def toy(folder: Path, **changes: Any) -> StudyOptions:
    """A study of a two-block model on water; its files are in ``folder``."""
    for seed, name in enumerate(("water", "other")):
        write(folder / f"{name}.xyz", [sample.to_ase() for sample in waters(16, seed=seed)])
    write(folder / "few.xyz", [sample.to_ase() for sample in waters(8, seed=1)])  # a validation takes no more
    atomslim.save(jmp(DIRECT, sum_scale=1.0).float(), folder / "full.safetensors")
    options = {
        "model": str(folder / "full.safetensors"),
        "mix": [{"name": "direct", "data": f"xyz:{folder / 'water.xyz'}", "split": SPLIT}],
        "blocks": [1],
        "calibration": 8,
        "relevance": 4,
        "distill": {"start": ["sliced", "least-squares"], "steps": 1, "batch_size": 4, "validate_every": "100%"},
        "speed": {"structures": "aspirin", "repeats": 1},
        "validate_physics": {"checks": ["locality"], "structures": [str(folder / "few.xyz")]},
        "downstream": [downstream(str(folder / "other.xyz"))],
    }
    return StudyOptions.model_validate(options | changes)


def quiet(_text: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("study")
    return run_study(toy(folder), folder / "study", say=quiet)


def test_every_kind_of_cell_is_done_and_reported(study: Results) -> None:
    assert {cell.name: study.board.error(cell) for cell, state in study.board.states().items() if state != "done"} == {}
    titles = [table.title for table in all_tables(study)]
    assert titles[:3] == [
        "Pruning and distillation, on the pre-training tasks",
        "Error against speed",
        "The cost of a cut, and the fraction recovered",
    ]
    assert titles[4:] == ["Fine-tuned under equal budgets", "Where it stops being physical", "Efficiency"]
    physics = all_tables(study)[5]
    assert physics.columns == ("variant", "force error, × full", "locality")
    assert [(row[0], row[-1]) for row in physics.rows[:2]] == [("full", "passed"), ("1 block, sliced", "passed")]
    assert len(physics.rows) == len(study.variants)
    page = (study.board.folder / "report.html").read_text()
    assert page.count("<svg") == 3  # of one cut each, the figures against cuts are left out
    assert '<canvas class="structure"' in page
    assert "H2O, 3 atoms: a validation structure of direct" in page


def test_all_strategies_have_numbers(study: Results) -> None:
    for variant in study.variants:
        assert study.reduced(variant, "direct") is not None, variant
    part = study.options.downstream[0]
    assert study.unit(part) == "meV/Å"
    for variant in study.tuned_variants(part):
        assert study.tuned(part, variant) is not None, variant
    assert [curve.variant for curve in study.curves(part)] == study.tuned_variants(part)
    assert all(curve.used[-1] >= 0.2 for curve in study.curves(part))  # the same budget for all


def test_students_start_where_they_should(study: Results) -> None:
    """The student's first validation is that of the cut it starts from."""
    for cut_first, strategy in DISTILLED.items():
        if strategy not in {cell.strategy for cell in study.board.cells}:
            continue
        cut = study.reduced(Variant(cut_first, 1), "direct")
        cell = next(cell for cell in study.board.cells if cell.kind == "distill" and cell.strategy == strategy)
        summary = json.loads((study.board.folder_of(cell) / "run" / "summary.json").read_text())
        before = next(row["before"]["mae"] for row in summary["rows"] if row["target"] == "forces")
        assert cut is not None
        assert 1000 * before == pytest.approx(cut.mean, rel=1e-4)


def test_efficiency_has_a_row_for_each_model(study: Results) -> None:
    assert study.speed is not None
    assert list(study.speed["models"]) == ["2", "1"]
    assert set(study.speed_up) == {2, 1}
    assert study.blocks == 2
    assert study.speed["models"]["1"]["flops"] < study.speed["models"]["2"]["flops"]


def test_a_run_that_was_finished_but_not_noted_is_not_done_again(study: Results) -> None:
    cell = next(cell for cell in study.board.cells if cell.kind == "tune" and cell.strategy == "sliced")
    before = study.board.result(cell)
    (study.board.folder_of(cell) / "result.json").unlink()
    again = run_study(study.options, study.board.folder, say=quiet).board.result(cell)
    assert before is not None
    assert again is not None
    assert {**again, "seconds": 0} == {**before, "seconds": 0}


def work_until_killed(options: StudyOptions, folder: Path) -> None:
    run_study(options, folder, say=quiet)


def test_a_killed_study_repeats_no_finished_cell_and_goes_on_within_a_run(tmp_path: Path) -> None:
    long = downstream(str(tmp_path / "other.xyz"), budget=None, steps=40, checkpoint_every="1 steps", log_every=1)
    quick = {"relevance": 0, "speed": None, "realign": ["sliced"], "distill": None}
    options = toy(tmp_path, **quick, downstream=[long | {"strategies": ["full"]}])
    worker = multiprocessing.get_context("fork").Process(target=work_until_killed, args=(options, tmp_path / "study"))
    worker.start()
    run = tmp_path / "study/cells/tune-other-full-seed0/run"
    wait_for(lambda: (run / "metrics.csv").is_file() and len((run / "metrics.csv").read_text().split("\n")) > 6)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study/cells").glob("*/result.json")}
    assert len(before) == 2  # the full model's and the sliced one's errors
    assert not (run / "summary.json").is_file()
    first = (run / "metrics.jsonl").read_text().splitlines()[:3]
    results = run_study(options, tmp_path / "study", say=quiet)
    assert set(results.board.states().values()) == {"done"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (run / "metrics.jsonl").read_text().splitlines()[:3] == first  # with their times: it did not begin anew
    assert json.loads((run / "summary.json").read_text())["steps"] == 40


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.02)


def test_a_failing_cell_stops_no_other_and_is_listed_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.xyz").write_text("1\n\nH 0 0 0\n")
    bad = downstream(str(tmp_path / "bad.xyz")) | {"strategies": ["full"]}
    quick = {"relevance": 0, "speed": None, "realign": ["sliced"], "distill": None, "validate_physics": None}
    results = run_study(toy(tmp_path, **quick, downstream=[bad]), tmp_path / "study", say=quiet)
    states = {cell.name: state for cell, state in results.board.states().items()}
    assert states == {"reduce-full": "done", "reduce-sliced-1": "done", "tune-other-full-seed0": "failed"}
    assert results.reduced(FULL_MODEL, "direct") is not None
    listed = (tmp_path / "study/report.md").read_text().partition("### Cells without a result")[2]
    assert "| tune-other-full-seed0 | failed |" in listed
    assert "bad.xyz" in listed
