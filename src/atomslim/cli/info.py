"""`atomslim info`: what a model file holds."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from atomslim.cli.ending import Json, next_step, say_json, with_data


def info(
    file: Path,
    /,
    *,
    json: Json = False,
    raw_weights: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Show what a model file holds: architecture, sizes, blocks, tasks, parameters in total and by group, history.

    Example: atomslim info jmp-l.pt --json

    Parameters
    ----------
    file
        An atomslim model (.safetensors), a checkpoint of its family (JMP: .pt), or a name (chgnet:0.3.0).
    json
        Print JSON instead of tables.
    raw_weights
        Describe the weights of the last training step instead of their exponential averages.

    """
    from atomslim.evaluation.describe import describe

    description = describe(file, raw_weights=raw_weights)
    if json:
        say_json(description.as_dict())
        return
    from atomslim.report.console import plain_console

    plain_console().print(description)
    data = with_data((), file.name, [task["name"] for task in description.tasks])
    next_step("relevance", file, *data, "-o", "relevance/")
