"""`atomslim package`: one task of a model, compiled for programs without this one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_json
from atomslim.terminal import say
from atomslim.words import number_of

if TYPE_CHECKING:
    from atomslim.inference.package import Deviations


def package(
    model: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    task: str | None = None,
    device: Device = "auto",
    force: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Compile energy and forces of one task into a package (.pt2) for C++ and for ASE; takes minutes and needs g++.

    The package works for any number of atoms. It is compared with the model, and written only if they agree.

    Example: atomslim package aspirin.safetensors -o aspirin.pt2

    Parameters
    ----------
    model
        A JMP checkpoint (.pt, .ckpt) or an atomslim model (.safetensors).
    output
        The package to write (.pt2).
    task
        The task to use, by name; needed if the model has several.
    device
        Where the package runs; auto uses a CUDA device if there is one.
    force
        Overwrite an existing file.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.devices import device_of
    from atomslim.cli.outputs import read_from, require_ending, require_output
    from atomslim.inference.package import package as run

    require_ending(output, {".pt2"}, "a package")
    require_output(output, read_from(model), force=force)
    found = run(model, output, task=task, device=device_of(device))
    if json:
        say_json({"output": output, **vars(found)})
    else:
        _say(output, found)
    next_step("benchmark", model, *([] if task is None else ["--task", task]), "--structures", "aspirin")


def _say(output: Path, found: "Deviations") -> None:
    close = f"within {found.energy:.1e} eV and {found.forces:.1e} eV/Å of the model"
    say(f"{output}: {close}, for {number_of(found.structures, 'structure')}")
