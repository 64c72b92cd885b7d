"""`atomslim slim`: from structures and a teacher to a small, fast, validated model."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT, FINITE, SECONDS, SEED
from atomslim.errors import ConfigError, printable
from atomslim.terminal import say

Flag = Annotated[bool, Parameter(negative=())]


def slim(  # noqa: PLR0913 -- the most common of many options
    structures: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    teacher: str | None = None,
    task: str | None = None,
    teacher_python: Path | None = None,
    speedup: Annotated[float | None, FINITE] = None,
    ms_per_step: Annotated[float | None, FINITE] = None,
    ns_per_day: Annotated[float | None, FINITE] = None,
    student: str | None = None,
    start: str | None = None,
    labels_of: Path | None = None,
    budget: str | None = None,
    forces: str | None = None,
    temperatures: Annotated[str | None, Parameter(name=["--temperatures", "--temperature"])] = None,
    width: Annotated[float | None, FINITE] = None,
    processes: Annotated[int | None, COUNT] = None,
    timeout: Annotated[float | None, SECONDS] = None,
    package: Flag = False,
    seed: Annotated[int | None, SEED] = None,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    config: Path | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    resume: Flag = False,
    json: Json = False,
) -> None:
    """Make a small, fast model from a slow one, for your structures, and show how good it is.

    One run: the teacher's cost, a student that is fast enough, structures to label, labels, training, rounds of the
    student's own dynamics with new labels, validation, and a report. Writes model.safetensors, validation.json,
    report.html and README.md. A killed run continues where it stopped.

    Example: atomslim slim MgO.cif --teacher sevennet:7net-0 --speedup 10 --budget 1h --width 8 -o out/

    Example: atomslim slim -o out/ --resume

    Parameters
    ----------
    structures
        Files in any format that ASE reads, folders of them, containers, datasets; labels in them are not used.
    output
        The folder to write to.
    teacher
        A model's file or name (sevennet:7net-0), or an ASE calculator as ase:MODULE:CLASS?NAME=VALUE.
    task
        The task to use, if the teacher has several.
    teacher_python
        The Python that the teacher is installed in.
    speedup
        Wanted speed-up over the teacher; 10, if no speed is given.
    ms_per_step
        Wanted speed as milliseconds per MD step.
    ns_per_day
        Wanted speed as nanoseconds of dynamics per day.
    student
        A model to train, instead of choosing one by speed.
    start
        trained, or random: start from random weights, as a control for what the trained ones are worth.
    labels_of
        The folder of another run with the same teacher and structures: reuse its student, pool and labels.
    budget
        Wall-clock time for everything except the validation, such as 30min or 2h; default: 1h.
    forces
        conservative (the negative gradient of the energy), or direct: faster, but energy is not conserved.
    temperatures
        Temperatures in K that the student is meant for, as in 300,600.
    width
        Repeat cells until opposite faces are this far apart (Å).
    processes
        Structures to label at once.
    timeout
        Time limit for the teacher per structure, as in 60s.
    package
        Also compile a package, which runs without Python.
    seed
        Seed of all random numbers.
    option
        An option of the readers, such as length_unit=bohr; may be repeated.
    config
        A YAML file of options.
    settings
        Set one option by its name, as in --set force_bar=5; may be repeated.
    resume
        Continue the run in the folder; its options need not be repeated.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.settings import read_settings, reader_options, require_options
    from atomslim.slimming.options import SlimOptions
    from atomslim.slimming.slim import begun
    from atomslim.slimming.slim import slim as run

    given: dict[str, Any] = {
        "teacher": teacher,
        "task": task,
        "teacher_python": None if teacher_python is None else str(teacher_python),
        "speedup": speedup,
        "ms_per_step": ms_per_step,
        "ns_per_day": ns_per_day,
        "student": student,
        "start": start,
        "labels_of": None if labels_of is None else str(labels_of),
        "budget": budget,
        "forces": forces,
        "temperatures": None if temperatures is None else _numbers(temperatures),
        "width": width,
        "processes": processes,
        "timeout": timeout,
        "package": package or None,
        "seed": seed,
        "structures": structures or None,
        "reader": reader_options(option) or None,
    }
    options = read_settings(config, settings, given)
    if resume:
        options = begun(output) | options
    require_options(SlimOptions, options)
    names, named = options.pop("structures", ()), options.pop("teacher", "")
    if not names or not named:
        raise ConfigError("name structures and a teacher: atomslim slim STRUCTURES --teacher NAME -o FOLDER")
    found = run(names, named, output, tell=lambda text: print(printable(text), file=sys.stderr), **options)
    if json:
        say_json({"model": found.model, "report": output / "report.html", "sentences": found.sentences})
    else:
        for sentence in (*found.sentences, f"{found.model}: the student", f"{output / 'report.html'}: the report"):
            say(sentence)
    asked = [names] if isinstance(names, str) else names
    next_step("predict", found.model, *asked, "-o", "predicted.extxyz")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"temperatures {text!r}: write numbers with commas between, as in 300,600") from error
