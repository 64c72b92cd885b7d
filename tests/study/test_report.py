import json
import re
from pathlib import Path
from typing import Any

import pytest

from atomslim.benchmarking.turns import Gain
from atomslim.study import figures, paper, summary, tables
from atomslim.study.cells import Cell, cells_of
from atomslim.study.options import DistillationOptions, StudyOptions, ValidateOptions
from atomslim.study.report import write_report
from atomslim.study.results import Results, Spread, Variant
from atomslim.study.runner import Board

OPTIONS = StudyOptions.model_validate(
    {
        "title": "Water <& crystals>",
        "model": "full.safetensors",
        "mix": [{"name": "a", "data": "xyz:a.xyz"}, {"name": "b", "data": "xyz:b.xyz"}],
        "blocks": [2, 1],
        "seeds": [0, 1],
        "distill": {"steps": 2, "start": ["sliced", "least-squares"]},
        "downstream": [{"name": "water", "data": "xyz:b.xyz", "finetune": {"steps": 1}}],
    }
)

MAE = {
    "full": 0.010,
    "sliced": 0.050,
    "random": 0.090,
    "least-squares": 0.030,
    "distilled": 0.020,
    "least-squares-distilled": 0.015,
    "least-squares-forces": 0.025,
    "least-squares-forces-distilled": 0.012,
}
"""eV/Å with two blocks; twice that with one."""

FINER = OPTIONS.model_copy(
    update={
        "without": ("angles 1,angles 2",),
        "cutoffs": (4.5,),
        "realign": ("sliced", "least-squares-forces"),
        "downstream": (
            OPTIONS.downstream[0].model_copy(
                update={"strategies": ("full", "sliced", "least-squares-forces-distilled")}
            ),
        ),
        "distill": DistillationOptions.model_validate(
            {"start": "least-squares-forces", "structures": [10, 20], "steps": 2}
        ),
    }
)

SCORE = {"mean": [3.0, 4.0, 2.0, 1.0], "deviation": [0.1, 0.1, None, 0.1], "batches": 4}
RELEVANCE = {
    "blocks": [0, 1, 2, 3],
    "mix": {"gradcam": [0.3, 0.4, 0.2, 0.1]},
    "tasks": {"a": {"gradcam": {"node": SCORE, "edge": SCORE}}, "b": {"gradcam": {"node": SCORE}}},
}
SPEED = {
    "machine": "an abacus",
    "structure": "aspirin",
    "models": {
        str(blocks): {
            "structures per second": 6.0 / blocks,
            "flops": 2e9 * blocks,
            "parameters": 1_000_000 * blocks,
            "speed-up": Gain.of([3.0] * 5, [float(blocks)] * 5, 2.5 / blocks).as_dict(),
        }
        for blocks in (3, 2, 1)
    },
}


