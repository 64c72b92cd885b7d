import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from atomslim.errors import ConfigError, DataError
from atomslim.files import locked
from atomslim.study import study
from atomslim.study.cells import Cell, cells_of
from atomslim.study.options import StudyOptions, read_study
from atomslim.study.runner import Board, run_cells
from atomslim.study.study import begin, run_study

OPTIONS = StudyOptions.model_validate(
    {
        "model": "full.safetensors",
        "mix": [{"name": "a", "data": "xyz:a.xyz"}],
        "blocks": [2, 1],
        "seeds": [0, 1],
        "distill": {"steps": 2},
        "downstream": [
            {"name": "water", "data": "xyz:b.xyz", "strategies": ["full", "distilled"], "finetune": {"steps": 1}}
        ],
    }
)


def board(folder: Path) -> Board:
    return Board(folder, cells_of(OPTIONS))


def log(folder: Path, cell: Cell) -> None:
    with (folder / "log").open("a") as file:
        file.write(f"{cell.name}\n")


def done(folder: Path) -> list[str]:
    return (folder / "log").read_text().split()


class Working:
    """Notes which cells are done, in a file that all processes share."""

    def __init__(self, folder: Path, *, fails: str = "", seconds: float = 0.0) -> None:
        self.folder, self.fails, self.seconds = folder, fails, seconds

    def __call__(self, cell: Cell, place: Path) -> dict[str, Any]:
        assert place.is_dir()
        if cell.needs is not None:
            assert board(self.folder).result(cell.needs) is not None
        time.sleep(self.seconds)
        if self.fails and self.fails in cell.name:
            raise DataError("water.xyz: record 3: no energy")
        log(self.folder, cell)
        return {"name": cell.name}


def work_in_process(folder: Path, seconds: float) -> None:
    run_cells(board(folder), Working(folder, seconds=seconds), say=lambda _: None)


def test_cells_cover_the_grid_once_and_names_tell_them_apart() -> None:
    cells = cells_of(OPTIONS)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == len(set(cells))
    assert {"relevance", "reduce-full", "speed", "reduce-sliced-2", "reduce-random-1-seed1"} <= set(names)
    assert {"distill-2-seed0", "tune-water-full-seed1", "tune-water-distilled-1-seed0"} <= set(names)
    assert "reduce-sliced-2-seed1" not in names  # slicing has no chance in it
    for cell in cells:
        assert cell.needs is None or cells.index(cell.needs) < cells.index(cell)


def test_every_cell_is_done_once_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    cells = board(tmp_path)
    run_cells(cells, Working(tmp_path), say=lambda _: None)
    assert sorted(done(tmp_path)) == sorted(cell.name for cell in cells.cells)
    run_cells(cells, Working(tmp_path), say=lambda _: None)
    assert len(done(tmp_path)) == len(cells.cells)


def test_a_failing_cell_stops_no_other_and_blocks_what_needs_it(tmp_path: Path) -> None:
    cells = board(tmp_path)
    run_cells(cells, Working(tmp_path, fails="distill-2-seed1"), say=lambda _: None)
    states = {cell.name: state for cell, state in cells.states().items()}
    assert states.pop("distill-2-seed1") == "failed"
    assert states.pop("tune-water-distilled-2-seed1") == "blocked"
    assert set(states.values()) == {"done"}
    failed = next(cell for cell in cells.cells if cell.name == "distill-2-seed1")
    assert cells.error(failed) == "water.xyz: record 3: no energy"


def test_a_failed_cell_is_tried_again(tmp_path: Path) -> None:
    cells = board(tmp_path)
    run_cells(cells, Working(tmp_path, fails="distill-2"), say=lambda _: None)
    cells.forget_errors()
    run_cells(cells, Working(tmp_path), say=lambda _: None)
    assert set(cells.states().values()) == {"done"}
    assert len(done(tmp_path)) == len(cells.cells)


def test_processes_share_the_cells(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work_in_process, args=(tmp_path, 0.01)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(done(tmp_path)) == sorted(cell.name for cell in cells_of(OPTIONS))


def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        worker = context.Process(target=work_in_process, args=(tmp_path, 0.02))
        worker.start()
        time.sleep(0.15)
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()
    before = {cell.name for cell, state in board(tmp_path).states().items() if state == "done"}
    assert before
    work_in_process(tmp_path, 0.0)
    names = done(tmp_path)
    assert set(names) == {cell.name for cell in cells_of(OPTIONS)}
    assert all(names.count(name) == 1 for name in before)
    for cell in cells_of(OPTIONS):
        assert json.loads((board(tmp_path).place(cell) / "result.json").read_text())["name"] == cell.name


def test_a_process_that_is_not_to_wait_leaves_what_others_hold(tmp_path: Path) -> None:
    cells = board(tmp_path)
    with locked(cells.place(cells.cells[0])):
        run_cells(cells, Working(tmp_path), wait=False, say=lambda _: None)
    assert sorted(done(tmp_path)) == sorted(cell.name for cell in cells.cells[1:])


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with locked(tmp_path) as first, locked(tmp_path) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path) as third:
        assert third


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": None}, "distilled"),
        ({"mix": []}, "mix"),
        ({"distill": {"steps": 2, "start": "random"}}, "start"),
        ({"distill": {"steps": 2, "start": "least-squares"}}, "strategy distilled needs"),
        ({"distill": {"stebs": 2}}, "distill: "),
        (
            {"downstream": [{"name": "a", "data": "x", "strategies": ["full"], "finetune": {}}]},
            "finetune: say how long",
        ),
        ({"downstream": [{"name": "a/b", "data": "x", "finetune": {}}]}, "pattern"),
        ({"blocks": []}, "blocks"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyOptions.model_validate(OPTIONS.model_dump() | changes)


def test_students_start_from_one_cut_or_from_several() -> None:
    one = StudyOptions.model_validate(
        OPTIONS.model_dump() | {"distill": {"steps": 2, "start": ["sliced", "least-squares"]}}
    )
    names = {cell.name for cell in cells_of(one) if cell.kind == "distill"}
    assert {"distill-2-seed0", "distill-least-squares-distilled-2-seed0"} <= names
    assert len(names) == 8


def test_a_folder_goes_on_with_its_own_study_only(tmp_path: Path) -> None:
    begin(OPTIONS, tmp_path)
    (tmp_path / "cells").mkdir()
    more = OPTIONS.model_copy(update={"blocks": (3, 2, 1), "title": "another title"})
    begin(more, tmp_path)
    assert read_study(tmp_path / "config.yaml").blocks == (3, 2, 1)
    part = OPTIONS.downstream[0].model_copy(update={"finetune": {"steps": 2}})
    for changes, name in (({"calibration": 7}, "calibration"), ({"downstream": (part,)}, "downstream water")):
        with pytest.raises(ConfigError, match=name):
            begin(OPTIONS.model_copy(update=changes), tmp_path)


def test_ctrl_c_says_how_a_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt("run: stopped: go on with --resume")  # an option that a study does not have

    monkeypatch.setattr(study, "_work", interrupted)
    with pytest.raises(KeyboardInterrupt, match="study: interrupted: start the study again"):
        run_study(OPTIONS.model_copy(update={"model": "mini"}), tmp_path / "study")
