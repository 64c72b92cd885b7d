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
    """Make a small and fast model of a slow one, for your structures, and show how good it is.

    One run: what the teacher costs, which student reaches the speed, structures to label, labels, training, rounds of
    the student's own dynamics with labels of where it came, validation, and a report. Writes model.safetensors,
    validation.json, report.html and README.md. A run that was killed goes on where it was.

    Example: atomslim slim MgO.cif --teacher sevennet:7net-0 --speedup 10 --budget 1h --width 8 -o out/

    Example: atomslim slim -o out/ --resume

    Parameters
    ----------
    structures
        Files in any format that ASE reads, folders of such, containers, datasets; labels in them are not used.
    output
        The folder to write to.
    teacher
        A model's file or name (sevennet:7net-0), or an ASE calculator as ase:MODULE:CLASS?NAME=VALUE.
    task
        The task whose heads answer, where the teacher has several.
    teacher_python
        The Python that the teacher is installed in.
    speedup
        How many times as fast as the teacher the student is to be; 10, if no speed is given.
    ms_per_step
        The same as milliseconds of a step of dynamics.
    ns_per_day
        The same as nanoseconds of dynamics in a day.
    student
        A model to train, instead of one that is chosen by its speed.
    start
        trained, or random: the student's weights are drawn anew, which shows what the trained ones are worth.
    labels_of
        The folder of another run of the same teacher and structures, whose student, pool and labels are taken.
    budget
        Wall clock of everything but the validation, such as 30min or 2h; 1h, if none is given.
    forces
        conservative, the gradient of the energy, or direct, which are faster and unfit for constant energy.
    temperatures
        K, that the student is for, as in 300,600.
    width
        Repeat cells until their faces are so far apart (Å).
    processes
        Structures that are labelled at once.
    timeout
        Longest time of the teacher for a structure, as in 60s.
    package
        Also compile a package, which needs no Python.
    seed
        Of all random numbers.
    option
        An option of the readers, such as length_unit=bohr; may be repeated.
    config
        A YAML file of options.
    settings
        One option by its name, as in --set force_bar=5; may be repeated.
    resume
        Go on with the run in the folder; its options need not be given again.
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
