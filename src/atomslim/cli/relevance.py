"""`atomslim relevance`: how much each block of a model matters."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT, WEIGHT
from atomslim.terminal import say


def relevance(  # noqa: PLR0913 - what is scored, and how
    model: Path,
    data: Annotated[tuple[str, ...], Parameter(negative=())],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    limit: Annotated[int, COUNT] = 256,
    batch_size: Annotated[int, COUNT] = 8,
    force_weight: Annotated[float, WEIGHT] = 1.0,
    leave_out: bool = True,
    cutoffs: str | None = None,
    widths: str | None = None,
    device: Device = "auto",
    strict: Annotated[bool, Parameter(negative=())] = False,
    force: Annotated[bool, Parameter(negative=())] = False,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    json: Json = False,
) -> None:
    """Score every interaction block and finer unit of a model on labelled data, as in the paper's Fig. 2.

    Writes relevance.json, relevance.csv and relevance.png into a folder. The main score
    is GradCAM; others are Taylor, influence on features, and the measured increase in error without each block.

    Example: atomslim relevance jmp-l.pt oc20=xyz:frames.xyz ani1x=xyz:molecules.xyz -o relevance/

    Parameters
    ----------
    model
        An atomslim model (.safetensors), a checkpoint of its family (JMP: .pt), or a name (chgnet:0.3.0).
    data
        Labelled datasets or files, as TASK=NAME if the model has several tasks.
    output
        The folder to write to.
    limit
        At most this many structures per task, evenly spaced over its data.
    batch_size
        Structures per batch.
    force_weight
        Weight of forces in the loss; everything else has weight 1.
    leave_out
        Also measure the errors without each block and finer unit; takes one evaluation each.
    cutoffs
        Also measure errors with these shorter cutoffs in Å, as in 5.5,5 (SevenNet, CHGNet).
    widths
        Also measure errors with these smaller widths, one at a time: channels to keep, or a fraction of them, as in
        edge=512,atom=0.75 (`atomslim info` lists the widths of a model).
    device
        Where the model runs; auto uses a CUDA device if there is one.
    strict
        Refuse structures with elements or a composition that a task was not trained on, or with a charge or spin.
    force
        Overwrite existing files; files that this command wrote earlier are replaced anyway.
    option
        An option of the datasets' readers, such as energy_key=MACE_energy; may be repeated.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.outputs import has_report, read_from, require_folder
    from atomslim.cli.settings import numbers, on_device, opened_data, widths_of
    from atomslim.compress.relevance import block_relevance
    from atomslim.compress.relevance_report import FILES
    from atomslim.report.console import plain_console

    own = has_report({"blocks", "mix", "agreement", "tasks"}, "relevance.json")
    require_folder(output, FILES, read_from(model, *data), force=force, own=own)
    found = block_relevance(
        on_device(model, device),
        opened_data(data, option),
        limit=limit,
        batch_size=batch_size,
        force_weight=force_weight,
        leave_out=leave_out,
        cutoffs=[] if cutoffs is None else numbers("--cutoffs", cutoffs, "5.5,5"),
        widths=None if widths is None else widths_of("--widths", widths),
        strict=strict,
    )
    found.write(output)
    if json:
        say_json(found.as_dict())
    else:
        plain_console().print(found)
        say(f"{output}: relevance.json, relevance.csv, relevance.png")
    drop = str(max(1, (len(found.blocks) - 1) // 3))
    next_step("prune", model, "-o", "small.safetensors", "--drop-lowest", drop, "--relevance", output)
