"""Graphs of SevenNet models, and edge quantities computed once for all blocks."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from e3nn.o3 import spherical_harmonics, wigner_3j
from jaxtyping import Float, Int
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch, Pairs
from atomslim.families.sevennet.config import SevenNetConfig
from atomslim.models.graph import element_indices


@dataclass(frozen=True)
class Graph:
    """All pairs within the cutoff, side by side for atoms with equally many neighbours.

    | field | shape | meaning |
    |---|---|---|
    | source, target | (E,) | edge source → target, sorted by the target's rank in `order` |
    | offset | (E, 3) | cells, of the source: r_st = r_target − (r_source + o · cell) |
    | order, rank | (n,) | atoms by number of neighbours, and the rank of each atom in that order |
    | groups | | (number of atoms, number of neighbours of each) along `order` |
    | kind | (n,) | the atoms' elements, as indices into the weights |
    | by_kind, kind_rank | (n,) | atoms by element, and the rank of each atom in that order |
    | kinds | | (element, number of atoms) along `by_kind` |
    | modality | (n,) | level of theory of each atom's structure |
    """

    source: Int[Tensor, " E"]
    target: Int[Tensor, " E"]
    offset: Int[Tensor, "E 3"]
    order: Int[Tensor, " n"]
    rank: Int[Tensor, " n"]
    groups: tuple[tuple[int, int], ...]
    kind: Int[Tensor, " n"]
    by_kind: Int[Tensor, " n"]
    kind_rank: Int[Tensor, " n"]
    kinds: tuple[tuple[int, int], ...]
    modality: Int[Tensor, " n"]
    num_structures: int

    def edges(self) -> "Graph":
        """Return the edges."""
        return self

    def left_out(self) -> Float[Tensor, " b"]:
        """Return zeros: no neighbour within the cutoff is left out."""
        return torch.zeros(self.num_structures, dtype=torch.float64, device=self.source.device)

    def to(self, device: torch.device | str) -> "Graph":
        """Move to a device."""
        values: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **values)

    def by_atom(self, values: Float[Tensor, "E columns"]) -> list[Float[Tensor, "atoms neighbours columns"]]:
        """Split rows of edges by group of atoms, as views."""
        parts = values.split([number * size for number, size in self.groups])
        return [
            part.view(number, size, values.shape[1]) for part, (number, size) in zip(parts, self.groups, strict=True)
        ]

    def products(
        self, first: list[Float[Tensor, "atoms neighbours rows"]], second: Float[Tensor, "E columns"]
    ) -> Float[Tensor, "n rows columns"]:
        """Return Σ_edges first_r second_c of every atom, atoms in the order of `order`."""
        made = [one.transpose(1, 2) @ two for one, two in zip(first, self.by_atom(second), strict=True)]
        return made[0] if len(made) == 1 else torch.cat(made)


def build_graph(batch: AtomsBatch, pairs: Pairs, species: tuple[int, ...], modality: Int[Tensor, " b"]) -> Graph:
    """Put pairs within the cutoff in order; raises StructureError for an element that the model does not know."""
    kind = element_indices(batch, species)
    count = batch.num_atoms
    degree = torch.bincount(pairs.target, minlength=count)
    order, rank = _order(degree)
    edges = torch.argsort(rank[pairs.target], stable=True)
    by_kind, kind_rank = _order(kind)
    device = batch.device
    return Graph(
        source=pairs.source[edges].to(device),
        target=pairs.target[edges].to(device),
        offset=pairs.offset[edges].to(device),
        order=order.to(device),
        rank=rank.to(device),
        groups=tuple((number, size) for size, number in _runs(degree[order])),
        kind=kind.to(device),
        by_kind=by_kind.to(device),
        kind_rank=kind_rank.to(device),
        kinds=_runs(kind[by_kind]),
        modality=modality.to(device)[batch.batch],
        num_structures=batch.num_structures,
    )


def _order(key: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return the atoms in the order of a key, and the rank of each atom in that order."""
    order = torch.argsort(key, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return order, rank


def _runs(values: Int[Tensor, " n"]) -> tuple[tuple[int, int], ...]:
    """Return (value, how often) of sorted values."""
    found, counts = torch.unique_consecutive(values, return_counts=True)
    return tuple(zip(found.tolist(), counts.tolist(), strict=True))


class RadialBasis(nn.Module):
    """Bessel functions under an envelope: 2/c · sin(k_n r)/r · u(r), c the cutoff, k_n = nπ/c at first."""

    def __init__(self, config: SevenNetConfig) -> None:
        super().__init__()
        self.config = config
        multiples = torch.arange(1, config.num_radial + 1) * (math.pi / config.cutoff)
        self.frequencies = nn.Parameter(multiples.to(torch.get_default_dtype()))

    def forward(self, distance: Float[Tensor, " E"]) -> Float[Tensor, "E radial"]:
        """Return the basis at distances in Å."""
        waves = torch.sin(distance[:, None] * self.frequencies)
        return waves * (2.0 / self.config.cutoff * self._envelope(distance) / distance)[:, None]

    def _envelope(self, distance: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return (
            _polynomial(distance, self.config) if self.config.envelope == "poly_cut" else _xplor(distance, self.config)
        )


def _polynomial(distance: Float[Tensor, " E"], config: SevenNetConfig) -> Float[Tensor, " E"]:
    """1 − (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) − p(p+1)/2 x^(p+2) with x = r/c (arXiv 2003.03123, eq. 8)."""
    p, x = config.envelope_power, distance / config.cutoff
    return 1 - x**p * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))


