"""`atomslim predict`: energies, forces and other properties for every structure of files and datasets."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_json
from atomslim.cli.numbers import COUNT
from atomslim.terminal import say

Flag = Annotated[bool, Parameter(negative=())]


def predict(  # noqa: PLR0913 - what goes in, what comes out, and how
    model: Path,
    structures: Annotated[tuple[str, ...], Parameter(negative=())],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    task: str | None = None,
    batch_size: Annotated[int, COUNT] = 512,
    device: Device = "auto",
    precision: Literal["highest", "high", "fast"] | None = None,
    raw_weights: Flag = False,
    strict: Flag = False,
    form: Annotated[Literal["extxyz", "parquet"] | None, Parameter(name="--format")] = None,
    shard_size: Annotated[int | None, COUNT] = None,
    process: str | None = None,
    resume: Flag = False,
    force: Flag = False,
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    json: Json = False,
) -> None:
    """Predict energies, forces, stress and other properties for every structure of files, folders or datasets.

    Writes one file at the end, or a folder of shards that can be resumed and shared among processes (srun, torchrun).

    Example: atomslim predict jmp-l.pt water.xyz -o predicted.extxyz --task ani1x

    Example: srun atomslim predict jmp-l.pt frames/ -o predictions/ --task oc20 --format parquet --resume

    Parameters
    ----------
    model
        An atomslim model (.safetensors), a checkpoint of its family (JMP: .pt), or a name (chgnet:0.3.0).
    structures
        Files in any format that ASE reads, compressed or not; folders of them; containers; datasets (rmd17:aspirin).
    output
        The extended XYZ file to write (.extxyz, .xyz), or a folder: energies in eV, forces in eV/Å, stress in eV/Å³.
    task
        The task to use, by name; needed if the model has several (atomslim info lists them).
    batch_size
        At most this many atoms per batch; a larger structure runs alone. Lowered when memory runs out.
    device
        Where the model runs; auto uses a CUDA device if there is one.
    precision
        Number format: highest (float32, the default), high (TF32 where the device has it), fast (bfloat16 in
        dense layers).
    raw_weights
        Use the weights of the last training step instead of their exponential averages.
    strict
        Refuse structures in which the neighbour cap leaves out atoms within the cutoff, with elements or a
        composition that the task was not trained on, or with a charge or spin, which models ignore.
    form
        Format of the shards in a folder: extxyz (the default), or parquet, which needs the extra `parquet`.
    shard_size
        Structures in each shard (default 10000).
    process
        Write only this process's shards, as in 3/16: the fourth of 16.
    resume
        Continue in the folder: shards that are complete are not written again.
    force
        Overwrite an existing file.
    option
        An option of the readers, such as length_unit=bohr; may be repeated. Labels are not needed.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.devices import device_of
    from atomslim.cli.outputs import read_from, require_output
    from atomslim.cli.settings import reader_options
    from atomslim.inference.predict import predict_file
    from atomslim.inference.process import parse_process
    from atomslim.inference.shards import predict_shards

    common: dict[str, Any] = {"task": task, "batch_size": batch_size, "device": device_of(device), "strict": strict}
    common |= {"weights": "raw" if raw_weights else None, "precision": precision, "options": reader_options(option)}
    for_folders = {"--format": form, "--shard-size": shard_size, "--process": process, "--resume": resume or None}
    if _is_file(output, [name for name, value in for_folders.items() if value is not None]):
        require_output(output, read_from(model, *structures), force=force)
        summary = predict_file(model, structures, output, **common)
    else:
        summary = predict_shards(
            model,
            structures,
            output,
            form=form or "extxyz",
            shard_size=shard_size or 10_000,
            process=None if process is None else parse_process(process),
            resume=resume,
            **common,
        )
    if json:
        say_json({"output": output, **vars(summary)})
    else:
        say(f"{output}: {summary}")
    if form != "parquet":
        next_step("data", "show", output)


def _is_file(output: Path, for_folders: list[str]) -> bool:
    """Say whether predictions go to one file; raises ConfigError if that contradicts other options."""
    from atomslim.errors import ConfigError
    from atomslim.inference.process import process_of

    if not output.suffix or output.is_dir():
        return False
    if output.suffix not in {".extxyz", ".xyz"}:
        raise ConfigError(f"{output}: name an .extxyz file, or a folder for shards (one with a dot must exist already)")
    if for_folders:
        raise ConfigError(f"{output}: {', '.join(for_folders)} is for folders of shards: name a folder as output")
    if process_of(os.environ)[1] > 1:
        raise ConfigError(f"{output}: several processes cannot write one file: name a folder as output")
    return True
