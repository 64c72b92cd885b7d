"""Where the package `sevenn` keeps each weight of a model: which tensor of its checkpoints, and in what form.

e3nn keeps the weights of a layer in one row and beside them scale factors that follow from the layer's irreps; here
the factors are part of the weights. A `Slot` goes both ways.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from e3nn.o3 import Irreps
from torch import Tensor

from atomslim.families.sevennet.config import SevenNetConfig
from atomslim.families.sevennet.irreps import SCALAR, all_paths, channels, gated_irreps


@dataclass(frozen=True)
class Piece:
    """A stretch of a row of weights: ours = ``factor`` · theirs, under the name ``ours`` of our state dict."""

    ours: str
    shape: tuple[int, ...]
    factor: float = 1.0
    swapped: bool = False
    """Whether the first two axes of theirs are the other way round."""

    def read(self, row: Tensor) -> Tensor:
        """Turn a stretch of theirs into ours."""
        values = row.reshape(self._theirs) * self.factor
        return (values.transpose(0, 1) if self.swapped else values).reshape(self.shape).contiguous()

    def written(self, values: Tensor) -> Tensor:
        """Turn ours into a stretch of theirs."""
        values = values.reshape(self.shape) / self.factor
        return (values.transpose(0, 1) if self.swapped else values).reshape(-1)

    @property
    def _theirs(self) -> tuple[int, ...]:
        return (self.shape[1], self.shape[0], *self.shape[2:]) if self.swapped else self.shape


@dataclass(frozen=True)
class Slot:
    """One tensor of theirs, and the pieces that it consists of."""

    theirs: str
    pieces: tuple[Piece, ...]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return sum(math.prod(piece.shape) for piece in self.pieces)

    def read(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Give our tensors by name."""
        parts = tensor.reshape(-1).split([math.prod(piece.shape) for piece in self.pieces])
        for piece, part in zip(self.pieces, parts, strict=True):
            yield piece.ours, piece.read(part)

    def written(self, ours: Mapping[str, Tensor]) -> Tensor:
        """Return their tensor, in one row."""
        return torch.cat([piece.written(ours[piece.ours]) for piece in self.pieces])


def slots(config: SevenNetConfig) -> Iterator[Slot]:
    """Give the slot of every weight except those of the readout and of the convolutions' last layers."""
    modality = config.modality
    count = len(modality.names)
    species = Irreps([(len(config.species), SCALAR)])
    irreps = [Irreps(entry) for entry in config.irreps]
    embedding = _linear("embedding", species, irreps[0], count * modality.embedding, bias=config.biases)
    yield Slot("onehot_to_feature_x.linear.weight", tuple(_renamed(embedding[0])))
    yield from (Slot("onehot_to_feature_x.linear.bias", (piece,)) for piece in embedding[1])
    for index in range(config.num_blocks):
        yield from _block_slots(config, index)


def _renamed(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Call the embedding's only matrix by its name."""
    for piece in pieces:
        name = piece.ours.replace("embedding.weights.0e", "embedding.weight")
        yield Piece(name, piece.shape, piece.factor, piece.swapped)


def _block_slots(config: SevenNetConfig, index: int) -> Iterator[Slot]:
    modality, count = config.modality, len(config.modality.names)
    source, out = (Irreps(config.irreps[at]) for at in (index, index + 1))
    inner, ours = gated_irreps(out), f"blocks.{index}"
    if config.self_connection[index] == "linear":
        connection = _linear(f"{ours}.connection", source, inner)[0]
        yield Slot(f"{index}_self_connection_intro.linear.weight", tuple(connection))
    else:
        pieces = _by_element(f"{ours}.connection", source, inner, len(config.species))
        yield Slot(f"{index}_self_connection_intro.fc_tensor_product.weight", tuple(pieces))
    messages = Irreps([(path.channels, path.message) for path in all_paths(config, index)]).regroup()
    linears = {
        "first": ("self_interaction_1", source, source, modality.intro),
        "second": ("self_interaction_2", messages, inner, modality.outro),
    }
    for name, (theirs, given, made, seen) in linears.items():
        weights, biases = _linear(f"{ours}.{name}", given, made, count * seen, bias=config.biases)
        yield Slot(f"{index}_{theirs}.linear.weight", tuple(weights))
        yield from (Slot(f"{index}_{theirs}.linear.bias", (piece,)) for piece in biases)
    widths = (config.num_radial, *config.radial_hidden)
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        piece = Piece(f"{ours}.convolution.hidden.{layer}", (fan_in, fan_out), fan_in**-0.5)
        yield Slot(f"{index}_convolution.weight_nn.layer{layer}.weight", (piece,))
    yield Slot(f"{index}_convolution.denominator", (Piece(f"{ours}.convolution.denominator", (1,)),))


def _linear(
    ours: str, given: Irreps, made: Irreps, modalities: int = 0, *, bias: bool = False
) -> tuple[list[Piece], list[Piece]]:
    """Return the pieces of the weights of an e3nn linear map, by input irrep, and of its biases.

    e3nn divides by the root of the number of channels that go into an output; levels of theory are one-hot scalars
    more at the end.
    """
    counts = channels(made)
    pieces = []
    for kind, mul in channels(given).items():
        fan_in = mul + (modalities if kind == SCALAR else 0)
        if kind in counts:
            pieces.append(Piece(f"{ours}.weights.{kind}", (mul, counts[kind]), fan_in**-0.5))
    if modalities:
        fan_in = channels(given)[SCALAR] + modalities
        pieces.append(Piece(f"{ours}.modality", (modalities, counts[SCALAR]), fan_in**-0.5))
    return pieces, [Piece(f"{ours}.bias", (counts[SCALAR],))] if bias else []


def _by_element(ours: str, given: Irreps, made: Irreps, elements: int) -> Iterator[Piece]:
    """Give the pieces of the weights of e3nn's product of a state with one-hot elements."""
    counts = channels(made)
    for kind, mul in channels(given).items():
        if kind in counts:
            factor = (mul * elements) ** -0.5
            yield Piece(f"{ours}.weights.{kind}", (elements, mul, counts[kind]), factor, swapped=True)
