"""`atomslim predict`: energies, forces and other properties for every structure of a file."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number


def predict(  # noqa: PLR0913 - what goes in, what comes out, and how
    model: Path,
    structures: Annotated[tuple[Path, ...], Parameter(negative=())],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    task: str | None = None,
    batch_size: Annotated[int, Parameter(validator=Number(gte=1))] = 512,
    device: Literal["cpu", "cuda"] = "cpu",
    raw_weights: Annotated[bool, Parameter(negative=())] = False,
    strict: Annotated[bool, Parameter(negative=())] = False,
    form: Annotated[Literal["extxyz", "parquet"], Parameter(name="--format")] = "extxyz",
    shard_size: Annotated[int, Parameter(validator=Number(gte=1))] = 10_000,
    process: str | None = None,
    resume: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Predict energies, forces, stress and other properties for every structure of one or more files.

    Into a file, for one file of structures; or into a folder of shards, for any number of them: these can be resumed,
    and shared among processes (torchrun and SLURM are understood).

    Example: atomslim predict jmp-l.pt water.xyz -o predicted.extxyz --task ani1x

    Example: atomslim predict jmp-l.pt frames/*.xyz -o predictions/ --task oc20 --format parquet --resume

    Parameters
    ----------
    model
        A JMP checkpoint (.pt, .ckpt) or a model of atomslim's own (.safetensors).
    structures
        Files of one or many structures in any format that ASE reads, compressed (.gz, .bz2, .xz) or not.
    output
        The extended XYZ file to write (.extxyz, .xyz), or a folder: energies in eV, forces in eV/Å, stress in eV/Å³.
    task
        The task head to use, by name; needed where the model has several (atomslim info lists them).
    batch_size
        At most this many atoms at once; a larger structure goes alone.
    device
        Where the model runs.
    raw_weights
        Use the weights of the last training step instead of their exponential averages.
    strict
        Refuse structures in which the model's cap on neighbours leaves out atoms within the cutoff.
    form
        Of the shards in a folder; parquet needs the extra of this name.
    shard_size
        Structures in each shard.
    process
        Write only this process's shards, as in 3/16: the fourth of 16.
    resume
        Go on with the folder: shards that are there are not written again.

    """
    from atomslim.errors import ConfigError
    from atomslim.use.predict import predict_file
    from atomslim.use.shards import parse_process, predict_shards

    common: dict[str, Any] = {"task": task, "batch_size": batch_size, "device": device, "strict": strict}
    common["weights"] = "raw" if raw_weights else "ema"
    if output.suffix in {".extxyz", ".xyz"} and len(structures) == 1:
        summary = predict_file(model, structures[0], output, **common)
    elif output.suffix:
        raise ConfigError(f"{output}: name a folder for shards, or one .extxyz file for one file of structures")
    else:
        summary = predict_shards(
            model,
            structures,
            output,
            form=form,
            shard_size=shard_size,
            process=None if process is None else parse_process(process),
            resume=resume,
            **common,
        )
    print(f"{output}: {summary}")
