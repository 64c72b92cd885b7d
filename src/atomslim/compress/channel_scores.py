"""Which channels of a model matter least: one pass over calibration structures, then any width.

For every layer y = W x that reads channels of a stream, the pass adds up G = Σ_rows x xᵀ in float64. Three scores:

| score | a channel's importance |
|---|---|
| least-squares | what removing it adds to Σ_layers ‖W x − W' x'‖²/‖W x‖², W' the best weights for the inputs x' left |
| activation | mean of |x| over the layer's mean, summed over layers |
| taylor | mean of (Σ_layers W · ∂L/∂W)², the first-order change of L = Σ ± outputs, signs being random |

The first one is taken greedily, from all channels down, in closed form: without the columns g the best weights are
W − W_g (G⁻¹_gg)⁻¹ G⁻¹_g·, the error grows by tr W_g (G⁻¹_gg)⁻¹ W_gᵀ, and G⁻¹ becomes G⁻¹ − G⁻¹_·g (G⁻¹_gg)⁻¹ G⁻¹_g·
(optimal brain surgeon, arXiv 2203.07259). It needs WᵀW only. Labels are not used.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.compress.realign import NormalEquations
from atomslim.errors import ConfigError, DataError
from atomslim.models.block_model import BlockModel
from atomslim.models.channels import ChannelLayout, Kept, weighted_inputs
from atomslim.models.family import family_of
from atomslim.models.modes import differentiable, inference

Score = Literal["least-squares", "activation", "taylor"]

Structures = Sequence[tuple[AtomsBatch, Any, str]]
"""Batches with their topologies and tasks."""

ROWS_AT_ONCE = 1024
"""Most rows of a batch that are used, unless there are more inputs; evenly spaced over the batch."""

DAMPING = 1e-6
"""Fraction of G's diagonal that is added before inversion."""

NOTHING = 1e-12
"""Fraction of the mean of G's diagonal that is used for channels that are always zero."""

ONE_AT_A_TIME = 256
"""Up to so many channels are removed one at a time, more of them in groups."""

DRAWS = 2
"""Random signs for each batch."""


@dataclass
class Reading:
    """A layer's inputs, summed over rows."""

    gram: Float[Tensor, "k k"]
    absolute: Float[Tensor, " k"]
    rows: int = 0
    """All rows, used or not."""

    @classmethod
    def zeros(cls, width: int) -> "Reading":
        """Start without rows."""
        return cls(torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64))

    def add(self, rows: Float[Tensor, "rows k"]) -> None:
        """Add rows."""
        seen = thinned_out(rows, rows.shape[1]).cpu().double()
        self.gram += seen.T @ seen
        self.absolute += seen.abs().sum(0)
        self.rows += len(rows)


