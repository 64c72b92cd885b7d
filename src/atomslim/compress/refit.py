"""Weights of a narrower model in closed form: each layer gives what the full model's gives, on the inputs it now has.

    W' = argmin Σ_rows ‖W' x' − W x‖² + λ Σ_columns A_kk ‖w_k − w⁰_k‖²

x' is the layer's input in the narrower model, every block before it fitted already, and x its input in the full
model, so that errors do not accumulate; W x has only the kept rows. w⁰ are the weights that were fitted on the
full model's own inputs. Block after block, all layers of one at once, in several sweeps. The ridge λ is chosen on every
fourth batch, which is held out; see `atomslim.compress.realign` for the equations. Changes outputs.
"""

import statistics
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.compress.channel_scores import Structures, assign, run, tasks_of, thinned_out, watched, weight_of
from atomslim.compress.realign import HELD_OUT, NormalEquations
from atomslim.models.block_model import BlockModel
from atomslim.models.channels import ChannelLayout, Kept
from atomslim.models.modes import inference

RIDGES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)
"""Tried on held-out batches; a layer that none of them improves is kept."""

FEW_BATCHES = 1e-3
"""The ridge where no batch is held out."""


@dataclass(frozen=True)
class StageFit:
    """How well the layers of a block reproduce the full model's, before and after: mean R² on held-out rows."""

    stage: str
    layers: int
    before: float
    after: float

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {"stage": self.stage, "layers": self.layers, "R2 before": self.before, "R2 after": self.after}


@dataclass(frozen=True)
class _Wanted:
    """Wanted outputs of the layers of a stage for one batch."""

    batch: AtomsBatch
    topology: Any
    tasks: list[str]
    outputs: dict[str, Tensor]
    """Layer → W x of the kept outputs, for the rows that are used."""
    widths: dict[str, int]
    """Layer → number of inputs in the full model, which determines how many rows are used."""


class _Enough(Exception):  # noqa: N818 - no error: all that a stage needs has been computed
    pass


def refit(
    small: BlockModel,
    full: BlockModel,
    layout: ChannelLayout,
    kept: Kept,
    structures: Structures,
    *,
    sweeps: int,
) -> list[StageFit]:
    """Fit the layers of ``small`` in place; return how well, by stage of the ``layout`` of ``full``."""
    found = []
    with inference(small, full):
        for part, stage in layout.stages.items():
            wanted = [_wanted(full, stage, layout, kept, structures, batch) for batch in structures]
            fits = [_fit_stage(small, stage, wanted) for _ in range(sweeps)]
            if fits and fits[0]:
                found.append(_summary(part, fits))
    return found


def _summary(part: str, sweeps: Sequence[list[tuple[float, float]]]) -> StageFit:
    before, after = (statistics.fmean(one[index] for one in sweeps[at]) for at, index in ((0, 0), (-1, 1)))
    return StageFit(part, len(sweeps[0]), before, after)


def _wanted(
    full: BlockModel,
    stage: Sequence[str],
    layout: ChannelLayout,
    kept: Kept,
    structures: Structures,
    given: tuple[AtomsBatch, Any, str],
) -> _Wanted:
    batch, topology, task = given
    tasks = tasks_of(full, structures, task)
    outputs, widths = {}, {}
    for layer, parts in _seen(full, stage, batch, topology, tasks).items():
        widths[layer] = parts[0][0].shape[1]
        rows = torch.cat([thinned_out(output, widths[layer]) for _, output in parts])
        outputs[layer] = rows[:, layout.rows(layer, kept).to(rows.device)]
    return _Wanted(batch, topology, tasks, outputs, widths)


def _fit_stage(small: BlockModel, stage: Sequence[str], wanted: Sequence[_Wanted]) -> list[tuple[float, float]]:
    """Fit the layers of one stage; return R² of each, before and after."""
    equations: dict[str, tuple[NormalEquations, NormalEquations]] = {}
    for number, one in enumerate(wanted, start=1):
        ours = _seen(small, stage, one.batch, one.topology, one.tasks)
        for layer, outputs in one.outputs.items():
            inputs = torch.cat([thinned_out(rows, one.widths[layer]) for rows, _ in ours[layer]])
            if layer not in equations:
                sizes = inputs.shape[1], outputs.shape[1]
                equations[layer] = NormalEquations.zeros(*sizes), NormalEquations.zeros(*sizes)
            equations[layer][number % HELD_OUT == 0].add(inputs, outputs)
    return [_fit(small, layer, *sums) for layer, sums in equations.items()]


def _fit(small: BlockModel, layer: str, rest: NormalEquations, held_out: NormalEquations) -> tuple[float, float]:
    """Fit one layer, its ridge chosen on the rows that are held out; return R² of these, before and after."""
    prior, every = weight_of(small, layer), rest.plus(held_out)
    if not held_out.rows:
        weight = every.solve(prior, FEW_BATCHES)[0]
        assign(small, layer, weight)
        return every.explained(prior), every.explained(weight)
    errors = {ridge: held_out.explained(rest.solve(prior, ridge)[0]) for ridge in RIDGES}
    ridge = max(errors, key=lambda one: errors[one])
    if errors[ridge] > (before := held_out.explained(prior)):
        assign(small, layer, every.solve(prior, ridge)[0])
    return before, max(errors[ridge], before)


def _seen(
    model: BlockModel, stage: Collection[str], batch: AtomsBatch, topology: Any, tasks: Sequence[str]
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return inputs and outputs of layers, without biases; no more is computed than needed."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def see(name: str, rows: Tensor, output: Tensor) -> None:
        bias = getattr(model.get_submodule(name), "bias", None)
        made = output.flatten(0, -2)
        found[name].append((rows, made.clone() if bias is None else made - bias))
        if len(found) == len(stage):
            raise _Enough

    with watched(model, stage, see), suppress(_Enough):
        run(model, batch, topology, tasks)
    return found
