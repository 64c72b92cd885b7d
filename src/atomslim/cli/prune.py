"""`atomslim prune`: a model with fewer blocks, smaller widths, or fewer neighbours."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from atomslim.cli.devices import Device
from atomslim.cli.ending import Json, next_step, say_json, with_data
from atomslim.cli.numbers import COUNT, FINITE, SEED, WHOLE
from atomslim.terminal import say

if TYPE_CHECKING:
    from atomslim.models.block_model import BlockModel


def prune(  # noqa: PLR0913 - the ways to choose blocks, and how the readout follows
    model: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    blocks: Annotated[int | None, WHOLE] = None,
    keep: str | None = None,
    drop_lowest: Annotated[int | None, WHOLE] = None,
    max_params: str | None = None,
    speedup: Annotated[float | None, FINITE] = None,
    max_error: Annotated[float | None, FINITE] = None,
    max_ms: Annotated[float | None, FINITE] = None,
    max_memory: str | None = None,
    finer: Annotated[bool, Parameter(negative=())] = False,
    axes: str | None = None,
    front: Path | None = None,
    measure_on: Path | None = None,
    cutoffs: str | None = None,
    relevance: Path | None = None,
    score: Literal["gradcam", "taylor", "influence", "leave-out"] = "gradcam",
    realign: Literal["sliced", "random", "least-squares", "least-squares-forces"] = "sliced",
    directions: Annotated[int, COUNT] = 4,
    force_weight: Annotated[float, FINITE] = 3.0,
    stress_weight: Annotated[float, FINITE] = 0.0,
    hand_over: Annotated[bool, Parameter(negative=())] = False,
    data: Annotated[tuple[str, ...], Parameter(name="--data", negative=())] = (),
    option: Annotated[tuple[str, ...], Parameter(name="--option", negative=())] = (),
    limit: Annotated[int, COUNT] = 256,
    batch_size: Annotated[int, COUNT] = 8,
    seed: Annotated[int, SEED] = 0,
    width: str | None = None,
    channel_score: Literal["least-squares", "activation", "taylor"] | None = None,
    neighbours: Annotated[float | None, FINITE] = None,
    scan_neighbours: str | None = None,
    cutoff: Annotated[float | None, FINITE] = None,
    export: Path | None = None,
    without: str | None = None,
    device: Device = "auto",
    force: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Prune a model's interaction blocks and re-align its readout, make it narrower, or lower its neighbour cap.

    Blocks are numbered as in the original model. Outputs change; the file records what was done.

    Example: atomslim prune jmp-l.pt -o jmp-l-4.safetensors --blocks 4 --realign least-squares --data oc20=xyz:calib.xyz

    Parameters
    ----------
    model
        An atomslim model (.safetensors), a checkpoint of its family (JMP: .pt), or a name (chgnet:0.3.0).
    output
        The model file to write (.safetensors); with --scan-neighbours, a JSON file.
    blocks
        Keep this many blocks, from the first (the paper's protocol).
    keep
        Keep these blocks, as in 1,2,3,5.
    drop_lowest
        Remove this many blocks: those that matter least by --relevance, or as scored on --data.
    max_params
        Remove as few blocks as possible to get at most this many parameters, as in 110M.
    speedup
        Remove as few blocks as possible for this speed-up by counted FLOPs, as in 1.3.
    max_error
        Remove blocks and finer units, those that matter least on --data first, while the difference from the full
        model before re-alignment stays below this: relative RMS of forces (0.1 is 10 %), else of targets.
    max_ms
        Like --finer, for at most this CPU time in ms for --measure-on, graphs included.
    max_memory
        Like --finer, for at most this memory for weights and a prediction of --measure-on (500MB, 2GB).
    finer
        Let --max-params and --speedup choose among all --axes by error added on --data per cost saved. Speed is
        measured on --measure-on if widths or neighbours can be reduced, else counted in FLOPs.
    axes
        What --finer and the other targets may reduce: some of blocks,units,widths,neighbours; by default all that
        the family supports (units: SevenNet, CHGNet; widths: JMP, SevenNet; neighbours: JMP, Orb).
    front
        A folder for the measurements: measured.json, which the next target with this folder reuses, and the Pareto
        front of cost and error (front.md, front.png).
    measure_on
        A file of structures whose predictions' cost counts (the sum of times, the largest memory); by default the
        first structure of --data.
    cutoffs
        With --max-error or --finer: also try these shorter cutoffs in Å, as in 5.5,5,4.5 (SevenNet, CHGNet).
    relevance
        The relevance.json that atomslim relevance wrote; without it, --max-params and --speedup remove the last blocks.
    score
        The score that ranks blocks.
    realign
        How to adapt the readout's first layer: sliced; random (for fine-tuning); least-squares, fitted on --data to
        the full model's layer; or least-squares-forces, fitted to the full model's energies, forces and stress, with
        --width after channels are removed.
    directions
        For least-squares-forces and --hand-over: number of random directions per structure to fit forces along.
    force_weight
        For least-squares-forces: weight of forces in eV/Å relative to energies in eV/atom.
    stress_weight
        For least-squares-forces: weight of stress times volume in eV/atom; 0: stress is not fitted.
    hand_over
        Map inputs of kept blocks after removed ones to those in the full model, on --data (SevenNet, CHGNet).
    data
        Structures for least squares, --width, --finer, --max-error, --drop-lowest (labelled) or --scan-neighbours
        (labelled): a dataset or file, as TASK=NAME if the model has several tasks.
    option
        An option of the datasets' readers, such as energy_key=MACE_energy; may be repeated.
    limit
        At most this many structures per task.
    batch_size
        Structures per batch.
    seed
        Seed of the random layer.
    width
        Make the model narrower, after any blocks are removed: channels to keep, or a fraction of them, as in
        edge=512,atom=0.75 (JMP) or l0=64,lmax=1 (SevenNet); --data chooses them and fits the layers that read them.
    channel_score
        How --width ranks channels: by least-squares error without them (the default), activation, or Taylor expansion.
    neighbours
        Set the neighbour cap of the main graph: a number (20), or a fraction of the present one (0.5).
    scan_neighbours
        Only measure errors and speed on --data with these neighbour caps, as in 10,15,20.
    cutoff
        Use a shorter cutoff in Å, without a step in the energy (SevenNet, CHGNet).
    export
        Also write a checkpoint (.pt, say) in the format of the model's family.
    without
        Also leave out these finer units, as in 'bonds 3,angles 2'; atomslim info lists those of a model.
    device
        Where models run; auto uses a CUDA device if there is one.
    force
        Overwrite existing files; models from earlier calls are replaced anyway.
    json
        Print the result as JSON, for programs.

    """
    from atomslim.cli.prune_report import report
    from atomslim.cli.prune_target import Choices, chosen, parse_axes, require_chosen, require_front
    from atomslim.cli.settings import on_device
    from atomslim.compress.force_rows import Weights
    from atomslim.errors import ConfigError
    from atomslim.models.card import write_card
    from atomslim.models.model_file import checksum
    from atomslim.models.registry import located

    ways = {"blocks": blocks, "keep": keep, "drop": drop_lowest, "parameters": max_params, "speed": speedup}
    cuts = any(one is not None for one in (neighbours, without, cutoff, max_error, max_ms, max_memory, width)) or any(
        value is not None for value in ways.values()
    )
    if cuts == (scan_neighbours is not None):
        raise ConfigError(
            "say what to do with one of --blocks, --keep, --drop-lowest, --max-params, --speedup, --max-ms, "
            "--max-memory, --max-error (with or without --width, --neighbours, --without or --cutoff), --width, "
            "--neighbours, --without, --cutoff or --scan-neighbours"
        )
    structures = _structures(data, option)
    widths = _widths(width, channel_score, structures)
    options = {"limit": limit, "batch_size": batch_size}
    _require_outputs(output, export, [model, *([relevance] if relevance else [])], data, force, scan_neighbours)
    require_front(front, [model, *([relevance] if relevance else [])], data, force=force)
    if scan_neighbours is not None:
        _scan(on_device(model, device), scan_neighbours, structures, output, options, json=json)
        next_step("prune", model, "-o", "small.safetensors", "--neighbours", scan_neighbours.split(",")[0])
        return
    if output is None:
        raise ConfigError("name the output: -o small.safetensors")
    _require_sizes(whole := on_device(model, device), widths, neighbours, cutoff)
    fitting = {"directions": directions, "weights": Weights(force_weight, stress_weight), "hand_over": hand_over}
    fitting |= {**options, "seed": seed}
    if finer or any(one is not None for one in (max_error, max_ms, max_memory, cutoffs, axes, front, measure_on)):
        others = {"--relevance": relevance, "--without": without, "--cutoff": cutoff, "--width": width}
        targets = {"size": max_params, "speed": speedup, "error": max_error, "ms": max_ms, "memory": max_memory}
        require_chosen(ways, others, structures)
        of = {"model": checksum(located(model)[0]), "data": list(data), "limit": limit}
        choices = Choices(targets, None if axes is None else parse_axes(axes), cutoffs, front, measure_on, of)
        small = chosen(whole, choices, realign, structures, fitting, said=not json)
    else:
        units = [] if without is None else [name.strip() for name in without.split(",")]
        given = {**fitting, "without": units, "narrower": widths is not None}
        small = _cut(whole, ways, relevance, score, realign, structures, given)
        if widths is not None:
            small = _narrowed(whole, small, widths, channel_score, realign, structures, fitting)
    small = _with_less(small, neighbours, cutoff)
    entry = small.history[len(whole.history)]
    entry["parent"] = {"file": model.name, "sha256": checksum(located(model)[0])}
    _write(small.cpu(), output, export)
    write_card(small, output)
    if json:
        say_json(_as_dict(output, whole, small))
    else:
        report(output, whole, small, speed="chosen" not in entry and speedup is not None)
    learn = with_data(data, model.name, list(small.tasks), relevance)
    next_step("distill", output, model, *learn, "-o", f"runs/{output.stem}", "--budget", "30min")


