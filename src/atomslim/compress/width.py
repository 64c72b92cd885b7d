"""Width reduction: fewer channels, chosen among the model's own, and the layers that read them fitted anew.

    small = atomslim.narrow(model, {"edge": 0.5, "atom": 96}, {"oc20": "xyz:frames.xyz"})

Channels are chosen by one pass over calibration structures (`atomslim.compress.channel_scores`): those of atom or edge
features are the same in all blocks, because each block adds to them; hidden ones are each layer's own. What stays keeps
its values; layers that take in fewer channels are fitted in closed form (`atomslim.compress.refit`). The result is a
model of its family with smaller sizes. Changes outputs.

Where an energy's derivatives are the forces, the readout may be fitted to the full model's energies and forces in the
end (`atomslim.compress.force_fit`): what went before sees values and not slopes.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, cast

from torch import Tensor

from atomslim.arguments import checked
from atomslim.compress.calibration import Calibration, calibration_structures
from atomslim.compress.channel_scores import ChannelScores, Score, Structures, scored
from atomslim.compress.force_rows import Weights, require_conservative
from atomslim.compress.refit import refit
from atomslim.errors import ConfigError, meant
from atomslim.evaluation.batches import TaskedData, datasets
from atomslim.models.block_model import BlockModel
from atomslim.models.channels import NARROWED
from atomslim.models.family import family_of
from atomslim.models.modes import parameter_count

Model = TypeVar("Model", bound=BlockModel)


@checked
def narrow(  # noqa: PLR0913 - how channels are chosen, and how layers and readout follow
    model: Model,
    widths: Mapping[str, float],
    data: TaskedData,
    *,
    score: Score = "least-squares",
    limit: int = 64,
    batch_size: int = 4,
    sweeps: int = 0,
    seed: int = 0,
    realign: Literal["sliced", "least-squares-forces"] = "sliced",
    directions: int = 4,
    weights: Weights = Weights(),  # noqa: B008 - frozen
    full: BlockModel | None = None,
) -> Model:
    """Return a copy of ``model`` with smaller widths; the model itself is not changed.

    Args:
        model: the model to narrow; `atomslim info` lists its widths.
        widths: width → channels to keep, or a fraction of them below 1.
        data: calibration structures, by task if the model has several; labels are not used.
        score: how channels are ranked: least-squares, activation or taylor.
        limit: at most this many structures per task, evenly spaced over its data.
        batch_size: structures per batch.
        sweeps: times that each block is fitted again, on the narrower model's own inputs; 0: on the full model's only,
            which left the embedded model with the better forces (docs/results/width.md).
        seed: of the random signs of ``taylor``, and of directions.
        realign: how to adapt the readout's first layer in the end; least-squares-forces fits it to energies and forces.
        directions: for that, random directions per structure to fit forces along.
        weights: for that, of forces and stress relative to energies.
        full: for that, whose energies and forces; None: those of ``model``.

    Raises:
        ConfigError: a family without widths, widths that the model does not have or that are larger than its own, or
            forces to fit that are not derivatives of an energy.
        DataError: structures that are missing, cannot be read, or are too few to fit that many inputs.

    """
    of = family_of(model)
    sizes = checked_widths(model, widths)
    if sweeps and not of.refits:
        raise ConfigError(f"sweeps: {of.title} models are fitted on the full model's inputs only: leave sweeps out")
    opened = datasets(model, data, labelled=False)
    if realign != "sliced":
        require_conservative(model, opened)
    lower, left = of.cut_degrees(model, sizes)
    structures = list(calibration_structures(model, opened, limit, batch_size))
    scores = scored(lower, structures, score, seed)
    small, entry = narrowed(cast("Model", lower), left, scores, structures, sweeps=sweeps)
    entry |= _sizes(model, small)
    entry["calibration"] = {task: dataset.name for task, dataset in opened.items()}
    if realign != "sliced":
        fitting = Calibration(limit, batch_size, None, seed, directions, weights)
        entry["realign"] = realign
        entry |= fitting.align(small, full or model, opened, fitted=realign, hand_over=False)
    return small


def narrowed(
    model: Model, sizes: Mapping[str, int], scores: ChannelScores, structures: Structures, *, sweeps: int = 0
) -> tuple[Model, dict[str, Any]]:
    """Return a copy of the model that ``scores`` are of, with these widths, and its entry in the history.

    Without sweeps its layers are fitted on the full model's inputs only.
    """
    kept = scores.kept(sizes)
    small = cast("Model", scores.narrowed(kept))
    entry = _entry(model, small, scores.score, kept)
    if kept and sweeps:
        fits = refit(small, model, scores.layout, kept, structures, sweeps=sweeps)
        entry["layers"] = {"structures": scores.structures, "sweeps": sweeps, "stages": [one.as_dict() for one in fits]}
    small.history = [*model.history, entry]
    return small, entry


def checked_widths(model: BlockModel, widths: Mapping[str, float]) -> dict[str, int]:
    """Return widths as numbers of channels; raises ConfigError for those that cannot be."""
    of = family_of(model)
    of.require("widths")
    there = of.widths(model)
    sizes = {}
    if not widths:
        raise ConfigError(f"no width to cut: name some of {', '.join(there)}")
    for name, value in widths.items():
        if name not in there:
            raise ConfigError(f"no width {name!r}: {_there(there, name)}")
        if value == 1 and isinstance(cast("object", value), float | bool):
            raise ConfigError(f"width {name} {value}: write {there[name]} for all channels, or 1 for one")
        size = round(value * there[name]) if 0 < value < 1 else value
        if not 1 <= size <= there[name] or size % 1:
            raise ConfigError(
                f"width {name} {value:g}: give a whole number from 1 to {there[name]}, which the model has, or a share "
                "below 1"
            )
        sizes[name] = int(size)
    of.check_widths(model, sizes)
    return sizes


def _there(there: Mapping[str, int], name: str) -> str:
    """Say which widths there are, and which one may be meant."""
    near = meant(str(name), there)
    listed = ", ".join(f"{one} {size}" for one, size in there.items())
    return f"the model has {listed}" + (f"; {near}" if near.endswith("?") else "")


def _entry(model: BlockModel, small: BlockModel, score: str, kept: Mapping[str, Tensor]) -> dict[str, Any]:
    of = family_of(model)
    return {
        "operation": NARROWED,
        "changes outputs": True,
        **_sizes(model, small),
        "score": score,
        "channels": {stream: kept[stream].tolist() for stream in of.feature_streams(model).values() if stream in kept},
    }


def _sizes(model: BlockModel, small: BlockModel) -> dict[str, Any]:
    """Return widths and parameters before and after; a width that the small model has no more is 0."""
    of = family_of(model)
    before, there = of.widths(model), of.widths(small)
    after = {name: there.get(name, 0) for name in before}
    return {
        "widths before": {name: size for name, size in before.items() if after[name] < size},
        "widths after": {name: size for name, size in after.items() if size < before[name]},
        "parameters before": parameter_count(model),
        "parameters after": parameter_count(small),
    }
