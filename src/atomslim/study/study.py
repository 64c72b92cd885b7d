"""Runs a study and writes its report."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

from atomslim.errors import ConfigError
from atomslim.study.cells import cells_of
from atomslim.study.options import StudyOptions
from atomslim.study.report import write_report
from atomslim.study.results import Results
from atomslim.study.runner import Board, run_cells
from atomslim.study.work import Workshop
from atomslim.train.folder import RunFolder


def run_study(
    options: StudyOptions,
    output: str | os.PathLike[str],
    *,
    report_only: bool = False,
    say: Callable[[str], None] = print,
) -> Results:
    """Work on the cells of a study until none is left, and write its report.

    Cells that are finished are left alone, failed ones are tried again, and those that another process works on are
    waited for: start as many processes or jobs on one folder as there are machines.

    Raises:
        ConfigError: the folder holds another study, or there is no model file.

    """
    folder = Path(output)
    if not options.model_path.is_file():
        raise ConfigError(f"{options.model_path}: there is no such model file: check the option model")
    run_folder = RunFolder(folder)
    run_folder.create(options.model_dump(mode="json"), resume=True)
    board = Board(folder, cells_of(options))
    if not report_only:
        board.forget_errors()
        run_cells(board, Workshop(options, folder).do, say=say)
    results = Results(board, options)
    write_report(results, folder)
    return results


def run_in_processes(options: StudyOptions, output: str | os.PathLike[str], processes: int) -> Results:
    """Do the same in several processes, which share the cells among them; this one writes the last report."""
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    others = [context.Process(target=run_study, args=(options, output)) for _ in range(processes - 1)]
    for other in others:
        other.start()
    try:
        return run_study(options, output)
    finally:
        for other in others:
            other.join()
