"""`atomslim study`: a grid of experiments and its report."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT
from atomslim.terminal import say

Flag = Annotated[bool, Parameter(negative=())]


def study(
    config: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    processes: Annotated[int, COUNT] = 1,
    no_wait: Flag = False,
    report_only: Flag = False,
    json: Json = False,
) -> None:
    """Prune, distil and fine-tune a model in every way that a configuration lists, and report it beside the paper.

    Finished cells are never repeated: a killed study continues where it stopped, and several cluster jobs can work on
    one folder at once. A failed cell does not stop the others.

    Example: atomslim study studies/small/compression.yaml -o studies/out --processes 2

    Parameters
    ----------
    config
        A YAML file: the model, its tasks, blocks, seeds, distillation, fine-tuning.
    output
        The study's folder: one folder per cell, report.html, report.md.
    processes
        Number of processes on this machine that share the cells.
    no_wait
        Stop when other processes hold all remaining cells, as cluster jobs should.
    report_only
        Only write the report of the finished cells.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.errors import AtomslimError
    from atomslim.study.options import read_study
    from atomslim.study.study import run_study

    options = read_study(config)
    results = run_study(options, output, report_only=report_only, processes=processes, wait=not no_wait)
    states = list(results.board.states().values())
    if json:
        say_json({"report": output / "report.html", "cells": {c.name: s for c, s in results.board.states().items()}})
    else:
        say(f"{output / 'report.html'}: {states.count('done')} of {len(states)} cells are finished")
    failed = [cell.name for cell, state in results.board.states().items() if state == "failed"]
    if failed:
        raise AtomslimError(
            f"{output}: {len(failed)} cells failed, first {failed[0]}: read cells/{failed[0]}/error.txt, then run again"
        )
    next_step("validate", options.model, "-o", "validation/")