def errors(cell: Cell) -> dict[str, Any]:
    value = MAE[cell.strategy] * (1 if cell.blocks != 1 else 2) + 0.002 * cell.seed
    return {task: {"forces": {"mae": value, "rmse": value, "count": 3, "unit": "eV/Å"}} for task in ("a", "b")}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A study in which everything is done but one cell, which failed."""
    board = Board(tmp_path, cells_of(OPTIONS))
    (tmp_path / "versions.json").write_text('{"torch": "2"}')
    for cell in board.cells:
        cell_folder = board.folder_of(cell)
        cell_folder.mkdir(parents=True)
        if cell.name == "tune-water-random-1-seed1":
            (cell_folder / "error.txt").write_text("b.xyz: record 3: no energy\n\nTraceback")
        elif cell.kind in {"reduce", "distill"}:
            found = {"errors": errors(cell), "parameters": 1_000_000 * (cell.blocks or 3)}
            (cell_folder / "result.json").write_text(json.dumps(found))
        elif cell.kind == "tune":
            (cell_folder / "result.json").write_text(json.dumps(tuned(0.1 * (cell.blocks or 3))))
        elif cell.kind == "relevance":
            (cell_folder / "result.json").write_text(json.dumps(RELEVANCE))
        elif cell.kind == "speed":
            (cell_folder / "result.json").write_text(json.dumps(SPEED))
    return Results(board, OPTIONS)


def tuned(mae: float) -> dict[str, Any]:
    curve = [{"seconds": 0.0, "step": 0, "forces": 1.0}, {"seconds": 5.0, "step": 7, "forces": mae}]
    error = {"mae": mae, "unit": "eV/Å", "set": "test", "validation": mae, "mean": 0.5}
    return {"errors": {"forces": error}, "curve": curve, "steps": 7}


def test_errors_are_means_over_seeds_in_milli_units(results: Results) -> None:
    sliced = results.reduced(Variant("sliced", 2), "a")
    assert sliced is not None
    assert sliced.mean == pytest.approx(50.0)
    assert (sliced.deviation, sliced.count) == (None, 1)
    distilled = results.reduced(Variant("distilled", 2), "a")
    assert distilled is not None
    assert distilled.mean == pytest.approx(21.0)
    assert distilled.deviation == pytest.approx(2**0.5)
    assert str(Spread(21.04, 1.414, 2)) == "21.0 ± 1.4"
    assert str(Spread(1130.4, None, 1)) == "1,130"
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
    assert (curve.variant, curve.used, curve.errors) == (
        Variant("full", None),
        [0.0, 7.0],
        [1000.0, pytest.approx(300.0)],
    )


def test_a_budget_of_wall_clock_says_how_many_steps_it_was(results: Results) -> None:
    assert "Steps in" not in tables.downstream(results).note
    values = OPTIONS.model_dump(mode="json")
    values["downstream"][0]["finetune"] = {"budget": "12s"}
    timed = Results(results.board, StudyOptions.model_validate(values))
    assert "Steps in 12s on water: full 7 and 7; 2 blocks, sliced 7 and 7" in tables.downstream(timed).note
    assert timed.curves(timed.options.downstream[0])[0].used == [0.0, 5.0]


def test_no_forces_at_all_stand_below_the_variants(results: Results) -> None:
    assert "no forces at all" not in [row[0] for row in tables.pretraining(results).rows]
    cell_folder = results.board.folder_of(Cell("reduce")) / "result.json"
    nothing = {"forces": {"mae": 0.7, "rmse": 1.0, "count": 3, "unit": "eV/Å"}}
    cell_folder.write_text(json.dumps(json.loads(cell_folder.read_text()) | {"mean": {"a": nothing, "b": nothing}}))
    assert tables.pretraining(results).rows[-1] == ("no forces at all", "", "700", "700")
    shares = tables.shares(results)
    assert shares is not None
    assert shares.rows[0] == ("2 blocks, sliced", str(results.speed_up[2]), "5.00", "5.00")


def test_nothing_is_learned_where_the_mean_is_as_good(results: Results) -> None:
    part, board = OPTIONS.downstream[0], results.board
    assert results.mean_baseline(part) == pytest.approx(500.0)
    assert ("predicting the mean, validation", "500") in tables.downstream(results).rows
    assert not any("Nothing was learned" in text for text in summary.sentences(results))
    for cell in board.cells:
        if cell.kind == "tune":
            (board.folder_of(cell) / "result.json").write_text(json.dumps(tuned(0.495)))
    said = [text for text in summary.sentences(Results(board, OPTIONS)) if "Nothing was learned" in text]
    assert len(said) == 1
    assert said[0].startswith("Fine-tuned on water")
    assert "predicting the mean errs 500" in said[0]


def test_the_report_stands_alone_and_names_what_failed(results: Results) -> None:
    path = write_report(results, results.board.folder)
    page = path.read_text()
    assert "Water &lt;&amp; crystals&gt;" in page
    assert "b.xyz: record 3: no energy" in page
    assert "2 blocks, least squares" in page
    assert page.count("<svg") == 3 + 2 + 1 + 1  # relevance with the mix, two tasks, one dataset twice
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith("#") for link in links)  # matplotlib's own marks inside the figures
    assert "@import" not in page
    text = (results.board.folder / "report.md").read_text()
    assert "| 2 blocks, sliced |" in text
    shown = re.findall(r"!\[[^]]+\]\((figures/[^)]+)\)", text)
    assert "figures/relevance-the-mix.png" in shown
    assert "figures/pretraining-a.png" in shown
    assert "figures/downstream-water.png" in shown
    assert {file.relative_to(path.parent).as_posix() for file in path.parent.glob("figures/*")} == set(shown)


def test_the_summary_says_what_was_cut_and_what_it_cost(results: Results) -> None:
    text = " ".join(summary.sentences(results))
    assert "Two of three blocks keep 67 % of the weights and run 1.5 times as fast; force errors grow" in text
    assert "5 sliced, 3 least squares, 2.1 distilled" in text
    assert "forces err 300 in full, at best 200 with 2 blocks (sliced), at best 100 with 1 block" in text
    assert "Block 3 matters least (10 % of the relevance), block 1 most (40 %)." in text
    assert "1 failed" in text


def test_checks_of_physics_stand_beside_the_errors(results: Results) -> None:
    options = OPTIONS.model_copy(update={"validate_physics": ValidateOptions()})
    board = Board(results.board.folder, cells_of(options))
    said = {
        "validate-full": {"forces": "FAILED: error 0.5 (bar 0.005)", "cell": "measured"},
        "validate-sliced-2": {"forces": "FAILED: error 0.6 (bar 0.005)", "cell": "FAILED: a 0.2 (bar 0.01)"},
        "validate-distilled-1-seed0": {"forces": "FAILED: error 0.5 (bar 0.005)", "cell": "passed"},
    }
    assert {"validate-random-2-seed0", "validate-least-squares-1", *said} <= {cell.name for cell in board.cells}
    assert tables.physics(Results(board, options)) is None
    for name, outcomes in said.items():
        (board.folder / "cells" / name).mkdir()
        (board.folder / "cells" / name / "result.json").write_text(json.dumps({"outcomes": outcomes}))
    table = tables.physics(Results(board, options))
    assert table is not None
    assert table.rows[0] == ("full", "1.00", "FAILED: error 0.5 (bar 0.005)", "measured")
    assert [row[0] for row in table.rows] == ["full", "2 blocks, sliced", "1 block, distilled"]
    text = " ".join(summary.sentences(Results(board, options)))
    assert "the full model fails forces. Cuts that fail more: 2 blocks, sliced (cell)." in text


def test_one_task_is_summarised_in_its_unit(results: Results) -> None:
    one = Results(results.board, OPTIONS.model_copy(update={"mix": OPTIONS.mix[:1]}))
    assert (
        "; forces err 10 → 50 meV/Å sliced, 30 least squares, 21 distilled, 16 distilled from least squares."
        in summary.sentences(one)[0]
    )


def test_an_unfinished_study_has_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "versions.json").write_text("{}")
    path = write_report(Results(Board(tmp_path, cells_of(OPTIONS)), OPTIONS), tmp_path)
    assert "0 of" in path.read_text()


def test_efficiency_is_measured_against_the_full_model(results: Results) -> None:
    table = tables.efficiency(results)
    assert table is not None
    assert table.rows[0] == ("3", "2.00", "1.00 ×", "6.00", "3.00")
    assert table.rows[2] == ("1", "6.00", "3.00 ×", "2.00", "1.00")


def test_a_busy_machine_is_said_with_what_flops_suggest(results: Results) -> None:
    cell_folder = results.board.folder_of(Cell("speed")) / "result.json"
    speed = json.loads(cell_folder.read_text())
    speed["models"]["1"]["speed-up"] = Gain.of([3.0, 30.0, 3.0, 45.0, 3.0], [1.0] * 5, 2.5).as_dict()
    cell_folder.write_text(json.dumps(speed))
    table = tables.efficiency(results)
    assert table is not None
    assert table.rows[2][2].startswith("unclear (±")
    (said,) = [text for text in summary.sentences(results) if text.startswith("One of three blocks")]
    assert "run maybe 2.5 times as fast, as FLOPs suggest (times differed by ±" in said
    assert "3" not in said.split("times as fast")[0].split("and")[-1]


def six_blocks(results: Results) -> Results:
    """The same for a model of six blocks, which the paper's numbers stand beside."""
    cell_folder = results.board.folder_of(Cell("relevance")) / "result.json"
    cell_folder.write_text(json.dumps(RELEVANCE | {"blocks": list(range(7))}))
    return results


