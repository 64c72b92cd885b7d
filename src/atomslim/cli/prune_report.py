"""What `atomslim prune` reports about a pruned model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomslim.terminal import say

if TYPE_CHECKING:
    from atomslim.models.block_model import BlockModel


def report(output: Path, whole: "BlockModel", small: "BlockModel", *, speed: bool) -> None:
    """Say what was removed on every axis, and how good the fits are."""
    from atomslim.models.modes import parameter_count

    say(f"{output}: blocks {_list(small.block_ids)} of {_list(whole.block_ids)}")
    say(f"{parameter_count(whole):,} parameters before, {parameter_count(small):,} after")
    if speed:
        from atomslim.compress.choose import flops

        say(f"estimated to be {flops(whole) / flops(small):.2f} × as fast, by FLOPs counted on benzene")
    for entry in small.history[len(whole.history) :]:
        if entry["operation"] == "keep blocks":
            for unit in entry.get("without", ()):
                say(f"without {unit}")
            say(f"readout: {entry['realign']}")
        elif entry["operation"] == "narrow":
            _report_widths(entry)
        elif entry["operation"] == "shorten cutoff":
            after = entry["cutoff after"]
            say(
                "cutoff: " + ", ".join(f"{task} {entry['cutoff before'][task]:g} → {after[task]:g} Å" for task in after)
            )
        else:
            before, after = entry["neighbours before"], entry["neighbours after"]
            say("neighbours: " + ", ".join(f"{task} {before[task]} → {after[task]}" for task in after))
        for branch, fit in entry.get("fit", {}).items():
            where = f"{fit['rows held out']} held-out rows" if fit["rows held out"] else "the fitted rows"
            say(
                f"{branch} readout: R² of the full model's pre-activations {fit['R2 sliced']:.4f} sliced, "
                f"{fit['R2 fitted']:.4f} fitted, on {where} ({fit['structures']} structures, ridge {fit['ridge']:.0e})"
            )
        for one in entry.get("hand-over", ()):
            kinds = ", ".join(f"{kind} {one['before'][kind]:.3f} → {value:.3f}" for kind, value in one["after"].items())
            say(f"hand-over to block {one['block']}: R² of values and slopes of {kinds}")
        if "force fit" in entry:
            _report_force_fit(entry["force fit"])


def _report_widths(entry: Mapping[str, Any]) -> None:
    after = entry["widths after"]
    cuts = ", ".join(f"{name} {entry['widths before'][name]} → {after[name]}" for name in after)
    say(f"widths: {cuts or 'as they were'}, chosen by {entry['score']}")
    if "realign" in entry:
        say(f"readout: {entry['realign']}")
    for stage in entry["layers"]["stages"] if "layers" in entry else ():
        say(
            f"{stage['stage']}: R² of {stage['layers']} layers' outputs {stage['R2 before']:.4f} on the full model's "
            f"inputs fitted, {stage['R2 after']:.4f} on their own"
        )


def _report_force_fit(fit: Mapping[str, Any]) -> None:
    where = f"{fit['held_out']} held-out structures" if fit["held_out"] else "the fitted structures"
    before, after = (
        f"{1000 * fit[when]['energy']:.1f} meV/atom and {1000 * fit[when]['forces']:.1f}"
        for when in ("before", "after")
    )
    steps = f"{len(fit['ridges'])} steps from {fit['began_at']}" if fit["ridges"] else f"no step from {fit['began_at']}"
    say(f"energies and weighted derivatives: {before} meV/Å sliced, {after} fitted, on {where} ({steps})")


def _list(blocks: tuple[int, ...]) -> str:
    return ", ".join(map(str, blocks)) or "none"
