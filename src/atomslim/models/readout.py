"""The readout's first step as one linear map over the features of all blocks, for every kind of readout.

| kind | g₁ f | as one map over [f_0; …; f_b] |
|---|---|---|
| concat | W [f_0; …; f_b] | W itself |
| last | W f_b | zero columns for all blocks but the last |
| sum | Σ_i W_i f_i | [W_0, …, W_b] |

So slicing, fresh starts and least squares are written once. Columns that are always zero are left out: the
map is over the features of the blocks that are read, side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Piece:
    """A linear layer of the model, and the blocks (0: the embedding) whose features it takes side by side."""

    layer: nn.Linear
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class ReadoutMap:
    """A readout's linear map: the sum of its pieces, no two of which read one block.

    ``widths`` are those of the features of all blocks, embedding first, read or not.
    """

    widths: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @classmethod
    def concat(cls, layer: nn.Linear, widths: Sequence[int]) -> Self:
        """Return the map of a readout that takes the features of all blocks side by side."""
        return cls(tuple(widths), (Piece(layer, tuple(range(len(widths)))),))

    @classmethod
    def last(cls, layer: nn.Linear, widths: Sequence[int]) -> Self:
        """Return the map of a readout that takes the features of the last block only."""
        return cls(tuple(widths), (Piece(layer, (len(widths) - 1,)),))

    @classmethod
    def sum(cls, layers: Sequence[nn.Linear | None], widths: Sequence[int]) -> Self:
        """Return the map of a readout that adds a map of each block; None: this block is not read."""
        pieces = [Piece(layer, (block,)) for block, layer in enumerate(layers) if layer is not None]
        return cls(tuple(widths), tuple(pieces))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks that are read, in the order of their columns."""
        return tuple(block for piece in self.pieces for block in piece.blocks)

    @property
    def in_features(self) -> int:
        """Number of columns."""
        return sum(self.widths[block] for block in self.blocks)

    @property
    def out_features(self) -> int:
        """Number of rows: the width of what the map gives."""
        return self.pieces[0].layer.out_features

    def weight(self) -> Float[Tensor, "d k"]:
        """Return the map as a matrix over the features of the blocks that are read; not a copy if it is one layer's."""
        return torch.cat([piece.layer.weight for piece in self.pieces], dim=1) if self.pieces[1:] else self._only.weight

    def assign(self, weight: Float[Tensor, "d k"]) -> None:
        """Write a matrix into the model's layers."""
        sizes = [piece.layer.in_features for piece in self.pieces]
        with torch.no_grad():
            for piece, columns in zip(self.pieces, weight.split(sizes, dim=1), strict=True):
                piece.layer.weight.copy_(columns.to(piece.layer.weight))

    def draw(self) -> None:
        """Reinitialise the layers as torch does (or as their own class does)."""
        for piece in self.pieces:
            piece.layer.reset_parameters()

    def inputs(self, features: Sequence[Float[Tensor, "rows _"]]) -> Float[Tensor, "rows k"]:
        """Return the features of the blocks that are read, side by side."""
        return torch.cat([features[block] for block in self.blocks], dim=-1)

    def columns(self) -> dict[int, slice]:
        """Say which columns belong to each block that is read."""
        ends = list(accumulate(self.widths[block] for block in self.blocks))
        starts = [0, *ends[:-1]]
        return {block: slice(*bounds) for block, *bounds in zip(self.blocks, starts, ends, strict=True)}

    @property
    def _only(self) -> nn.Linear:
        return self.pieces[0].layer
