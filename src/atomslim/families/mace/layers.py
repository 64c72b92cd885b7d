"""Embedding, blocks, readout and heads of MACE: the package's own layers in our order."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from atomslim.families.mace.config import BlockConfig, MACEConfig
from atomslim.families.mace.package import blocks, building, irreps, normalize2mom, o3, radial, scalars, tidied
from atomslim.models.precision import full_precision

GATES: dict[str, Callable[[Tensor], Tensor]] = {"silu": functional.silu, "tanh": torch.tanh, "abs": torch.abs}


@dataclass(frozen=True)
class EdgeTerms:
    """Inputs of blocks from atoms and edges."""

    attrs: Float[Tensor, "n elements"]
    harmonics: Float[Tensor, "E components"]
    radial: Float[Tensor, "E radial"]
    cutoff: Float[Tensor, "E 1"] | None
    index: Int[Tensor, "2 E"]


class Embedding(nn.Module):
    """Scalars of each element, and edge quantities computed once for all blocks."""

    numbers: Tensor

    def __init__(self, config: MACEConfig) -> None:
        super().__init__()
        with building():
            self.node_embedding = blocks.LinearNodeEmbeddingBlock(
                o3.Irreps([(len(config.species), (0, 1))]), o3.Irreps([(config.width, (0, 1))])
            )
            self.radial_embedding = blocks.RadialEmbeddingBlock(
                r_max=config.cutoff,
                num_bessel=config.num_radial,
                num_polynomial_cutoff=config.cutoff_power,
                radial_type=config.radial,
                distance_transform=config.transform,
                apply_cutoff=config.cutoff_on_basis,
            )
            self.spherical_harmonics = o3.SphericalHarmonics(
                edge_irreps(config), normalize=True, normalization="component"
            )
            self.pair_repulsion_fn = radial.ZBLBasis(p=config.cutoff_power) if config.pair_repulsion else None
        self.register_buffer("numbers", torch.tensor(config.species), persistent=False)
        tidied(self)

    def forward(
        self, vectors: Float[Tensor, "E 3"], kind: Tensor, index: Tensor
    ) -> tuple[Tensor, EdgeTerms, Tensor | None]:
        """Return atoms' scalars, the blocks' inputs, and atoms' repulsion energies, if any."""
        dtype = self.node_embedding.linear.weight.dtype
        attrs = functional.one_hot(kind, len(self.numbers)).to(dtype)
        lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        unit, lengths = (vectors / lengths).to(dtype), lengths.to(dtype)
        basis, cutoff = self.radial_embedding(lengths, attrs, index, self.numbers)
        terms = EdgeTerms(attrs, self.spherical_harmonics(unit), basis, cutoff, index)
        repulsion = self.pair_repulsion_fn
        pair = None if repulsion is None else repulsion(lengths, attrs, index, self.numbers)
        return self.node_embedding(attrs), terms, pair


class Block(nn.Module):
    """An interaction, which gathers from neighbours, and a product, which raises what was gathered to powers."""

    def __init__(self, config: MACEConfig, block: BlockConfig, *, compiled: bool = False) -> None:
        super().__init__()
        self.scalars = scalars(block.out)
        elements = o3.Irreps([(len(config.species), (0, 1))])
        with building(compiled=compiled):
            self.interaction = getattr(blocks, block.interaction)(
                node_attrs_irreps=elements,
                node_feats_irreps=irreps(block.source),
                edge_attrs_irreps=edge_irreps(config),
                edge_feats_irreps=o3.Irreps([(config.num_radial, (0, 1))]),
                target_irreps=irreps(block.target),
                hidden_irreps=irreps(block.out),
                edge_irreps=irreps(block.edge),
                avg_num_neighbors=block.average_neighbours,
                radial_MLP=list(block.radial_hidden),
            )
            self.product = blocks.EquivariantProductBasisBlock(
                node_feats_irreps=irreps(block.target),
                target_irreps=irreps(block.out),
                correlation=block.correlation,
                num_elements=len(config.species),
                use_sc=block.self_connection,
                use_agnostic_product=block.agnostic,
                use_reduced_cg=False,
            )
        if not compiled:
            tidied(self)
        for contraction, counts in zip(self.product.symmetric_contractions.contractions, block.paths, strict=True):
            _resize(contraction, counts)

    def forward(
        self, state: Float[Tensor, "n irreps"], terms: EdgeTerms
    ) -> tuple[Float[Tensor, "n scalars"], Float[Tensor, "n irreps"]]:
        """Return the even scalars of atoms, and all irreps, of which the scalars are a part."""
        with full_precision(state.device):
            messages, own = self.interaction(
                node_attrs=terms.attrs,
                node_feats=state,
                edge_attrs=terms.harmonics,
                edge_feats=terms.radial,
                edge_index=terms.index,
                cutoff=terms.cutoff,
            )
            made = self.product(node_feats=messages, sc=own, node_attrs=terms.attrs)
        invariant, rest = made[:, : self.scalars], made[:, self.scalars :]
        return invariant, torch.cat([invariant, rest], dim=1) if rest.shape[1] else invariant