def test_the_papers_numbers_stand_beside_those_of_six_blocks_only(results: Results) -> None:
    assert tables.growth(results).rows[0][2] == ""
    assert tables.growth(six_blocks(results)).rows[0][1:3] == ("5.00", "10.95")
    table = tables.efficiency(results)
    assert table is not None
    assert table.rows[1][5:] == ("38", "1.99", "0.59", "55.5")


def test_the_papers_growth_is_a_geometric_mean() -> None:
    assert paper.growth("distilled", 5) == pytest.approx((19.8 / 17 * 25.8 / 22.9 * 30.1 / 22.5 * 16 / 12.7) ** 0.25)
    assert paper.growth("full", None) == pytest.approx(1.0)
    assert paper.growth("random", 4) is None


def test_students_of_both_starts_have_rows_of_their_own(results: Results) -> None:
    rows = {row[0]: row for row in tables.pretraining(results).rows}
    assert rows["2 blocks, distilled"][2] == "21.0 ± 1.4"
    assert rows["2 blocks, distilled from least squares"][2] == "16.0 ± 1.4"


def test_convergence_shows_one_curve_for_each_number_of_blocks(results: Results) -> None:
    shown = figures.shown_curves(results.curves(OPTIONS.downstream[0]))
    assert [curve.variant for curve in shown] == [
        Variant("full", None),
        Variant("distilled", 2),
        Variant("distilled", 1),
    ]


