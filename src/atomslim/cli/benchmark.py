"""`atomslim benchmark`: what a model and its cuts cost on well-known structures."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT, whole
from atomslim.terminal import say


def benchmark(  # noqa: PLR0913 - what is measured, and how
    model: Path,
    /,
    *,
    structures: str = "mof5",
    blocks: str | None = None,
    mode: str | None = None,
    precision: str | None = None,
    task: str | None = None,
    batch_size: Annotated[int, COUNT] = 1,
    repeats: Annotated[int, COUNT] = 10,
    growing: Annotated[int | None, Parameter(converter=whole, validator=Number(gte=128))] = None,
    largest: str | None = None,
    device: Device = "auto",
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    force: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Time a model and its first blocks: structures per second, FLOPs, parameters, steps of dynamics, memory.

    With --output, writes benchmark.md and benchmark.json into a folder.

    Example: atomslim benchmark jmp-l.pt --task oc20 --structures mof5,slab --blocks 6,5,4,3,2 -o benchmark/

    Parameters
    ----------
    model
        An atomslim model (.safetensors), a checkpoint of its family (JMP: .pt), or a name (chgnet:0.3.0).
    structures
        One or more of mof5, aspirin, slab, water, or files, separated by commas.
    blocks
        Numbers of blocks to keep from the first, as in 6,5,4; default: all.
    mode
        One or more of energy, forces (everything the task has), train (a step with its optimiser); default: forces,
        or energy for a task without forces.
    precision
        One or more of the policies highest, high, fast, or of the number formats fp32, tf32, bf16, fp16; default:
        highest.
    task
        The task to use, by name; needed if the model has several.
    batch_size
        Copies of the structure per batch, for structures per second.
    repeats
        Minimum number of timing rounds; short runs are repeated until they fill a second.
    growing
        Also time cells of MgO, from 64 atoms up to this many.
    largest
        Also find the largest cell of MgO that runs within this much memory, as in 16GiB.
    device
        Where the model runs; auto uses a CUDA device if there is one.
    output
        The folder to write to.
    force
        Overwrite existing files; files that this command wrote earlier are replaced anyway.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.benchmarking.benchmark import benchmark as run
    from atomslim.benchmarking.costs import FILES
    from atomslim.cli.outputs import has_report, read_from, require_folder
    from atomslim.cli.settings import byte_count, on_device, parts, whole_numbers
    from atomslim.report.console import plain_console

    if output is not None:
        own = has_report({"rows", "growth", "conventions"}, "benchmark.json")
        require_folder(output, FILES, read_from(model, *parts(structures)), force=force, own=own)
    found = run(
        on_device(model, device),
        parts(structures),
        task=task,
        blocks=None if blocks is None else whole_numbers("--blocks", blocks),
        modes=None if mode is None else parts(mode),
        precisions=None if precision is None else parts(precision),
        batch_size=batch_size,
        repeats=repeats,
        growing=growing,
        largest=None if largest is None else byte_count("--largest", largest),
    )
    if output is not None:
        found.write(output)
    if json:
        say_json(found.as_dict())
    else:
        plain_console().print(found)
        for sentence in found.words():
            say(sentence)
        if output is not None:
            say(f"{output}: benchmark.md, benchmark.json")
    next_step("prune", model, "-o", "small.safetensors", "--speedup", "1.3")
