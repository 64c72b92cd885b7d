"""`atomslim evaluate`: errors of a model on a labelled dataset."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT

Flag = Annotated[bool, Parameter(negative=())]


def evaluate(  # noqa: PLR0913 - what is compared with what
    model: Path,
    data: str,
    /,
    *,
    task: str | None = None,
    part: Literal["all", "train", "validation", "test"] | None = None,
    split: Path | None = None,
    batch_size: Annotated[int, COUNT] = 16,
    device: Device = "auto",
    strict: Flag = False,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    json: Json = False,
) -> None:
    """Show mean absolute and root-mean-square errors of energies, forces, stress and other targets.

    For binary labels, show ROC-AUC, PR-AUC, accuracy, balanced accuracy and log loss.

    Example: atomslim evaluate runs/aspirin/best.safetensors rmd17:aspirin --part test --split split.json

    Parameters
    ----------
    model
        An atomslim model (.safetensors), a checkpoint of its family (JMP: .pt), or a name (chgnet:0.3.0).
    data
        The dataset, as in rmd17:aspirin, or a file of labelled structures.
    task
        The task to use, by name; needed if the model has several.
    part
        All structures, or one set of the split; by default the test set of a split, and all without one.
    split
        A saved split, such as split.TASK.json in a run's folder.
    batch_size
        Structures per batch.
    device
        Where the model runs; auto uses a CUDA device if there is one.
    strict
        Refuse structures with elements or a composition that the task was not trained on, or with a charge or spin.
    option
        An option of the datasets' readers, such as energy_key=MACE_energy; may be repeated.
    json
        Print JSON instead of a table.

    """
    from atomslim.cli.settings import on_device, opened_dataset
    from atomslim.evaluation.evaluate import evaluate as measure
    from atomslim.report.console import plain_console

    dataset = opened_dataset(data, option)
    found = measure(
        on_device(model, device), dataset, task=task, part=part, split=split, batch_size=batch_size, strict=strict
    )
    if json:
        say_json(found.as_dict())
    else:
        plain_console().print(found)
    next_step("validate", model, "--against", data, "--task", found.task, "-o", "validation/")
