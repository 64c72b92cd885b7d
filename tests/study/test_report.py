import json
import re
from pathlib import Path
from typing import Any

import pytest

from atomslim.study.cells import Cell, cells_of
from atomslim.study.options import StudyOptions
from atomslim.study.report import summary, write_report
from atomslim.study.results import Results, Spread, Variant
from atomslim.study.runner import Board

OPTIONS = StudyOptions.model_validate(
    {
        "title": "Water <& crystals>",
        "model": "full.safetensors",
        "mix": [{"name": "a", "data": "xyz:a.xyz"}, {"name": "b", "data": "xyz:b.xyz"}],
        "blocks": [2, 1],
        "seeds": [0, 1],
        "distill": {"steps": 2},
        "downstream": [{"name": "water", "data": "xyz:b.xyz", "finetune": {"steps": 1}}],
    }
)

MAE = {"full": 0.010, "sliced": 0.050, "random": 0.090, "least-squares": 0.030, "distilled": 0.020}
"""eV/Å with two blocks; twice that with one."""


def errors(cell: Cell) -> dict[str, Any]:
    value = MAE[cell.strategy] * (1 if cell.blocks != 1 else 2) + 0.002 * cell.seed
    return {task: {"forces": {"mae": value, "rmse": value, "count": 3, "unit": "eV/Å"}} for task in ("a", "b")}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A study in which everything is done but one cell, which failed."""
    board = Board(tmp_path, cells_of(OPTIONS))
    (tmp_path / "versions.json").write_text('{"torch": "2"}')
    for cell in board.cells:
        place = board.place(cell)
        place.mkdir(parents=True)
        if cell.name == "tune-water-random-1-seed1":
            (place / "error.txt").write_text("b.xyz: record 3: no energy\n\nTraceback")
        elif cell.kind in {"reduce", "distill"}:
            found = {"errors": errors(cell), "parameters": 1_000_000 * (cell.blocks or 3)}
            (place / "result.json").write_text(json.dumps(found))
        elif cell.kind == "tune":
            tuned(place / "run", 0.1 * (cell.blocks or 3))
            (place / "result.json").write_text(json.dumps({"run": str((place / "run").relative_to(tmp_path))}))
    return Results(board, OPTIONS)


def tuned(run: Path, mae: float) -> None:
    run.mkdir()
    row = {"task": "water", "target": "forces", "after": {"mae": 1.0}, "test": {"mae": mae}}
    (run / "summary.json").write_text(json.dumps({"rows": [row]}))
    (run / "metrics.csv").write_text(f"step,seconds,water/forces/mae\n0,0.0,1.0\n1,2.5,\n2,5.0,{mae}\n")


def test_errors_are_means_over_seeds_in_milli_units(results: Results) -> None:
    sliced = results.reduced(Variant("sliced", 2), "a")
    assert sliced is not None
    assert sliced.mean == pytest.approx(50.0)
    assert (sliced.deviation, sliced.count) == (None, 1)
    distilled = results.reduced(Variant("distilled", 2), "a")
    assert distilled is not None
    assert distilled.mean == pytest.approx(21.0)
    assert distilled.deviation == pytest.approx(2**0.5)
    assert str(Spread(21.04, 1.414, 2)) == "21 ± 1.4"
    assert results.reduced(Variant("sliced", 2), "unknown") is None


def test_what_is_won_back_is_a_share_of_what_slicing_lost(results: Results) -> None:
    assert results.recovered(Variant("least-squares", 2), "a") == pytest.approx(0.5)
    assert results.recovered(Variant("sliced", 2), "a") == pytest.approx(0.0)
    assert results.recovered(Variant("random", 2), "a") == pytest.approx(-41 / 40)


def test_fine_tuned_errors_and_curves_come_from_the_runs(results: Results) -> None:
    part = OPTIONS.downstream[0]
    found = results.tuned(part, Variant("distilled", 2))
    assert found is not None
    assert found.mean == pytest.approx(200.0)
    assert found.count == 2
    curve = results.curves(part)[0]
    assert (curve.variant, curve.seconds, curve.errors) == (
        Variant("full", None),
        [0.0, 5.0],
        [1000.0, pytest.approx(300.0)],
    )


def test_the_report_stands_alone_and_names_what_failed(results: Results) -> None:
    path = write_report(results, results.board.folder)
    page = path.read_text()
    assert "Water &lt;&amp; crystals&gt;" in page
    assert "b.xyz: record 3: no energy" in page
    assert "2 blocks, least-squares" in page
    assert page.count("<svg") == 3
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith("#") for link in links)  # matplotlib's own marks inside the figures
    assert "@import" not in page
    assert "| 2 blocks, sliced |" in (results.board.folder / "report.md").read_text()


def test_the_summary_says_what_was_cut_and_what_it_cost(results: Results) -> None:
    text = " ".join(summary(results))
    assert "With 2 blocks the model has 67% of its parameters" in text
    assert "least-squares 3.00 ×" in text


def test_an_unfinished_study_has_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "versions.json").write_text("{}")
    path = write_report(Results(Board(tmp_path, cells_of(OPTIONS)), OPTIONS), tmp_path)
    assert "0 of" in path.read_text()
