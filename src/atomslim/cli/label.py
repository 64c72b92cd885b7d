"""`atomslim label`: labels by a teacher."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT, SECONDS, SHARE
from atomslim.errors import printable
from atomslim.terminal import say


def label(  # noqa: PLR0913 -- what goes in, what comes out, and how
    structures: Annotated[tuple[str, ...], Parameter(negative=())],
    /,
    *,
    teacher: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    task: str | None = None,
    processes: Annotated[int, COUNT] = 1,
    skip: Annotated[float, SHARE] = 0.05,
    timeout: Annotated[float | None, SECONDS] = None,
    teacher_python: Path | None = None,
    hessian: Annotated[bool, Parameter(negative=())] = False,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    json: Json = False,
) -> None:
    """Label structures with a teacher: energies, forces, and stress of cells, to train on.

    First reports what the teacher gives, and any problems: forces that are not the gradient of the energy, answers
    that change. Writes labelled.samples, labelled.extxyz and label.json into a folder that other commands accept as a
    dataset. Run again with the same arguments, it continues where it stopped.

    Example: atomslim label structures.xyz --teacher sevennet:7net-0 -o labelled/

    Example: atomslim label pool/ --teacher "ase:tblite.ase:TBLite?method=GFN2-xTB" -o labelled/ --processes 4

    Example: atomslim label pool/ --teacher "ase:mace.calculators:mace_mp?model=small" -o labelled/
    --teacher-python ~/mace/bin/python

    Parameters
    ----------
    structures
        Files in any format that ASE reads, folders of them, containers, datasets; labels in them are not used.
    teacher
        A model's file or name (mini, sevennet:7net-0), or an ASE calculator as ase:MODULE:CLASS?NAME=VALUE.
    output
        The folder to write to.
    task
        The task to use, if the model has several.
    processes
        Structures to label at once; one thread each, unless OMP_NUM_THREADS is set.
    skip
        Fraction of structures that may fail (errors, no answer in time, non-finite numbers), as in 5%.
    timeout
        Time limit per structure, as in 60s or 10min; default: none.
    teacher_python
        The Python that the teacher is installed in; it needs ASE and NumPy, and atomslim for models only.
    hessian
        Also one row of the Hessian of each structure, by forces of two displaced copies, to learn with `hessian`.
    option
        An option of the readers, such as length_unit=bohr; may be repeated.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.settings import reader_options
    from atomslim.labelling.label import label as run

    found = run(
        structures,
        teacher,
        output,
        task=task,
        processes=processes,
        skip=skip,
        timeout=timeout,
        teacher_python=teacher_python,
        hessian=hessian,
        options=reader_options(option),
        tell=lambda text: print(printable(text), file=sys.stderr),
    )
    if json:
        skipped = [vars(one) for one in found.skipped]
        say_json({"output": output, "structures": len(found.container), "skipped": skipped, "seconds": found.seconds})
    else:
        say(f"{output}: {found}")
    next_step("finetune", "mini", output, "-o", "runs/labelled", "--budget", "30min")