def _structures(data: tuple[str, ...], option: tuple[str, ...]) -> Any:
    """Return a function that opens the structures when they are needed, or None; refuses options that nothing reads."""
    from atomslim.cli.settings import opened_data
    from atomslim.errors import ConfigError

    if option and not data:
        raise ConfigError(f"--option {option[0]}: is for the reader of --data, which is not given: leave it out")
    return partial(opened_data, data, option) if data else None


def _as_dict(output: Path, whole: "BlockModel", small: "BlockModel") -> dict[str, Any]:
    """Return what was done, as plain data."""
    from atomslim.models.modes import parameter_count

    counts = {"parameters before": parameter_count(whole), "parameters after": parameter_count(small)}
    done = small.history[len(whole.history) :]
    return {"output": output, "blocks": small.block_ids, "of": whole.block_ids, **counts, "operations": done}


def _require_outputs(
    output: Path | None, export: Path | None, files: list[Path], data: tuple[str, ...], force: bool, scan: str | None
) -> None:
    """Refuse files that are not to be written, before anything is computed."""
    from atomslim.cli.outputs import has_report, is_cut, read_from, require_ending, require_output
    from atomslim.errors import ConfigError

    inputs = read_from(*files, *data)
    if scan is not None:
        if export is not None:
            raise ConfigError("--export: --scan-neighbours makes no model to export: leave one of them out")
        if output is not None:
            require_ending(output, {".json"}, "what --scan-neighbours writes")
            require_output(output, inputs, force=force, own=has_report({"rows"}))
        return
    if output is not None:
        require_ending(output, {".safetensors"}, "a model file of atomslim's")
        require_output(output, inputs, force=force, own=is_cut)
    if export is not None:
        if export.suffix.lower() == ".safetensors":
            raise ConfigError(
                f"{export}: a checkpoint of a model's family is not a .safetensors file: use its ending, as in .pt"
            )
        require_output(export, inputs, force=force, own=is_cut)


