import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ase.io import write

from atomslim.errors import ConfigError, DataError
from atomslim.files import locked
from atomslim.models.model_file import save
from atomslim.study import study
from atomslim.study.cells import Cell, cells_of
from atomslim.study.options import StudyOptions, read_study
from atomslim.study.runner import Board, run_cells
from atomslim.study.study import begin, run_study
from atomslim.study.work import Workshop
from small_models import DIRECT, jmp
from train.water import waters

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


def states_done(folder: Path) -> set[str]:
    return {cell.name for cell, state in board(folder).states().items() if state == "done"}


class Working:
    """Notes which cells are done, in a file that all processes share."""

    def __init__(self, folder: Path, *, fails: str = "", seconds: float = 0.0) -> None:
        self.folder, self.fails, self.seconds = folder, fails, seconds

    def __call__(self, cell: Cell, cell_folder: Path) -> dict[str, Any]:
        assert cell_folder.is_dir()
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
    """What has a result is never done again; what was cut short, before or after its work, is."""
    context = multiprocessing.get_context("fork")
    logged: dict[str, int] = {}
    for kills in range(1, 4):
        worker = context.Process(target=work_in_process, args=(tmp_path, 0.02))
        worker.start()
        while len(states_done(tmp_path)) < kills:
            time.sleep(0.01)
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join()
        assert all(done(tmp_path).count(name) == times for name, times in logged.items())
        logged = {name: done(tmp_path).count(name) for name in states_done(tmp_path)}
    work_in_process(tmp_path, 0.0)
    names = done(tmp_path)
    assert set(names) == {cell.name for cell in cells_of(OPTIONS)}
    assert all(names.count(name) == times for name, times in logged.items())
    for cell in cells_of(OPTIONS):
        assert json.loads((board(tmp_path).folder_of(cell) / "result.json").read_text())["name"] == cell.name


def test_a_process_that_is_not_to_wait_leaves_what_others_hold(tmp_path: Path) -> None:
    cells = board(tmp_path)
    with locked(cells.folder_of(cells.cells[0])):
        run_cells(cells, Working(tmp_path), wait=False, say=lambda _: None)
    assert sorted(done(tmp_path)) == sorted(cell.name for cell in cells.cells[1:])


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
        raise KeyboardInterrupt("run: stopped: continue with --resume")  # an option that a study does not have

    monkeypatch.setattr(study, "_work", interrupted)
    with pytest.raises(KeyboardInterrupt, match="study: interrupted: start the study again"):
        run_study(OPTIONS.model_copy(update={"model": "mini"}), tmp_path / "study")


def test_a_study_never_mixes_cells_of_two_models(tmp_path: Path) -> None:
    full = tmp_path / "full.safetensors"
    save(jmp(DIRECT, num_blocks=2), full)
    options, folder = OPTIONS.model_copy(update={"model": str(full)}), tmp_path / "study"
    begin(options, folder)
    (folder / "cells").mkdir()
    (tmp_path / "same.safetensors").write_bytes(full.read_bytes())
    begin(options.model_copy(update={"model": str(tmp_path / "same.safetensors")}), folder)
    save(jmp(DIRECT, num_blocks=2, seed=1), full)
    with pytest.raises(ConfigError, match="holds cells with other inputs: the model has changed"):
        begin(options, folder)
    with pytest.raises(ConfigError, match="has changed since the study began"):
        _ = Workshop(options, folder).full


def test_a_study_never_mixes_cells_of_two_versions_of_its_data(tmp_path: Path) -> None:
    data = tmp_path / "a.xyz"
    write(data, [sample.to_ase() for sample in waters(3)], format="extxyz")
    mix = (OPTIONS.mix[0].model_copy(update={"data": str(data)}),)
    options, folder = OPTIONS.model_copy(update={"mix": mix}), tmp_path / "study"
    begin(options, folder)
    os.utime(data, (1, 1))
    begin(options, folder)
    data.write_text(data.read_text().replace("energy=-", "energy=-1", 1))
    with pytest.raises(ConfigError, match=r"the data .*a\.xyz has changed"):
        begin(options, folder)


def test_files_that_are_of_no_study_are_kept(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("precious")
    for report_only in (False, True):
        with pytest.raises(ConfigError, match=r"holds config\.yaml, which belongs to no run"):
            run_study(OPTIONS.model_copy(update={"model": "mini"}), tmp_path, report_only=report_only)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


HELPING = """
import os, sys, time
from pathlib import Path
from atomslim.study import study

def wait(*_, **__):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(100)

study._work = wait
if __name__ == "__main__":
    with study._helpers(None, None, 1):
        time.sleep(100)
"""


@pytest.mark.slow
def test_helpers_end_with_a_killed_study(tmp_path: Path) -> None:
    (tmp_path / "helping.py").write_text(HELPING)
    (tmp_path / "pids").mkdir()
    parent = subprocess.Popen([sys.executable, str(tmp_path / "helping.py"), str(tmp_path / "pids")])
    while not (found := list((tmp_path / "pids").iterdir())):
        assert parent.poll() is None
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    helper = Path("/proc") / found[0].name
    deadline = time.monotonic() + 20
    while helper.exists() and "Z" not in (helper / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the helper lives on"
        time.sleep(0.1)


def test_helpers_end_with_a_study_that_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    class Process:
        def __init__(self, **_: Any) -> None:
            self.calls: list[str] = []
            started.append(self)

        def __getattr__(self, name: str) -> Any:
            return lambda: self.calls.append(name)

    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SimpleNamespace(Process=Process))
    monkeypatch.setattr(study, "shared_among", lambda _: None)
    with pytest.raises(KeyboardInterrupt), study._helpers(OPTIONS, board(Path("study")), 2):
        raise KeyboardInterrupt
    assert [process.calls for process in started] == [["start", "terminate", "join"]] * 2