@dataclass(frozen=True)
class ChannelScores:
    """Statistics of a model's channels after one pass; see `scored`. They serve for all widths."""

    model: BlockModel
    layout: ChannelLayout
    score: Score
    structures: int
    readings: Mapping[str, Reading]
    """Layer → its inputs."""
    bases: Mapping[str, Reading]
    """Stream of basis functions → their values."""
    importances: Mapping[str, Float[Tensor, " channels"]]
    """Stream → importance of its channels; empty for least-squares, which depends on what is left."""
    orders: dict[str, Int[Tensor, " channels"]] = field(default_factory=dict)
    """Stream → its channels in order of removal, if already computed."""

    def order(self, stream: str) -> Int[Tensor, " channels"]:
        """Return the channels of a stream, the least important first."""
        if stream not in self.orders:
            self.orders[stream] = (
                torch.argsort(self.importances[stream], stable=True)
                if stream in self.importances
                else removal_order(list(self._problems(stream)), self.layout.sizes[stream])
            )
        return self.orders[stream]

    def kept(self, widths: Mapping[str, int]) -> dict[str, Int[Tensor, " kept"]]:
        """Return the kept channels at these widths; only of streams that lose some.

        Raises DataError where the calibration structures are too few to fit the inputs of a layer.
        """
        wanted = {stream: widths.get(width, self.layout.sizes[stream]) for stream, width in self.layout.widths.items()}
        cut = [stream for stream, size in wanted.items() if size < self.layout.sizes[stream]]
        self._require_rows(cut)
        return {stream: self.order(stream)[-wanted[stream] :].sort().values for stream in cut}

    def narrowed(self, kept: Kept) -> BlockModel:
        """Return a copy with these channels, the layers that read them fitted on the full model's inputs."""
        small = family_of(self.model).narrowed(self.model, kept)
        for layer in {name for stream in kept for name in self.layout.readers(stream)}:
            assign(small, layer, self._reconstructed(layer, kept)[self.layout.rows(layer, kept)])
        return small

    def reading(self, layer: str) -> Reading:
        """Return the inputs of a layer."""
        stream = self.layout.basis_readers.get(layer)
        return self.readings[layer] if stream is None else self.bases[stream]

    def _reconstructed(self, layer: str, kept: Kept) -> Float[Tensor, "out kept"]:
        """Return a layer's weights on the kept inputs, fitted to its outputs with all inputs."""
        inputs, weight = self.layout.inputs(layer, kept), weight_of(self.model, layer)
        if len(inputs) == weight.shape[1]:
            return weight
        gram = self.reading(layer).gram[inputs]
        equations = NormalEquations(gram[:, inputs], gram @ weight.T)
        return equations.solve(weight[:, inputs], DAMPING)[0]

    def _problems(self, stream: str) -> Iterator["Problem"]:
        for layer in self.layout.readers(stream):
            columns = self.layout.columns(self.layout.axes[f"{layer}.weight"][1], stream)
            weight = weight_of(self.model, layer)
            problem = Problem.of(self.reading(layer).gram, weight, columns)
            if problem is not None:
                yield problem

    def _require_rows(self, cut: Iterable[str]) -> None:
        readings = {layer: self.reading(layer) for stream in cut for layer in self.layout.readers(stream)}
        lacking = {layer: one for layer, one in readings.items() if 0 < one.rows < len(one.gram)}
        if lacking:
            layer, worst = max(lacking.items(), key=lambda item: len(item[1].gram) / item[1].rows)
            needed = -(-self.structures * len(worst.gram) // worst.rows)
            raise DataError(
                f"widths: {self.structures} calibration structure{'s have' if self.structures > 1 else ' has'} "
                f"{worst.rows} rows for the {len(worst.gram)} inputs of {layer}: give at least {needed}, and as high a "
                "limit"
            )


def scored(model: BlockModel, structures: Structures, score: Score = "least-squares", seed: int = 0) -> ChannelScores:
    """Score the channels of all streams; raises DataError without structures, ConfigError for another score."""
    of = family_of(model)
    of.require("widths")
    if score not in get_args(Score):
        raise ConfigError(f"score of channels {score!r}: give {', '.join(get_args(Score))}")
    if not structures:
        raise DataError("widths: there are no calibration structures: give some, with their task")
    layout = of.channels(model)
    layers = [layer for stage in layout.stages.values() for layer in stage]
    readings = {layer: Reading.zeros(layout.length(layout.axes[f"{layer}.weight"][1])) for layer in layers}
    bases = {stream: Reading.zeros(layout.sizes[stream]) for stream in layout.basis_readers.values()}
    with inference(model), watched(model, layers, lambda name, rows, _: readings[name].add(rows)):
        for batch, topology, task in structures:
            run(model, batch, topology, tasks_of(model, structures, task))
            rows = of.basis_rows(model, batch, topology)
            for stream, reading in bases.items():
                reading.add(rows[stream])
    _require_finite(readings)
    count = sum(batch.num_structures for batch, *_ in structures)
    found = ChannelScores(model, layout, score, count, readings, bases, {})
    if score == "least-squares":
        return found
    importances = _taylor(model, layout, structures, seed) if score == "taylor" else _activations(found)
    return replace(found, importances=importances)


# -- running a model and looking at its layers


def run(model: BlockModel, batch: AtomsBatch, topology: Any, tasks: Iterable[str]) -> None:
    """Compute features, readout and heads."""
    readout = model.read(model.features(batch, topology))
    for task in tasks:
        model.raw_outputs(readout, model.task(task))


@contextmanager
def watched(model: BlockModel, layers: Iterable[str], see: Any) -> Iterator[None]:
    """Call ``see`` with the name, the inputs (rows, k) and the module's outputs of layers as they are computed."""
    of = family_of(model)

    def hook(name: str, module: Any, inputs: Any, output: Any) -> None:
        see(name, of.layer_inputs(module, name, inputs).flatten(0, -2), output)

    modules = {name: model.get_submodule(of.layer_module(name)) for name in layers}
    handles = [module.register_forward_hook(partial(hook, name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def thinned_out(rows: Float[Tensor, "rows k"], inputs: int) -> Float[Tensor, "some k"]:
    """Return the rows of a batch that are used, evenly spaced."""
    return rows[:: -(-len(rows) // max(ROWS_AT_ONCE, inputs)) or 1]


def weight_of(model: BlockModel, layer: str) -> Float[Tensor, "out in"]:
    """Return a layer's weight in float64."""
    of = family_of(model)
    return of.as_matrix(of.layer_weight(model, layer).detach()).cpu().double()


def assign(model: BlockModel, layer: str, weight: Float[Tensor, "out in"]) -> None:
    """Write a layer's weight."""
    of = family_of(model)
    with torch.no_grad():
        parameter = of.layer_weight(model, layer)
        parameter.copy_(of.from_matrix(weight, parameter))


def tasks_of(model: BlockModel, structures: Structures, task: str) -> list[str]:
    """Return the task of a batch, and those without calibration structures."""
    given = {name for *_, name in structures}
    return [name for name in model.tasks if name == task or name not in given]


def _require_finite(readings: Mapping[str, Reading]) -> None:
    for layer, reading in readings.items():
        if not bool(torch.isfinite(reading.gram).all()):
            raise DataError(f"widths: {layer} has inputs that are not finite: check the calibration structures")


# -- importance


def _activations(found: ChannelScores) -> dict[str, Float[Tensor, " channels"]]:
    """Return the mean of |x| over the layer's mean, summed over the layers that take a channel in."""
    importances = {}
    for stream, size in found.layout.sizes.items():
        importances[stream] = torch.zeros(size, dtype=torch.float64)
        for layer in found.layout.readers(stream):
            columns = found.layout.columns(found.layout.axes[f"{layer}.weight"][1], stream)
            values = found.reading(layer).absolute[columns].mean(1)
            importances[stream] += values / values.mean().clamp(min=1e-30)
    return importances


@dataclass
class Problem:
    """One layer's state in an order of removal: G⁻¹, WᵀW over the error of no inputs, and the channels' columns."""

    inverse: Float[Tensor, "k k"]
    square: Float[Tensor, "k k"]
    columns: Int[Tensor, "channels each"]

    @classmethod
    def of(cls, gram: Tensor, weight: Tensor, columns: Tensor) -> "Problem | None":
        """Start with all inputs; None for a layer whose output is zero."""
        square = weight.T @ weight
        whole = float((square * gram).sum())
        diagonal = gram.diagonal()
        damped = gram + torch.diag(DAMPING * (diagonal + NOTHING * diagonal.mean()))
        return cls(torch.linalg.inv(damped), square / whole, columns) if whole > 0 else None

    def costs(self) -> Float[Tensor, " channels"]:
        """Return the growth of the error without each channel."""
        pairs = self.columns[:, :, None], self.columns[:, None, :]
        pivots = self.inverse[pairs]
        alive = pivots.diagonal(dim1=1, dim2=2) > 0
        identity = torch.eye(pivots.shape[1]).to(pivots)
        pivots = torch.where(alive.all(1)[:, None, None], pivots, identity)
        return torch.linalg.solve(pivots, self.square[pairs]).diagonal(dim1=1, dim2=2).sum(1)

    def remove(self, channels: Int[Tensor, " some"]) -> None:
        """Leave channels out."""
        columns = self.columns[channels].flatten()
        left = self.inverse[:, columns]  # (k, m)
        map_ = torch.linalg.solve(left[columns], left.T)  # (m, k): (G⁻¹_gg)⁻¹ G⁻¹_g·
        inner = self.square[columns]
        cross = map_.T @ inner
        self.square = self.square - cross - cross.T + map_.T @ inner[:, columns] @ map_
        self.inverse = self.inverse - left @ map_
        for matrix in (self.square, self.inverse):
            matrix[columns] = 0
            matrix[:, columns] = 0


def removal_order(problems: Sequence[Problem], channels: int) -> Int[Tensor, " channels"]:
    """Return the channels in the order of removal, each time those that cost least in all layers together."""
    alive = torch.ones(channels, dtype=torch.bool)
    order: list[int] = []
    while len(order) < channels:
        costs = torch.stack([one.costs() for one in problems]).sum(0) if problems else torch.zeros(channels)
        costs = torch.where(alive, costs, torch.inf)
        count = max(1, (channels - len(order)) // ONE_AT_A_TIME)
        going = torch.argsort(costs, stable=True)[:count]
        for one in problems:
            one.remove(going)
        alive[going] = False
        order += going.tolist()
    return torch.tensor(order)


def _taylor(
    model: BlockModel, layout: ChannelLayout, structures: Structures, seed: int
) -> dict[str, Float[Tensor, " channels"]]:
    """Return the squared first-order change of random sums of the outputs without each channel."""
    readers = {stream: layout.readers(stream) for stream in layout.sizes}
    layers = sorted({layer for some in readers.values() for layer in some})
    of = family_of(model)
    weights = [of.layer_weight(model, layer) for layer in layers]
    found = {stream: torch.zeros(size, dtype=torch.float64) for stream, size in layout.sizes.items()}
    generator = torch.Generator().manual_seed(seed)
    for batch, topology, task in structures:
        for _ in range(DRAWS):
            gradients = _gradients(model, batch, topology, task, weights, generator)
            changes = {
                layer: weighted_inputs(of.as_matrix(weight), of.as_matrix(gradient)).cpu()
                for layer, weight, gradient in zip(layers, weights, gradients, strict=True)
            }
            for stream in found:
                change = sum(
                    changes[layer][layout.columns(layout.axes[f"{layer}.weight"][1], stream)].sum(1)
                    for layer in readers[stream]
                )
                found[stream] += change**2
    return found


def _gradients(
    model: BlockModel,
    batch: AtomsBatch,
    topology: Any,
    task: str,
    weights: Sequence[Tensor],
    generator: torch.Generator,
) -> Sequence[Tensor]:
    """Return the gradients of a random sum of the task's outputs."""
    with differentiable(model):
        outputs = model(batch, topology, [task], normalised=True, create_graph=True)[task]
        total = torch.stack([_random_sum(outputs[target.name], generator) for target in model.task(task).targets])
        return torch.autograd.grad(total.sum(), list(weights), allow_unused=True, materialize_grads=True)


def _random_sum(values: Tensor, generator: torch.Generator) -> Tensor:
    signs = torch.randint(2, values.shape, generator=generator).to(values) * 2 - 1
    return (signs * values).sum() / max(values.numel(), 1) ** 0.5
