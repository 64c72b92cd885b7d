"""Runs a study and writes its report."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atomslim.data.workers import end_with_parent
from atomslim.errors import ConfigError
from atomslim.files import tidy
from atomslim.study.cells import cells_of
from atomslim.study.options import StudyOptions, read_study
from atomslim.study.origin import NOTE, study_origin
from atomslim.study.report import write_report
from atomslim.study.results import Results
from atomslim.study.runner import Board, run_cells
from atomslim.study.work import Workshop
from atomslim.threads import shared_among
from atomslim.train.run_folder import RunFolder, require_own

_ADDED = ("title", "blocks", "without", "cutoffs", "seeds", "realign", "speed", "validate_physics", "accelerator")
"""Options that may change during a study: they add cells, without changing the results of others."""

OWN = ("config.yaml", "versions.json", NOTE, "cells", "figures", "report.html", "report.md", "results.json")
"""Names in a study's folder."""


def run_study(
    options: StudyOptions,
    output: str | os.PathLike[str],
    *,
    report_only: bool = False,
    processes: int = 1,
    wait: bool = True,
    say: Callable[[str], None] = print,
) -> Results:
    """Work on the cells of a study until none is left, and write its report.

    Cells that are finished are left alone, failed ones are tried again, and those that another process works on are
    waited for (unless ``wait`` is false): start as many processes or jobs on one folder as there are machines.

    Raises:
        ConfigError: the folder holds another study, or unrelated files; or there is no model file.
        KeyboardInterrupt: Ctrl-C; finished cells, and a run's last step, are kept.

    """
    board = Board(Path(output), cells_of(options))
    require_own(board.folder, OWN)
    if not report_only:
        if not options.model_path.is_file():
            raise ConfigError(f"{options.model_path}: there is no such model file: check the option model")
        begin(options, board.folder)
        board.forget_errors()
        try:
            with _helpers(options, board, processes - 1):
                _work(options, board, wait=wait, say=say)
        except KeyboardInterrupt:  # its message is about the run in a cell
            raise KeyboardInterrupt(f"{output}: interrupted: start the study again, and it continues") from None
    results = Results(board, options)
    write_report(results, board.folder)
    return results


def begin(options: StudyOptions, folder: Path) -> None:
    """Make a study's folder; raises ConfigError if it holds cells of another study."""
    noted, wanted = folder / "config.yaml", options.model_dump(mode="json")
    if noted.is_file() and (folder / "cells").is_dir():
        before = read_study(noted).model_dump(mode="json")
        changed = [name for name, value in _fixed(wanted).items() if _fixed(before).get(name, value) != value]
        if changed:
            raise ConfigError(
                f"{folder}: holds a study with other options {', '.join(changed)}, see its config.yaml: give the same, "
                "or name another folder"
            )
    origin = study_origin(options, folder)
    tidy(folder)
    RunFolder(folder).create(wanted, resume=True, origin=origin)


def _fixed(options: dict[str, Any]) -> dict[str, Any]:
    """Return by name what the results of cells depend on; the model is identified by content, see `study_origin`."""
    left_out = (*_ADDED, "model", "distill", "downstream")
    fixed = {name: value for name, value in options.items() if name not in left_out}
    if options["distill"] is not None:
        fixed["distill"] = {
            name: value for name, value in options["distill"].items() if name not in {"start", "structures"}
        }
    for part in options["downstream"]:
        fixed[f"downstream {part['name']}"] = (part["data"], part["finetune"])
    return fixed


@contextmanager
def _helpers(options: StudyOptions, board: Board, count: int) -> Iterator[None]:
    """Let other processes of this machine work on cells, too, and wait for them at the end; they end with this one."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    helpers = [context.Process(target=_help, args=(options, board, count + 1)) for _ in range(count)]
    shared_among(count + 1)
    for helper in helpers:
        helper.start()
    try:
        yield
    except BaseException:
        for helper in helpers:
            helper.terminate()  # training saves its step first
        raise
    finally:
        for helper in helpers:
            helper.join()


def _help(options: StudyOptions, board: Board, processes: int) -> None:
    end_with_parent()
    shared_among(processes)
    _work(options, board)


def _work(options: StudyOptions, board: Board, *, wait: bool = True, say: Callable[[str], None] = print) -> None:
    run_cells(board, Workshop(options, board.folder).do, wait=wait, say=say)