def _write(model: "BlockModel", output: Path, export: Path | None) -> None:
    """Write the model, and with it the checkpoint if one is asked for: both, or neither."""
    from atomslim.files import atomic_write
    from atomslim.models.model_file import encoded
    from atomslim.models.model_file import export as write_checkpoint

    with atomic_write(output) as temporary:
        temporary.write_bytes(encoded(model))
        if export is not None:
            write_checkpoint(model, export)


def _cut(
    whole: "BlockModel",
    ways: Mapping[str, Any],
    relevance: Path | None,
    score: str,
    realign: Any,
    structures: Any,
    options: dict[str, Any],
) -> "BlockModel":
    """Return the model with the chosen blocks; the model itself if no choice was made."""
    from atomslim.compress.choose import chosen_blocks
    from atomslim.compress.prune import FITTED, keep_blocks
    from atomslim.errors import ConfigError

    narrower = options.pop("narrower")
    if narrower and realign == "least-squares-forces":  # that comes last
        realign = "sliced"
    scored = ways["drop"] is not None and relevance is None and structures is not None
    of_use = narrower or scored or realign in FITTED or options["hand_over"]
    if structures is not None and not of_use:
        raise ConfigError(
            "--data has no use here: it is for --realign least-squares(-forces), --hand-over, --width, or --drop-lowest"
        )
    order: Any = relevance
    if scored:
        from atomslim.compress.relevance import block_relevance

        limits = {name: options[name] for name in ("limit", "batch_size")}
        order = block_relevance(whole, structures(), leave_out=score == "leave-out", **limits)
    kept = chosen_blocks(whole, ways, order, score)
    if kept is None and options["without"]:
        kept = whole.block_ids
    if kept is None:
        if options["hand_over"]:
            raise ConfigError("--hand-over: needs removed blocks: say which blocks to keep")
        if realign != "sliced":
            raise ConfigError(f"--realign {realign}: needs removed blocks: say which blocks to keep")
        return whole
    calibration = (
        structures(labelled=False) if structures is not None and (realign in FITTED or options["hand_over"]) else None
    )
    return keep_blocks(whole, kept, realign=realign, calibration=calibration, **options)


