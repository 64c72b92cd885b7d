"""Channels of a model: which axes of which tensors share them, so that some can be removed everywhere at once.

A *stream* is a set of channels that belong together: those of the atom features along all blocks, say, because each
block adds to them, or the hidden ones of a single residual layer. Several streams can have one *width*, a size of the
model's configuration.

| axis | written as |
|---|---|
| the channels of a stream | (("atom",),) |
| side by side: W [h_s ; h_t ; rbf] | (("atom",), ("atom",), (128,)) |
| a product: z flattened from (k, c), c fastest | (("circular", "messages"),) |
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from atomslim.models.block_model import BlockModel

Model = TypeVar("Model", bound="BlockModel")

NARROWED = "narrow"
"""The operation in a model's history that left channels out."""

Axis: TypeAlias = tuple[tuple[str | int, ...], ...]
"""Concatenated parts, each a product of streams (by name) and of fixed sizes."""

Kept: TypeAlias = Mapping[str, Int[Tensor, " kept"]]
"""Stream → its kept channels, ascending; streams that are not named are kept whole."""


@dataclass(frozen=True)
class ChannelLayout:
    """Where a model's channels are."""

    sizes: Mapping[str, int]
    """Stream → number of its channels."""
    widths: Mapping[str, str]
    """Stream → name of its width."""
    axes: Mapping[str, tuple[Axis, ...]]
    """Tensor's name → the axes of a view of it. Tensors that are not named have no channels."""
    stages: Mapping[str, tuple[str, ...]]
    """Part of the model → linear layers that take channels in, parts in the order in which they are computed."""
    basis_readers: Mapping[str, str] = field(default_factory=dict)
    """Layers whose weight is used without a call, and the stream of basis functions that they read."""

    def length(self, axis: Axis) -> int:
        """Return the length of an axis."""
        return sum(math.prod(map(self._size, part)) for part in axis)

    def indices(self, axis: Axis, kept: Kept) -> Int[Tensor, " kept"]:
        """Return the indices along an axis that are kept."""
        found, start = [], 0
        for part in axis:
            grid = torch.zeros(1, dtype=torch.int64)
            for factor in part:
                own = kept.get(factor) if isinstance(factor, str) else None
                chosen = torch.arange(self._size(factor)) if own is None else own
                grid = (grid[:, None] * self._size(factor) + chosen).flatten()
            found.append(start + grid)
            start += math.prod(map(self._size, part))
        return torch.cat(found)

    def columns(self, axis: Axis, stream: str) -> Int[Tensor, "channels each"]:
        """Return where along an axis each channel of a stream stands; equally often each, perhaps never."""
        found, start = [torch.zeros(self.sizes[stream], 0, dtype=torch.int64)], 0
        for part in axis:
            sizes = [self._size(factor) for factor in part]
            if stream in part:
                grid = start + torch.arange(math.prod(sizes)).view(sizes)
                found.append(grid.movedim(part.index(stream), 0).reshape(self.sizes[stream], -1))
            start += math.prod(sizes)
        return torch.cat(found, dim=1)

    def selected(self, name: str, tensor: Tensor, kept: Kept) -> Tensor:
        """Return the kept part of a tensor, viewed as ``axes`` says."""
        axes = self.axes[name]
        chosen = tensor.detach().reshape([self.length(axis) for axis in axes])
        for dim, axis in enumerate(axes):
            chosen = chosen.index_select(dim, self.indices(axis, kept).to(tensor.device))
        return chosen

    def rows(self, layer: str, kept: Kept) -> Int[Tensor, " kept"]:
        """Return the kept outputs of a linear layer."""
        return self.indices(self.axes[f"{layer}.weight"][0], kept)

    def inputs(self, layer: str, kept: Kept) -> Int[Tensor, " kept"]:
        """Return the kept inputs of a linear layer."""
        return self.indices(self.axes[f"{layer}.weight"][1], kept)

    def readers(self, stream: str) -> list[str]:
        """Name the layers that read the channels of a stream."""
        layers = [*(name for stage in self.stages.values() for name in stage), *self.basis_readers]
        return [name for name in layers if any(stream in part for part in self.axes[f"{name}.weight"][1])]

    def _size(self, factor: str | int) -> int:
        return self.sizes[factor] if isinstance(factor, str) else factor


def weighted_inputs(weight: Float[Tensor, "out in"], gradient: Float[Tensor, "out in"]) -> Float[Tensor, " in"]:
    """Return Σ_out W ∂L/∂W: the signed first-order change of the loss if an input became zero."""
    return (weight.detach() * gradient).sum(0).double()


def filled(new: Model, model: Model, layout: ChannelLayout, kept: Kept) -> Model:
    """Fill a model on the meta device with the kept parts of another one's tensors; the rest is copied."""
    shapes = {name: tensor.shape for name, tensor in new.state_dict().items()}
    tensors = {
        name: layout.selected(name, tensor, kept).reshape(shapes[name]).clone()
        if name in layout.axes
        else tensor.detach().clone()
        for name, tensor in model.state_dict().items()
    }
    new.load_state_dict(tensors, assign=True)
    for ours, theirs in zip(new.parameters(), model.parameters(), strict=True):
        ours.requires_grad_(theirs.requires_grad)
    new.block_ids, new.history = model.block_ids, list(model.history)
    new.checkpoint_blocks, new.precision = model.checkpoint_blocks, model.precision
    return new.train(model.training)
