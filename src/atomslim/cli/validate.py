"""`atomslim validate`: whether the physics still holds."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_json


def validate(  # noqa: PLR0913 - what is checked, against what, and how
    model: str,
    structures: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    /,
    *,
    against: str | None = None,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("validation"),
    checks: Annotated[tuple[str, ...], Parameter(negative=())] = ("quick",),
    task: str | None = None,
    device: Device = "auto",
    end_points: Path | None = None,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    strict: bool = False,
    json: Json = False,
) -> None:
    """Check the physics of a model: consistency, solids, molecules, dynamics, each with a bar.

    Writes validation.html, .md and .json into a folder. Run again, it continues where it stopped.

    Example: atomslim validate small.safetensors structures.xyz --against full.safetensors -o validation/

    Parameters
    ----------
    model
        A model file, or an ASE calculator as ase:MODULE:CLASS?NAME=VALUE.
    structures
        Files, folders or datasets. Default: some of the labelled data, or else the built-in crystals and molecules
        whose elements the model knows.
    against
        What the model is compared with: the full model, a calculator, or labelled data (a file, a folder, a container,
        or the name of a dataset).
    output
        The folder to write to.
    checks
        quick, full, or names of checks; may be repeated.
    task
        The task whose energy is checked, if models have several.
    device
        Where models run; auto uses a CUDA device if there is one.
    end_points
        A file with the two end points of a barrier.
    option
        An option of the labelled data's reader, such as energy_key=MACE_energy; may be repeated.
    strict
        Exit with status 1 if a check fails, or cannot be done on a structure that it fits.
    json
        Print the result as JSON, for programs.

    """
    import sys

    from atomslim.cli.devices import device_of
    from atomslim.cli.settings import opened_dataset
    from atomslim.errors import ConfigError
    from atomslim.parsing import parse_json
    from atomslim.validation.reference import is_model
    from atomslim.validation.run import validate as run

    labelled = against is not None and not is_model(against)
    if option and not labelled:
        raise ConfigError("option: is for the reader of labelled data: name them with --against")
    reference = opened_dataset(against, option) if against is not None and labelled else against
    given = list(structures) or None
    how: dict[str, Any] = {"task": task, "device": device_of(device), "end_points": end_points}
    found = run(model, given, against=reference, checks=checks, output=output, **how)
    if json:
        say_json(parse_json((output / "validation.json").read_text(encoding="utf-8")))
    else:
        for line in [*found.lines(), found.sentence(), f"{output / 'validation.html'}: the report"]:
            print(line)
    next_step("benchmark", model, *([] if task is None else ["--task", task]), "-o", "benchmark/")
    if strict and (found.incomplete or not found.passed):
        sys.exit(1)
