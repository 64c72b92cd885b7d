"""`atomslim pretrain`: one model learns several datasets."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_run
from atomslim.cli.numbers import FINITE, WHOLE
from atomslim.cli.settings import Log

Flag = Annotated[bool, Parameter(negative=())]


def pretrain(  # noqa: PLR0913 -- the most common of many options
    config: Path | None = None,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    budget: str | None = None,
    steps: Annotated[int | None, WHOLE] = None,
    epochs: Annotated[float | None, FINITE] = None,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    log: Log = (),
    device: Device | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    resume: Flag = False,
    json: Json = False,
) -> None:
    """Pre-train a model on several datasets at once, one task each.

    Example: atomslim pretrain mix.yaml -o runs/mix --budget 2h

    Parameters
    ----------
    config
        A YAML file: sizes of the model, or a model file to start from; tasks with their datasets; options of the run.
    output
        The run's folder.
    budget
        Wall-clock time for training steps, such as 30min or 2h; validation is not counted.
    steps
        Stop after this many steps.
    epochs
        Stop after this many passes over the data.
    option
        An option of the readers of all datasets, such as energy_key=MACE_energy; may be repeated.
    device
        Where the model is trained; auto uses a CUDA device if there is one. Default: as accelerator says, the CPU.
    log
        Also write the metrics for TensorBoard, or send them to Weights & Biases (wandb); may be repeated.
    settings
        Set one option by its dotted name, as in --set optimiser.learning_rate=1e-4; may be repeated.
    resume
        Continue the run in the folder, if there is one; its options need not be repeated.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.settings import (
        chosen_boards,
        chosen_device,
        nothing_named,
        read_settings,
        require_options,
        with_reader_options,
    )
    from atomslim.train.pretrain import PretrainOptions
    from atomslim.train.pretrain import pretrain as run
    from atomslim.train.run_folder import begun
    from atomslim.train.trainer import require_as_many_processes

    chosen = config or begun(output, resume=resume)
    if chosen is None:
        raise nothing_named("name a YAML file of options: atomslim pretrain CONFIG -o FOLDER", output, resume=resume)
    given = {"budget": budget, "steps": steps, "epochs": epochs, **chosen_boards(log), **chosen_device(device)}
    options = read_settings(chosen, settings, given)
    require_options(PretrainOptions, options)
    options["tasks"] = with_reader_options(options.get("tasks", ()), option)
    require_as_many_processes(options, os.environ)
    run(options, output=output, resume=resume)
    say_run(output, "the best model", json=json)
    next_step("info", output)