def _xplor(distance: Float[Tensor, " E"], config: SevenNetConfig) -> Float[Tensor, " E"]:
    """(c² − r²)² (c² + 2r² − 3s²)/(c² − s²)³ from the onset s on, 1 before (HOOMD-blue's XPLOR smoothing)."""
    squared, c, s = distance * distance, config.cutoff**2, config.envelope_onset**2
    falling = (c - squared) ** 2 * (c + 2 * squared - 3 * s) / (c - s) ** 3
    return torch.where(distance < config.envelope_onset, torch.ones_like(falling), falling)


@lru_cache(maxsize=1024)
def coupling(
    first: int, second: int, third: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "d1 d2 d3"]:
    """Return Wigner's 3j symbols of three degrees in e3nn's real basis, times √(2l₃+1)."""
    with torch.device("cpu"), torch.inference_mode(mode=False):
        exact = wigner_3j(first, second, third, dtype=torch.float64) * math.sqrt(2 * third + 1)
    return exact.to(device, dtype)


def harmonics(vectors: Float[Tensor, "E 3"], lmax: int) -> list[Float[Tensor, "E components"]]:
    """Return real spherical harmonics of degrees 0 … lmax in e3nn's basis, of squared norm 2l + 1 for unit vectors.

    Each degree is made of the one below: Y_l = c_l (Y_{l−1} ⊗ Y_1)_l.
    """
    found = [torch.ones_like(vectors[:, :1]), math.sqrt(3.0) * vectors][: lmax + 1]
    for degree in range(2, lmax + 1):
        product = found[-1][:, :, None] * found[1][:, None, :]
        found.append(product.flatten(1) @ _step(degree, vectors.dtype, vectors.device))
    return found


@lru_cache(maxsize=64)
def _step(degree: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "products components"]:
    """Return the coupling of Y_{l−1} and Y_1 with which Y_l has squared norm 2l + 1, and e3nn's sign."""
    with torch.device("cpu"), torch.inference_mode(mode=False):
        axis = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
        below, first, here = (
            spherical_harmonics(one, axis, normalize=False, normalization="component")
            for one in (degree - 1, 1, degree)
        )
        tensor = coupling(degree - 1, 1, degree, torch.float64, torch.device("cpu"))
        made = torch.einsum("i,j,ijk->k", below, first, tensor)
        return (tensor * (here @ made / (made @ made))).flatten(0, 1).to(device, dtype)
