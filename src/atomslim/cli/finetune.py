"""`atomslim finetune`: a trained model learns a dataset."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_run
from atomslim.cli.numbers import FINITE, WHOLE
from atomslim.cli.settings import Log

Flag = Annotated[bool, Parameter(negative=())]


def finetune(  # noqa: PLR0913 -- the most common of many options
    model: Path | None = None,
    data: str | None = None,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    budget: str | None = None,
    steps: Annotated[int | None, WHOLE] = None,
    epochs: Annotated[float | None, FINITE] = None,
    forces: Literal["conservative", "direct"] | None = None,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    heads: Literal["better", "fresh", "reuse"] | None = None,
    e0s: str | None = None,
    log: Log = (),
    device: Device | None = None,
    config: Path | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    resume: Flag = False,
    json: Json = False,
) -> None:
    """Fine-tune a model on a dataset for a fixed time, number of steps or epochs, and test the best model.

    The run's folder gets the models (best.safetensors, last.safetensors), all options, metrics and a summary.

    Example: atomslim finetune jmp-l-4.safetensors rmd17:aspirin -o runs/aspirin --budget 30min

    Parameters
    ----------
    model
        The model file to start from.
    data
        The dataset, as in rmd17:aspirin, or a file of labelled structures.
    output
        The run's folder.
    budget
        Wall-clock time for training steps, such as 30min or 2h; validation is not counted.
    steps
        Stop after this many steps.
    epochs
        Stop after this many passes over the data.
    forces
        Conservative (the negative gradient of the energy, the default) or direct.
    option
        An option of the datasets' readers, such as energy_key=MACE_energy; may be repeated.
    heads
        Start with new heads (fresh), with those of one of the model's tasks (reuse), or with whichever have smaller
        errors (better, the default).
    e0s
        Reference energies of the elements: a table such as H=-13.6,C=-1029.5, a file of one, or fit, isolated, model or
        mean (none). Default: isolated atoms in the data, else a fit near the model's references.
    log
        Also write the metrics for TensorBoard, or send them to Weights & Biases (wandb); may be repeated.
    device
        Where the model is trained; auto uses a CUDA device if there is one. Default: as accelerator says, the CPU.
    config
        A YAML file of options.
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
        reader_options,
        require_options,
    )
    from atomslim.train.finetune import FinetuneOptions
    from atomslim.train.finetune import finetune as run
    from atomslim.train.run_folder import begun
    from atomslim.train.trainer import require_as_many_processes

    given: dict[str, Any] = {
        "budget": budget,
        "steps": steps,
        "epochs": epochs,
        "forces": forces,
        "heads": heads,
        "e0s": e0s,
    }
    given |= {"data": data, **chosen_boards(log), **chosen_device(device)}
    given["model"] = None if model is None else str(model)
    options = read_settings(config or begun(output, resume=resume), settings, given)
    if option:
        options["options"] = {**options.get("options", {}), **reader_options(option)}
    require_options(FinetuneOptions, options)
    start, dataset = options.pop("model", ""), options.pop("data", "")
    if not start or not dataset:
        raise nothing_named("name a model and a dataset: atomslim finetune MODEL DATA -o FOLDER", output, resume=resume)
    require_as_many_processes(options, os.environ)
    run(start, dataset, output=output, resume=resume, **options)
    say_run(output, "the best model", json=json)
    next_step("validate", output, "-o", "validation/")