class Term(nn.Linear):
    """A linear map of a block's scalars, for the readout. What is zero in it stays zero in training.

    The package reads a block either linearly or through an activation: a map with both could not be exported.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, bias=False)

    def forward(self, x: Float[Tensor, "n width"]) -> Float[Tensor, "n out"]:
        """Apply it."""
        return functional.linear(x, kept(self.weight))

    def reset_parameters(self) -> None:
        """Redraw the non-zero weights."""
        with torch.no_grad():
            drawn = torch.randn_like(self.weight) * self.in_features**-0.5
            self.weight.copy_(torch.where(self.weight != 0, drawn, 0.0))


class Head(nn.Module):
    """From the readout to a number for each atom: w · x_linear + last(activation(x_hidden))."""

    pair: Tensor

    def __init__(self, config: MACEConfig) -> None:
        super().__init__()
        self.gate = config.gate
        self.linear = nn.Parameter(torch.randn(config.linear) * config.linear**-0.5)
        self.last = nn.Parameter(torch.randn(config.hidden) * config.hidden**-0.5)
        second = config.second_layer
        self.middle = nn.Parameter(torch.randn(config.hidden, config.hidden) * config.hidden**-0.5) if second else None
        self.middle_bias = nn.Parameter(torch.zeros(config.hidden)) if second else None
        self.bias = nn.Parameter(torch.zeros(1)) if second else None
        self.register_buffer("pair", torch.ones(1))

    def forward(self, x: Float[Tensor, "n out"], pair: Tensor | None) -> Float[Tensor, " n"]:
        """Return one number for each atom; ``pair`` are repulsion energies to add."""
        with full_precision(x.device):
            straight, hidden = x.to(self.last).split([len(self.linear), len(self.last)], dim=1)
            hidden = activate(self.gate, hidden)
            if self.middle is not None and self.middle_bias is not None:
                hidden = activate(self.gate, hidden @ kept(self.middle) + kept(self.middle_bias))
            value = straight @ kept(self.linear) + hidden @ kept(self.last)
            value = value if self.bias is None else value + self.bias
            return value if pair is None else value + self.pair * pair


def kept(weight: Tensor) -> Tensor:
    """Return weights whose zeros get no gradient."""
    return weight * (weight != 0)


def activate(gate: str | None, x: Tensor) -> Tensor:
    """Apply an activation with e3nn's factor."""
    return x if gate is None else GATES[gate](x) * factor_of(gate)


@lru_cache(maxsize=8)
def factor_of(gate: str) -> float:
    """Return e3nn's factor by which an activation of normal numbers has mean square 1."""
    with building():
        found = normalize2mom(GATES[gate])
    return 1.0 if found._is_id else float(found.cst)  # noqa: SLF001 - e3nn leaves factors near 1 out


def edge_irreps(config: MACEConfig) -> Any:
    """Return the irreps of the edges' harmonics."""
    return o3.Irreps.spherical_harmonics(config.lmax_edge, p=-1 if config.parity else 1)


def _resize(contraction: Any, counts: tuple[int, ...]) -> None:
    """Give a contraction as many paths as its file has: the count depends on the version that wrote it."""
    for power, count in enumerate(counts, start=1):
        name = f"U_matrix_{power}"
        matrix = getattr(contraction, name)
        if matrix.shape[-1] != count:
            setattr(contraction, name, matrix.new_zeros(*matrix.shape[:-1], count))
    highest = len(counts)
    contraction.weights_max = _weight(contraction.weights_max, counts[-1])
    for index in range(highest - 1):  # from the second highest power down
        contraction.weights[index] = _weight(contraction.weights[index], counts[highest - 2 - index])


def _weight(weight: nn.Parameter, count: int) -> nn.Parameter:
    elements, _, width = weight.shape
    return weight if weight.shape[1] == count else nn.Parameter(weight.data.new_zeros(elements, count, width))


def contractions(block: Block) -> list[Any]:
    """Return the parts of a product, by irrep that they give."""
    return list(cast("Any", block.product).symmetric_contractions.contractions)
