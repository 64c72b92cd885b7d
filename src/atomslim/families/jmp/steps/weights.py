"""A model's weights as steps of dynamics want them: side by side, transposed, constant factors multiplied in.

Matrices are stored (in, out). Several matrices that go over the same rows are one tensor (passes, in, out), so that one
batched product serves all of them; narrower ones are filled up with zeros. Scale factors, and the gain of SiLU where a
linear map follows, are part of the weights.

| symbol | meaning |
|---|---|
| P | passes that start from edges: triplets edge to edge, quadruplets if there are any, triplets edge to atom |
| t, s | widest narrow message, widest sum |
| K, L | radial functions, degrees of an angular sum |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomslim.families.jmp.gemnet_oc.backbone import GemNetOC
from atomslim.families.jmp.gemnet_oc.bases import BasisLayer
from atomslim.families.jmp.gemnet_oc.block import AtomUpdate, InteractionBlock
from atomslim.families.jmp.gemnet_oc.interactions import GatedDown
from atomslim.families.jmp.gemnet_oc.layers import INV_SQRT_2, SILU_GAIN, PairLinear, Residual
from atomslim.families.jmp.gemnet_oc.output import OutputBlock

Residuals = tuple[tuple[Tensor, Tensor], ...]
"""First and second matrix of each residual layer; the second takes what has not been multiplied by SiLU's gain."""


@dataclass(frozen=True)
class UpdateWeights:
    """Of the sum of edges into atoms."""

    radial: Float[Tensor, "rbf edge"]
    dense: Float[Tensor, "edge atom"] | None
    layers: Residuals

    @classmethod
    def of(cls, update: AtomUpdate) -> Self:
        """Fold those of a module."""
        dense = None if update.dense is None else _turned(update.dense)
        return cls(_turned(update.radial, update.scale()), dense, residuals_of(update.layers))


@dataclass(frozen=True)
class OutputWeights:
    """Of an output block."""

    update: UpdateWeights
    atom_layers: Residuals
    edge_layers: Residuals
    edge_radial: Float[Tensor, "rbf edge"] | None

    @classmethod
    def of(cls, output: OutputBlock) -> Self:
        """Fold those of a module."""
        update, layers = UpdateWeights.of(output.atom_update), residuals_of(output.atom_layers)
        if not hasattr(output, "edge_layers"):
            return cls(update, layers, (), None)
        radial = _turned(output.edge_radial, output.edge_scale())
        return cls(update, layers, residuals_of(output.edge_layers), radial)


@dataclass(frozen=True)
class ConcatWeights:
    """Of W [h_s ; h_t ; x]."""

    ends: Float[Tensor, "atom 2*out"]
    """For the source and for the target, side by side."""
    edge: Float[Tensor, "edge out"]

    @classmethod
    def of(cls, layer: PairLinear) -> Self:
        """Fold those of a module."""
        source, target, edge = layer.weight.detach().split(layer.splits, dim=1)
        return cls(torch.cat([source, target]).t().contiguous(), edge.t().contiguous())


@dataclass(frozen=True)
class BlockWeights:
    """Of an interaction block."""

    from_edges: Float[Tensor, "1+P edge edge"]
    """The skip connection and the passes that start from edges."""
    gates: Float[Tensor, "P rbf edge"]
    down: Float[Tensor, "P edge t"]
    from_atoms: Float[Tensor, "atom atom+aint"]
    """Atom to edge, and atom to atom."""
    atom_gate: Float[Tensor, "rbf atom"]
    atom_down: Float[Tensor, "atom trip"]
    sums: tuple[Float[Tensor, "K*t s"], ...]
    """Of the passes that end on edges: edge to edge, atom to edge, quadruplets."""
    up: Float[Tensor, "2*passes s edge"]
    """Of the same, each followed by that of the reverse edge."""
    edge_to_atom: tuple[Float[Tensor, "K*trip out"], Float[Tensor, "out atom"]]
    atom_to_atom: tuple[Float[Tensor, "rbf*aint out"], Float[Tensor, "out atom"]]
    before_skip: Residuals
    after_skip: Residuals
    atom_layers: Residuals
    update: UpdateWeights
    concat: ConcatWeights
    concat_layers: Residuals

    @classmethod
    def of(cls, block: InteractionBlock, *, quadruplets: bool) -> Self:
        """Fold those of a module; ``quadruplets`` says whether there are any."""
        middle = [block.quadruplet] if quadruplets else []
        starts: list[GatedDown] = [block.edge_to_edge, *middle, block.edge_to_atom]
        ends = [block.edge_to_edge, block.atom_to_edge, *middle]
        width = max(one.up.in_features for one in ends)
        atom = block.atom_to_edge
        both = [_wide(layer.weight.t(), width, axis=0) for one in ends for layer in (one.up, one.up_reverse)]
        return cls(
            from_edges=torch.stack([block.skip.weight.t(), *(one.input.weight.t() for one in starts)]).detach(),
            gates=torch.stack([_gate(one) for one in starts]),
            down=torch.stack([_wide(one.down.weight.t(), _widest(starts), axis=1) for one in starts]).detach(),
            from_atoms=torch.cat([atom.input.weight, block.atom_to_atom.down.weight]).detach().t().contiguous(),
            atom_gate=_gate(atom),
            atom_down=_turned(atom.down),
            sums=tuple(_wide(_summed(one), width, axis=1) for one in ends),
            up=torch.stack(both).detach(),
            edge_to_atom=(_summed(block.edge_to_atom), _turned(block.edge_to_atom.up)),
            atom_to_atom=(_summed(block.atom_to_atom), _turned(block.atom_to_atom.up)),
            before_skip=residuals_of(block.before_skip),
            after_skip=residuals_of(block.after_skip),
            atom_layers=residuals_of(block.atom_layers),
            update=UpdateWeights.of(block.atom_update),
            concat=ConcatWeights.of(block.concat),
            concat_layers=residuals_of(block.concat_layers),
        )