def test_cuts_finer_than_blocks_stand_beside_them(tmp_path: Path) -> None:
    board = Board(tmp_path, cells_of(FINER))
    names = {cell.name for cell in board.cells}
    assert {
        "reduce-sliced-without-angles-1-angles-2",
        "reduce-least-squares-forces-2",
        "reduce-sliced-cutoff-4.5",
        "distill-least-squares-forces-distilled-without-angles-1-angles-2-seed1",
        "distill-cutoff-4.5-seed1",
        "distill-least-squares-forces-distilled-2-10-structures-seed1",
        "tune-water-least-squares-forces-distilled-without-angles-1-angles-2-seed0",
        "tune-water-sliced-cutoff-4.5-seed0",
    } < names
    needs = {cell.name: cell.needs for cell in board.cells}
    assert needs["tune-water-least-squares-forces-distilled-without-angles-1-angles-2-seed0"] in board.cells
    for cell in board.cells:
        board.folder_of(cell).mkdir(parents=True)
        found: dict[str, Any] = {"errors": errors(cell), "parameters": 1_500_000 if cell.without else 3_000_000}
        if cell.kind == "speed":
            row = SPEED["models"]["2"]  # type: ignore[index]
            found = {**SPEED, "finer": {"angles 1,angles 2": row, "4.5": row}}
        if cell.kind == "tune":
            found = tuned(0.1 if cell.without else 0.2)
        if cell.kind == "distill":
            best = 1 / (cell.structures or 100)
            found |= {"curve": [{"step": step, "a": best + last, "b": None} for step, last in ((0, 1.0), (2, 0.0))]}
            found |= {"nothing": {"a": 0.3}}
        if cell.kind == "relevance":
            mix = {"gradcam": [0.05, None], "leave-out": [0.3, 0.1]}
            found = {**RELEVANCE, "units": {"names": ["angles 1", "cutoff 4.5 Å"], "mix": mix}}
        (board.folder_of(cell) / "result.json").write_text(json.dumps(found))
    results = Results(board, FINER)
    rows = {row[0]: row for row in tables.pretraining(results).rows}
    assert rows["without angles 1,angles 2, least squares with forces"][1:] == ("1.50", "25.0", "25.0")
    assert rows["without angles 1,angles 2, distilled from least squares with forces"][2] == "13.0 ± 1.4"
    assert rows["cutoff 4.5 Å"][2] == "50.0"
    assert rows["cutoff 4.5 Å, distilled"][2] == "21.0 ± 1.4"
    fine_tuned = {row[0]: row[1] for row in tables.downstream(results).rows}
    assert fine_tuned["without angles 1,angles 2, sliced"].startswith("100")
    assert fine_tuned["cutoff 4.5 Å"].startswith("200")
    assert [curve.variant.cut for curve in figures.shown_curves(results.curves(FINER.downstream[0]))] == [
        (None, "", None),
        (2, "", None),
        (1, "", None),
        (None, "angles 1,angles 2", None),
        (None, "", 4.5),
    ]
    assert {row[0] for row in tables.efficiency(results).rows} >= {"without angles 1,angles 2", "cutoff 4.5 Å"}  # type: ignore[union-attr]
    assert results.learned(Variant("distilled", None, cutoff=4.5), "a").errors == pytest.approx([1010.0, 10.0])
    assert {count: one.mean for count, one in results.by_structures("a").items()} == pytest.approx(
        {10: 100.0, 20: 50.0}
    )
    assert results.no_forces("a") == pytest.approx(300.0)
    against = [panel.axes[0].get_xlabel() for panel in figures.learning(results)]
    assert against == ["steps of distillation", "training structures"]
    said = summary.sentences(results)
    assert any(text.startswith("Without angles 1,angles 2: 50 % of the weights and 1.5 times as fast") for text in said)
    assert any(
        "at best 100 without angles 1,angles 2 (sliced), at best 200 cutoff 4.5 Å (sliced)" in one for one in said
    )
    (panel, _) = figures.finer(results)
    assert [label.get_text() for label in panel.axes[0].get_xticklabels()] == [
        "without angles 1,angles 2",
        "cutoff 4.5 Å",
    ]
    write_report(results, tmp_path)
    units = tables.units(results)
    assert units is not None
    assert units.rows == (("angles 1", "0.050", "0.300"), ("cutoff 4.5 Å", "", "0.100"))
    page = (tmp_path / "report.html").read_text()
    assert "Force error of cuts by what they leave out" in page
    assert "Test error of cuts by what they leave out" in page
