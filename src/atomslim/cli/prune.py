"""`atomslim prune`: a model with fewer blocks, or with fewer neighbours."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def prune(  # noqa: PLR0913 - the ways to choose blocks, and how the readout follows
    model: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    blocks: int | None = None,
    keep: str | None = None,
    drop_lowest: int | None = None,
    max_params: str | None = None,
    speedup: float | None = None,
    relevance: Path | None = None,
    score: Literal["gradcam", "taylor", "influence", "leave-out"] = "gradcam",
    realign: Literal["sliced", "random", "least-squares"] = "sliced",
    data: Annotated[tuple[str, ...], Parameter(name="--data", negative=())] = (),
    limit: int = 256,
    seed: int = 0,
    neighbours: int | None = None,
    export_jmp: Path | None = None,
) -> None:
    """Cut a model's interaction blocks and re-align its readout, or let it take fewer neighbours.

    Blocks have their numbers in the original model. Outputs change; what was done is noted in the file.

    Example: atomslim prune jmp-l.pt -o jmp-l-4.safetensors --blocks 4 --realign least-squares --data oc20=xyz:calib.xyz

    Parameters
    ----------
    model
        A JMP checkpoint (.pt, .ckpt) or a model of atomslim's own (.safetensors).
    output
        The model file to write (.safetensors).
    blocks
        Keep so many blocks, from the first (the paper's protocol).
    keep
        Keep these blocks, as in 1,2,3,5.
    drop_lowest
        Remove so many blocks, those that matter least by --relevance.
    max_params
        Remove as few blocks as possible to have at most so many parameters, as in 110M.
    speedup
        Remove as few blocks as possible to be so many times as fast, by counted FLOPs, as in 1.3.
    relevance
        The relevance.json that atomslim relevance wrote; without it, blocks are removed from the last.
    score
        The score of that file to go by.
    realign
        What becomes of the readout's first layer: sliced; random (for fine-tuning); or least-squares, fitted on --data.
    data
        Structures for least-squares: a dataset or file, as TASK=NAME where the model has several tasks.
    limit
        At most so many structures of each task.
    seed
        Of the random layer.
    neighbours
        Let every task take at most so many main neighbours of an atom.
    export_jmp
        Also write a checkpoint in JMP's own format.

    """
    from atomslim.cli.settings import tasked
    from atomslim.compress import choose
    from atomslim.compress.neighbours import with_neighbours
    from atomslim.compress.prune import keep_blocks
    from atomslim.errors import ConfigError
    from atomslim.models.checkpoint import export_jmp as write_jmp
    from atomslim.models.checkpoint import load, save

    whole = load(model)
    ways = {"blocks": blocks, "keep": keep, "drop": drop_lowest, "parameters": max_params, "speed": speedup}
    kept = choose.kept_places(whole, ways, relevance, score)
    if kept is None and neighbours is None:
        raise ConfigError("say what to cut: --blocks, --keep, --drop-lowest, --max-params, --speedup or --neighbours")
    small = whole
    if kept is not None:
        small = keep_blocks(whole, kept, realign=realign, calibration=tasked(data) or None, limit=limit, seed=seed)
    if neighbours is not None:
        small = with_neighbours(small, neighbours)
    save(small, output)
    if export_jmp is not None:
        write_jmp(small, export_jmp)
    print(f"{output}: blocks {_list(small.block_ids)} of {_list(whole.block_ids)}, readout {realign}")
    print(f"{choose.parameters(whole):,} parameters before, {choose.parameters(small):,} after")
    for branch, fit in small.history[-1].get("fit", {}).items():
        print(
            f"{branch} readout: R² of the full model's pre-activations {fit['R2 sliced']:.4f} sliced, "
            f"{fit['R2 fitted']:.4f} fitted (held out; {fit['rows']} rows, ridge {fit['ridge']:.0e})"
        )


def _list(blocks: tuple[int, ...]) -> str:
    return ", ".join(map(str, blocks)) or "none"