@dataclass(frozen=True)
class BasisWeights:
    """Of the bases."""

    centres: Float[Tensor, " R"]
    """Those of the Gaussians, by their width."""
    radial: dict[str, Float[Tensor, "R rbf"]]
    passes: Float[Tensor, "P R rbf"]
    """``radial`` of the passes that start from edges."""
    angular: dict[str, Float[Tensor, "R K*L"]]
    spherical: Float[Tensor, "R S*(L+1)*L"] | None
    """Of quadruplets: weights of cos κϑ and of Y_l'(0), for each degree l."""
    circular: Float[Tensor, "R L*blocks*quad"] | None
    """Of quadruplets: each block's own map of the circular basis multiplied in."""
    embedding: ConcatWeights

    @classmethod
    def of(cls, layer: BasisLayer, blocks: Sequence[InteractionBlock], *, quadruplets: bool) -> Self:
        """Fold those of a module and of the blocks' circular bases."""
        radial = {name: _turned(cast("nn.Linear", linear)) for name, linear in layer.radial.items()}
        names = ("edge_to_edge", *(["quadruplet"] if quadruplets else []), "edge_to_atom")
        angular = ("edge_to_edge", "atom_to_edge", "edge_to_atom")
        by_name = {name: layer.angular_weight(name) for name in angular}
        spherical = circular = None
        if quadruplets:
            spherical = layer.spherical_by_order()[:, :, :-1].flatten(1)  # what Y_l'(1) is for are closed triangles
            own = torch.stack([one.quadruplet.circular.weight * one.quadruplet.scale_circular() for one in blocks])
            circular = torch.einsum("rkl,bik->rlbi", layer.angular_weight("quadruplet_circular"), own).flatten(1)
        return cls(
            centres=layer.offset * ((layer.config.num_radial - 1) * INV_SQRT_2),
            radial=radial,
            passes=torch.stack([radial[name] for name in names]),
            angular={name: weight.flatten(1) for name, weight in by_name.items()},
            spherical=spherical,
            circular=circular,
            embedding=ConcatWeights.of(layer.edge_embedding),
        )


@dataclass(frozen=True)
class StepWeights:
    """All of a backbone."""

    bases: BasisWeights
    blocks: tuple[BlockWeights, ...]
    outputs: tuple[OutputWeights, ...]

    @classmethod
    @torch.no_grad()
    def of(cls, backbone: GemNetOC, *, quadruplets: bool) -> Self:
        """Fold those of a module; ``quadruplets`` says whether a task's graphs have any."""
        blocks = [cast("InteractionBlock", block) for block in backbone.blocks]
        return cls(
            BasisWeights.of(backbone.bases, blocks, quadruplets=quadruplets),
            tuple(BlockWeights.of(block, quadruplets=quadruplets) for block in blocks),
            tuple(OutputWeights.of(cast("OutputBlock", output)) for output in backbone.outputs),
        )


def residuals_of(layers: nn.Sequential) -> Residuals:
    """Fold the residual layers of a row."""
    both = [cast("Residual", layer) for layer in layers]
    return tuple((_turned(layer.first), _turned(layer.second, SILU_GAIN)) for layer in both)


def _turned(layer: nn.Linear, factor: Tensor | float = 1.0) -> Tensor:
    return (layer.weight.detach() * factor).t().contiguous()


def _gate(one: GatedDown) -> Tensor:
    """Of W_rbf, with the gain of what it gates."""
    return _turned(one.radial, one.scale_radial() * SILU_GAIN)


def _summed(one: nn.Module) -> Tensor:
    """Of the map after an angular sum, with the gain of the messages that were summed."""
    scale = cast("Tensor", one.scale_sum())  # type: ignore[operator]
    return _turned(cast("nn.Linear", one.bilinear), scale * SILU_GAIN)


def _widest(passes: Sequence[GatedDown]) -> int:
    return max(one.down.out_features for one in passes)


def _wide(matrix: Tensor, width: int, *, axis: int) -> Tensor:
    """Fill up with zero rows or columns."""
    missing = list(matrix.shape)
    missing[axis] = width - matrix.shape[axis]
    return torch.cat([matrix, matrix.new_zeros(missing)], dim=axis)
