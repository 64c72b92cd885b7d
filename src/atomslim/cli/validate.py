"""`atomslim validate`: whether the physics still holds."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def validate(
    model: str,
    structures: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    /,
    *,
    against: str | None = None,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("validation"),
    checks: Annotated[tuple[str, ...], Parameter(negative=())] = ("quick",),
    task: str | None = None,
    strict: bool = False,
) -> None:
    """Check the physics of a model: consistency, solids, molecules, dynamics, each with a bar.

    Writes validation.html, .md and .json into a folder. Started again, it goes on where it was.

    Example: atomslim validate small.safetensors structures.xyz --against full.safetensors -o validation/

    Parameters
    ----------
    model
        A model file, or an ASE calculator as ase:MODULE:CLASS?NAME=VALUE.
    structures
        Files, folders or datasets; without any, the built-in crystals and molecules whose elements the model knows.
    against
        What the model is compared with: the full model, or a calculator.
    output
        The folder to write to.
    checks
        quick, full, or names of checks; may be repeated.
    task
        The task whose energy is checked, where models have several.
    strict
        Exit with status 1 if a check fails.

    """
    import sys

    from atomslim.validation.run import validate as run

    found = run(model, list(structures) or None, against=against, checks=checks, task=task, output=output)
    for line in found.lines():
        print(line)
    print(found.sentence())
    print(f"{output / 'validation.html'}: the report")
    if strict and not found.passed:
        sys.exit(1)
