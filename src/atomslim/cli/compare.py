"""`atomslim compare`: models side by side."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT
from atomslim.terminal import say


def compare(  # noqa: PLR0913 - what is compared, and how
    models: Annotated[tuple[Path, ...], Parameter(negative=())],
    /,
    *,
    data: Annotated[tuple[str, ...], Parameter(name="--data", negative=())],
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    split: Path | None = None,
    limit: Annotated[int, COUNT] = 256,
    batch_size: Annotated[int, COUNT] = 8,
    repeats: Annotated[int, COUNT] = 10,
    speed: bool = True,
    strict: Annotated[bool, Parameter(negative=())] = False,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    validate: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    device: Device = "auto",
    force: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Compare models on one dataset: errors by target and element, parameters, FLOPs, speed, memory.

    Writes compare.html, compare.md, compare.csv, compare.json and compare.png (error against time) into a folder.

    Example: atomslim compare jmp-l.pt jmp-l-4.safetensors --data oc20=xyz:frames.xyz -o compare/

    Parameters
    ----------
    models
        Model files; the first is what the others are compared with.
    data
        A labelled dataset or file, as TASK=NAME if the models have several tasks; may be repeated.
    output
        The folder to write to.
    split
        Use only the test set of this split (split.TASK.json in a run's folder).
    limit
        At most this many structures per task, evenly spaced over its data.
    batch_size
        Structures per batch.
    repeats
        Minimum number of timing rounds; short runs are repeated until they fill a second.
    speed
        Also measure FLOPs, times and memory.
    strict
        Refuse structures with elements or a composition that a task was not trained on, or with a charge or spin.
    option
        An option of the datasets' readers, such as energy_key=MACE_energy; may be repeated.
    validate
        Also check the physics on three of the structures: quick, full, or names of checks; may be repeated. The others
        are compared with the first model.
    device
        Where the models run; auto uses a CUDA device if there is one.
    force
        Overwrite existing files; files that this command wrote earlier are replaced anyway.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.outputs import has_report, read_from, require_folder
    from atomslim.cli.settings import on_device, opened_data
    from atomslim.evaluation.compare import compare as run
    from atomslim.evaluation.compare import model_files, named
    from atomslim.evaluation.comparison import FILES
    from atomslim.parsing import parse_json
    from atomslim.report.console import plain_console

    own = has_report({"models", "main target", "conventions"}, "compare.json")
    inputs = read_from(*models, *data, *([split] if split else []))
    require_folder(output, FILES, inputs, force=force, own=own)
    loaded = {name: on_device(path, device) for name, path in named(models).items()}
    how: dict[str, Any] = {"limit": limit, "batch_size": batch_size, "strict": strict, "checks": validate}
    found = run(loaded, opened_data(data, option), split=split, repeats=repeats, speed=speed, **how)
    found = replace(found, files=model_files(models))
    found.write(output)
    if json:
        say_json(parse_json((output / "compare.json").read_text(encoding="utf-8")))
    else:
        plain_console().print(found)
        for sentence in found.words():
            say(sentence)
        say(f"{output / 'compare.html'}: the report")
    against: list[str | Path] = ["--against", models[0]] if len(models) > 1 else []
    next_step("validate", models[-1], *against, "--task", next(iter(found.data)), "-o", "validation/")
