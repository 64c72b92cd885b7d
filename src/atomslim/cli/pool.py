"""`atomslim pool`: structures to label."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT, FINITE, SECONDS, SEED, WHOLE
from atomslim.terminal import say


def pool(  # noqa: PLR0913 -- the options of a command
    structures: Annotated[tuple[str, ...], Parameter(negative=())],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    teacher: str | None = None,
    task: str | None = None,
    size: Annotated[int, COUNT] = 200,
    rattled: Annotated[int, WHOLE] = 10,
    strained: Annotated[int, WHOLE] = 10,
    volumes: Annotated[int, WHOLE] = 7,
    vacancies: Annotated[int, WHOLE] = 0,
    substitute: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    surfaces: Annotated[int, WHOLE] = 0,
    temperatures: str = "300,600,1200",
    pressures: str = "",
    frames: Annotated[int, COUNT] = 20,
    every: Annotated[int, COUNT] = 25,
    starts: Annotated[int, COUNT] = 4,
    width: Annotated[float, FINITE] = 0.0,
    features: str = "mini",
    processes: Annotated[int, COUNT] = 1,
    timeout: Annotated[float | None, SECONDS] = None,
    teacher_python: Path | None = None,
    seed: Annotated[int, SEED] = 0,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    json: Json = False,
) -> None:
    """Make structures to label: rattled, strained, at other volumes, and from dynamics, without duplicates.

    Keeps those farthest apart in a model's feature space, the given structures first. Writes pool.samples,
    pool.extxyz, pool.json and a figure, pool.png, into a folder that other commands accept. The same arguments give
    the same pool; run again, it continues where it stopped.

    Example: atomslim pool MgO.cif -o pool/ --width 8 --teacher sevennet:7net-0 --size 100

    Parameters
    ----------
    structures
        Files in any format that ASE reads, folders of them, containers, datasets; labels in them are not used.
    output
        The folder to write to.
    teacher
        Runs the dynamics: a model's file or name, or ase:MODULE:CLASS?NAME=VALUE; a cheap one will do. Without
        it, there is no dynamics.
    task
        The task to use, if the teacher has several.
    size
        Maximum number of structures to keep.
    rattled
        Copies of each structure with noise of 0.02 to 0.2 Å.
    strained
        Copies of each cell with a strain of up to 6 %.
    volumes
        Copies of each cell from 0.8 to 1.25 times its volume.
    vacancies
        Copies of each structure with one atom removed.
    substitute
        One element for another, as in Mg=Ca, in five copies; may be repeated.
    surfaces
        Slabs of each bulk cell: low-index surfaces, cut at random heights.
    temperatures
        Temperatures of dynamics in K, as in 300,600.
    pressures
        Also run dynamics of bulk cells at these pressures in GPa, as in 0,10,30, each at one of the temperatures in
        turn. The teacher needs stress.
    frames
        Frames per trajectory.
    every
        Steps between frames, of 1 fs with hydrogen, else 2 fs.
    starts
        Number of given structures to start dynamics from, at each temperature.
    width
        Repeat cells until opposite faces are this far apart (Å).
    features
        The model whose features compare structures, or distances, which needs no model.
    processes
        Trajectories at once.
    timeout
        Time limit for a step of dynamics, as in 60s.
    teacher_python
        The Python that the teacher is installed in.
    seed
        Seed of all random numbers.
    option
        An option of the readers, such as length_unit=bohr; may be repeated.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.settings import reader_options
    from atomslim.labelling.pool import FIGURE
    from atomslim.labelling.pool import pool as run

    found = run(
        structures,
        output,
        teacher,
        task=task,
        processes=processes,
        timeout=timeout,
        teacher_python=teacher_python,
        reader=reader_options(option),
        size=size,
        rattled=rattled,
        strained=strained,
        volumes=volumes,
        vacancies=vacancies,
        substitutions=substitute,
        surfaces=surfaces,
        temperatures=_listed("temperatures", temperatures),
        pressures=_listed("pressures", pressures),
        frames=frames,
        every=every,
        starts=starts,
        width=width,
        features=features,
        seed=seed,
    )
    if json:
        kept = {"output": output, "structures": len(found.container), "kinds": found.kinds, "alike": found.alike}
        say_json({**kept, "seconds": found.seconds})
    else:
        say(f"{output}: {found}")
        say(f"{output / FIGURE}: an overview")
    next_step("label", output, "--teacher", teacher or "TEACHER", "-o", "labelled/")


def _listed(name: str, text: str) -> tuple[float, ...]:
    from atomslim.errors import ConfigError

    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ConfigError(f"{name} {text!r}: write numbers with commas between, as in 300,600") from error
