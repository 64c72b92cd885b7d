"""`atomslim students`: what small models would cost on your structures."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import FINITE, SECONDS
from atomslim.errors import printable
from atomslim.terminal import say


def students(  # noqa: PLR0913 -- what is timed against what, and how fast it is to be
    structures: Annotated[tuple[str, ...], Parameter(negative=())],
    /,
    *,
    teacher: str,
    speedup: Annotated[float | None, FINITE] = None,
    ms_per_step: Annotated[float | None, FINITE] = None,
    ns_per_day: Annotated[float | None, FINITE] = None,
    forces: Literal["conservative", "direct"] = "conservative",
    task: str | None = None,
    teacher_python: Path | None = None,
    timeout: Annotated[float | None, SECONDS] = None,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    json: Json = False,
) -> None:
    """Time candidate students against the teacher on your structures, and choose one that is fast enough.

    Candidates are cuts of the teacher if its family is known, the embedded models and their cuts, and models with
    random weights. Nothing is trained: cost does not depend on weights. Without a wanted speed, all are listed and
    none is chosen.

    Example: atomslim students MgO.xyz --teacher sevennet:7net-0 --speedup 10

    Example: atomslim students MgO.xyz --teacher "ase:tblite.ase:TBLite?method=GFN2-xTB" --ns-per-day 5

    Parameters
    ----------
    structures
        Files in any format that ASE reads, folders of them, containers, datasets; steps are timed on up to two of
        them, of different sizes.
    teacher
        A model's file or name (mini, sevennet:7net-0), or an ASE calculator as ase:MODULE:CLASS?NAME=VALUE.
    speedup
        Wanted speed-up over the teacher.
    ms_per_step
        Or at most this many milliseconds per step.
    ns_per_day
        Or this many nanoseconds of dynamics per day, with steps of 1 fs if there is hydrogen, else 2 fs.
    forces
        The students' forces: conservative ones are derivatives of the energy, direct ones are cheaper.
    task
        The task to use, if the teacher has several.
    teacher_python
        The Python that the teacher is installed in; it needs ASE and NumPy, and atomslim for models only.
    timeout
        Time limit for a step of the teacher, as in 60s or 10min.
    option
        An option of the readers, such as length_unit=bohr; may be repeated.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.settings import reader_options
    from atomslim.inference.inputs import open_inputs, read_inputs
    from atomslim.inference.predict import listed
    from atomslim.report.console import plain_console
    from atomslim.slimming.students import candidates, choose
    from atomslim.slimming.target import Target

    asked = any(value is not None for value in (speedup, ms_per_step, ns_per_day))
    target = Target.of(speedup=speedup, ms_per_step=ms_per_step, ns_per_day=ns_per_day) if asked else None
    found = candidates(
        [frame.atoms for frame in read_inputs(open_inputs(listed(structures), reader_options(option)))],
        teacher,
        forces=forces,
        task=task,
        python=None if teacher_python is None else str(teacher_python),
        timeout=timeout,
        tell=lambda text: print(printable(text), file=sys.stderr),
    )
    chosen = None if target is None else choose(found, target)
    table = found.table(chosen)
    if json:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        say_json({"students": rows, "chosen": chosen if chosen is None else str(chosen)})
    else:
        plain_console().print(table.rich())
    if chosen is not None and not json:
        say(str(chosen))
    next_step("label", *structures, "--teacher", teacher, "-o", "labelled/")
