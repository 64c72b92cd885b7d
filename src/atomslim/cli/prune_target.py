"""The targets of `atomslim prune` that choose among everything that can be removed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from atomslim.terminal import say

if TYPE_CHECKING:
    from ase import Atoms

    from atomslim.models.block_model import BlockModel

MEASURED = "measured.json"
"""Name of the file in the folder of --front."""


@dataclass(frozen=True)
class Choices:
    """The target, what may be reduced for it, and where measurements of which model and data are kept."""

    targets: Mapping[str, Any]
    axes: tuple[Any, ...] | None
    """None: all that the family supports."""
    cutoffs: str | None
    front: Path | None
    measured_on: Path | None
    of: dict[str, Any]


def chosen(
    whole: "BlockModel", choices: Choices, realign: Any, structures: Any, options: dict[str, Any], *, said: bool
) -> "BlockModel":
    """Return the model pruned to a target at the least added error."""
    from atomslim.benchmarking.machine import machine
    from atomslim.cli.settings import byte_count, numbers
    from atomslim.compress.cheapest import Axis, cheapest
    from atomslim.compress.choose import parse_count
    from atomslim.compress.cuts import Measured
    from atomslim.compress.front import write_front
    from atomslim.compress.prune import FITTED
    from atomslim.compress.targets import require_axes, require_target

    if choices.axes is not None:
        require_axes(whole, choices.axes)
    targets = dict(choices.targets)
    targets |= {"size": None if targets["size"] is None else parse_count(targets["size"])}
    targets |= {"memory": None if targets["memory"] is None else byte_count("--max-memory", targets["memory"]) / 1e6}
    require_target(**targets)
    cutoffs = [] if choices.cutoffs is None else numbers("--cutoffs", choices.cutoffs, "5.5,5,4.5")
    limits = {name: options[name] for name in ("limit", "batch_size")}
    on, of_these = _measured_on(choices.measured_on)
    data = structures(labelled=False)
    of = {**choices.of, "measured on": of_these, "machine": machine(next(whole.parameters()).device)}
    of |= {} if choices.front is None else {"structures": _identity(data)}
    kept = None if choices.front is None else choices.front / MEASURED
    known = Measured(of) if kept is None else Measured.read(kept, of)
    try:
        axes = choices.axes or get_args(Axis)
        ways: dict[str, Any] = {"axes": axes, "cutoffs": cutoffs, "measured_on": on, "known": known}
        choice = cheapest(whole, data, **targets, **ways, **limits)
    finally:
        if kept is not None and known.cuts:
            kept.parent.mkdir(parents=True, exist_ok=True)
            known.write(kept)
    for line in choice.words() if said else ():
        say(line)
    if choices.front is not None:
        write_front(choice, choices.front)
    if choices.front is not None and said:
        say(f"{choices.front}: {len(choice.front())} of {len(choice.tried)} cuts on the Pareto front")
    looks = realign in FITTED or options["hand_over"]
    return choice.apply(whole, data, realign=realign, calibration=data if looks else None, **options)


def _identity(data: Any) -> str:
    """Identify the structures by number and checksum, by task if several are named."""
    from atomslim.train.run_state import data_identity

    found = {
        task: data_identity(one, labelled=False)
        for task, one in (data if isinstance(data, dict) else {"": data}).items()
    }
    return ", ".join(f"{task} {one['structures']} {one['sha256'][:12]}".strip() for task, one in found.items())


def _measured_on(path: Path | None) -> tuple[list["Atoms"], str]:
    """Return all structures of a file, and a description of them; none without a file."""
    from atomslim.errors import StructureError
    from atomslim.inference.inputs import open_inputs, read_inputs
    from atomslim.models.model_file import checksum

    if path is None:
        return [], "the first structure of the data"
    found = [frame.atoms for frame in read_inputs(open_inputs([path]))]
    if not found:
        raise StructureError(f"{path}: holds no structure: name another file")
    return found, f"{path.name} {checksum(path)}"


def parse_axes(text: str) -> tuple[str, ...]:
    """Parse --axes, each once."""
    from atomslim.compress.cheapest import Axis
    from atomslim.errors import ConfigError

    known = get_args(Axis)
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ConfigError(f"--axes {text}: no axis {wrong[0]!r}: choose from {','.join(known)}")
    return names


def require_chosen(ways: Mapping[str, Any], others: Mapping[str, Any], structures: Any) -> None:
    """Refuse options that do not apply to a choice among blocks and finer units."""
    from atomslim.errors import ConfigError

    given = [name for name, value in others.items() if value is not None]
    given += [
        f"--{name.replace('drop', 'drop-lowest')}" for name in ("blocks", "keep", "drop") if ways[name] is not None
    ]
    if given:
        raise ConfigError(
            f"{given[0]}: --finer, --max-error, --max-ms, --max-memory and what goes with them (--axes, --cutoffs, "
            "--front, --measure-on) choose on --data: leave one of them out"
        )
    if structures is None:
        raise ConfigError(
            "--finer, --max-error, --max-ms, --max-memory, --axes, --cutoffs, --front and --measure-on measure the "
            "cost of each cut: give structures with --data"
        )


def require_front(front: Path | None, files: list[Path], data: tuple[str, ...], *, force: bool) -> None:
    """Refuse a folder whose files are not to be written, before anything is computed."""
    from atomslim.cli.outputs import has_report, read_from, require_folder

    if front is not None:
        own = has_report({"of", "cuts"}, MEASURED)
        require_folder(front, (MEASURED, "front.md", "front.png"), read_from(*files, *data), force=force, own=own)
