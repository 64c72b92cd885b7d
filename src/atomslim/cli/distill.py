"""`atomslim distill`: a cut model learns from the full one."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_run
from atomslim.cli.numbers import COUNT, FINITE, WHOLE
from atomslim.cli.settings import Log, listed

Flag = Annotated[bool, Parameter(negative=())]


def distill(  # noqa: PLR0913 -- the most common of many options
    student: Path | None = None,
    teacher: Path | None = None,
    data: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    budget: str | None = None,
    steps: Annotated[int | None, WHOLE] = None,
    epochs: Annotated[float | None, FINITE] = None,
    rounds: Annotated[int | None, COUNT] = None,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    log: Log = (),
    device: Device | None = None,
    config: Path | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative=())] = (),
    strict: Flag = False,
    resume: Flag = False,
    json: Json = False,
) -> None:
    """Train a pruned model to reproduce the full model: forces, energies, and features of atoms and edges.

    Training needs no labels. Validation compares with them if there are any, unless validate_against=teacher is set.

    Example: atomslim distill jmp-l-4.safetensors jmp-l.pt oc20=oc20:200k ani1x=ani1x -o runs/kd --budget 2h

    Parameters
    ----------
    student
        The pruned model to train.
    teacher
        The full model it was made from.
    data
        Datasets or files, as TASK=NAME if the student has several tasks.
    output
        The run's folder.
    budget
        Wall-clock time for training steps, such as 30min or 2h; validation is not counted.
    steps
        Stop after this many steps.
    epochs
        Stop after this many passes over the data.
    rounds
        Prune the teacher to the student in this many steps, and train after each step for an equal
        part of the budget; for students of less than half the teacher's size. Channels are chosen again on the data.
    option
        An option of the datasets' readers, such as energy_key=MACE_energy; may be repeated.
    log
        Also write the metrics for TensorBoard, or send them to Weights & Biases (wandb); may be repeated.
    device
        Where the model is trained; auto uses a CUDA device if there is one. Default: as accelerator says, the CPU.
    config
        A YAML file of options.
    settings
        Set one option by its dotted name, as in --set weights.node=5; may be repeated.
    strict
        Refuse a student larger than its teacher, structures that the teacher was not trained on, charges and spins.
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
        tasked,
        with_reader_options,
    )
    from atomslim.train.distill import DistillOptions
    from atomslim.train.distill import distill as run
    from atomslim.train.run_folder import begun
    from atomslim.train.trainer import require_as_many_processes

    given: dict[str, Any] = {"budget": budget, "steps": steps, "epochs": epochs, "rounds": rounds}
    given |= {"strict": strict or None, **chosen_boards(log), **chosen_device(device)}
    given |= {name: None if path is None else str(path) for name, path in (("student", student), ("teacher", teacher))}
    options = read_settings(config or begun(output, resume=resume), settings, given)
    require_options(DistillOptions, options)
    small, full = options.pop("student", ""), options.pop("teacher", "")
    if not small or not full:
        usage = "name a student and a teacher: atomslim distill STUDENT TEACHER TASK=DATA -o FOLDER"
        raise nothing_named(usage, output, resume=resume)
    if data:
        options["tasks"] = named_tasks(tasked(data), options.get("tasks", ()))
    options["tasks"] = with_reader_options(options.get("tasks", ()), option)
    require_as_many_processes(options, os.environ)
    run(small, full, output=output, resume=resume, **options)
    say_run(output, "the best student", json=json)
    learned = data or _data_of(options)
    tested = ["--split", str(output)] if len(learned) == 1 else []  # what it did not learn from
    next_step("compare", full, small, output, *_each("--data", learned), *tested, "-o", "compare/")


def _each(option: str, values: Sequence[str]) -> list[str]:
    """Write an option once for each value."""
    return [word for value in values for word in (option, value)]


def named_tasks(data: str | dict[str, str], known: Any) -> list[dict[str, Any]]:
    """Put datasets named on the command line into the options of tasks, where a resumed run finds them."""
    if isinstance(data, str):
        return [{"data": data}]
    options = {task["name"]: task for task in listed(known, {"name"})}
    return [{**options.get(name, {}), "name": name, "data": source} for name, source in data.items()]


def _data_of(options: dict[str, Any]) -> list[str]:
    """Name the datasets of a run as the command line does; a placeholder if they have no names."""
    tasks = [task for task in options.get("tasks", ()) if task.get("data")]
    return [f"{task['name']}={task['data']}" if "name" in task else str(task["data"]) for task in tasks] or ["DATA"]