def _widths(text: str | None, score: str | None, structures: Any) -> dict[str, float] | None:
    """Parse --width; raises ConfigError for widths without structures, and for a channel score without widths."""
    from atomslim.cli.settings import widths_of
    from atomslim.errors import ConfigError

    if text is None and score is not None:
        raise ConfigError(f"--channel-score {score}: ranks channels for --width: give widths, or leave it out")
    if text is None:
        return None
    if structures is None:
        raise ConfigError("--width: channels are chosen on structures: give some with --data")
    return widths_of("--width", text)


def _require_sizes(
    whole: "BlockModel", widths: Mapping[str, float] | None, neighbours: float | None, cutoff: float | None
) -> None:
    """Refuse sizes that the model cannot have, before anything is computed."""
    _with_less(whole, neighbours, cutoff)
    if widths is not None:
        from atomslim.compress.width import checked_widths

        checked_widths(whole, widths)


def _narrowed(
    whole: "BlockModel",
    small: "BlockModel",
    widths: Mapping[str, float],
    score: Any,
    realign: str,
    structures: Any,
    options: Mapping[str, Any],
) -> "BlockModel":
    """Return the narrower model; if the readout is to be fitted to forces, that comes last."""
    from atomslim.compress.width import narrow

    given: dict[str, Any] = {name: value for name, value in options.items() if name != "hand_over"}
    given |= {"realign": realign if realign == "least-squares-forces" else "sliced", "full": whole}
    return narrow(small, widths, structures(labelled=False), score=score or "least-squares", **given)


def _with_less(small: "BlockModel", neighbours: float | None, cutoff: float | None) -> "BlockModel":
    """Return the model with fewer neighbours or a shorter cutoff, where these are given."""
    if neighbours is not None:
        from atomslim.compress.neighbours import with_neighbours

        small = with_neighbours(small, neighbours)
    if cutoff is not None:
        from atomslim.compress.cutoff import with_cutoff

        small = with_cutoff(small, cutoff)
    return small


def _scan(
    model: "BlockModel",
    counts: str,
    structures: Any,
    output: Path | None,
    options: dict[str, Any],
    *,
    json: bool,
) -> None:
    from atomslim.cli.settings import numbers
    from atomslim.compress.neighbours import neighbour_scan
    from atomslim.errors import ConfigError
    from atomslim.models.family import family_of
    from atomslim.report.console import plain_console

    family_of(model).require("neighbour caps")
    if structures is None:
        raise ConfigError("--scan-neighbours measures errors: give labelled structures with --data")
    chosen = numbers("--scan-neighbours", counts, "10,15,20")
    found = neighbour_scan(model, structures(), chosen, **options)
    if output is not None:
        found.write(output)
    if json:
        say_json(found.as_dict())
        return
    plain_console().print(found)
    if output is not None:
        say(f"{output}: the same numbers")
