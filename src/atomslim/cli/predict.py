"""`atomslim predict`: energies, forces and other properties for every structure of a file."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number


def predict(
    model: Path,
    structures: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    task: str | None = None,
    batch_size: Annotated[int, Parameter(validator=Number(gte=1))] = 512,
    device: Literal["cpu", "cuda"] = "cpu",
    raw_weights: Annotated[bool, Parameter(negative=())] = False,
    strict: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Predict energies, forces, stress and other properties for every structure of a file.

    Example: atomslim predict jmp-l.pt water.xyz -o predicted.extxyz --task ani1x

    Parameters
    ----------
    model
        A JMP checkpoint (.pt, .ckpt) or a model of atomslim's own (.safetensors).
    structures
        One or many structures in any format that ASE reads, compressed (.gz, .bz2, .xz) or not.
    output
        The extended XYZ file to write: energies in eV, forces in eV/Å, stress in eV/Å³.
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

    """
    from atomslim.use.predict import predict_file

    summary = predict_file(
        model,
        structures,
        output,
        task=task,
        batch_size=batch_size,
        device=device,
        weights="raw" if raw_weights else "ema",
        strict=strict,
    )
    print(f"{output}: {summary}")
