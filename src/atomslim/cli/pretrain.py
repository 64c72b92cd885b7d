"""`atomslim pretrain`: one model learns several datasets."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from atomslim.cli.ending import Json, next_step, say_run

Flag = Annotated[bool, Parameter(negative=())]


def pretrain(
    config: Path | None = None,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    resume: Flag = False,
    json: Json = False,
) -> None:
    """Pre-train a model on several datasets at once, each of them a task.

    Example: atomslim pretrain mix.yaml -o runs/mix --set budget=2h

    Parameters
    ----------
    config
        A YAML file: sizes of the model, or a model file to go on with; tasks with their datasets; options of the run.
    output
        The run's folder.
    settings
        One option by its dotted name, as in --set optimiser.learning_rate=1e-4; may be repeated.
    resume
        Go on with the run in the folder, if there is one; its options need not be given again.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.settings import nothing_named, read_settings, require_options
    from atomslim.train.pretrain import PretrainOptions
    from atomslim.train.pretrain import pretrain as run
    from atomslim.train.run_folder import begun
    from atomslim.train.trainer import require_as_many_processes

    chosen = config or begun(output, resume=resume)
    if chosen is None:
        raise nothing_named("name a YAML file of options: atomslim pretrain CONFIG -o FOLDER", output, resume=resume)
    options = read_settings(chosen, settings, {})
    require_options(PretrainOptions, options)
    require_as_many_processes(options, os.environ)
    run(options, output=output, resume=resume)
    say_run(output, "the best model", json=json)
    next_step("info", output)
