"""CHGNet's updates of atoms, bonds and angles, by the package's own layers and in fewer operations.

Each update is a gated network of concatenated features (such as two atoms and their bond). Its first layers are
linear, so that their term for an atom is computed once for the atom, not once for each of its bonds, and that for a
bond once for the bond, not for each angle: W [a ; b ; c] = W_a a + W_b b + W_c c.
Sums are made in the dtype of the features that they are added to, whatever the precision of dense layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from atomslim.families.chgnet.graph import BondGraph

Summed: TypeAlias = Callable[[nn.Linear], Tensor]
"""The sum of a first layer's terms."""


@dataclass(frozen=True)
class Geometry:
    """A batch's graph, and bond quantities known before the first block.

    | field | shape | meaning |
    |---|---|---|
    | centres, neighbours | (2 bonds,) | atoms of the directions of bonds |
    | one, other | (angles,) | the bonds of an angle's two directions |
    | structure | (n,) | structure of each atom |
    | weights | (bonds, d_atom) | factor of messages along bonds |
    | short_weights | (short, d_bond) | factor of messages between bonds, once for each of the two |
    """

    graph: BondGraph
    centres: Int[Tensor, " directions"]
    neighbours: Int[Tensor, " directions"]
    one: Int[Tensor, " angles"]
    other: Int[Tensor, " angles"]
    structure: Int[Tensor, " n"]
    weights: Float[Tensor, "bonds d_atom"]
    short_weights: Float[Tensor, "short d_bond"]

    @classmethod
    def of(cls, graph: BondGraph, structure: Tensor, weights: Tensor, short_weights: Tensor) -> "Geometry":
        """Derive the indices."""
        edges, short = graph.edges(), max(graph.short, 1)
        one, other = graph.one % short, graph.other % short
        return cls(graph, edges.target, edges.source, one, other, structure, weights, short_weights)

    def has_angles(self) -> Tensor:
        """Say of each bond (bonds, 1) whether there is any angle in its structure."""
        found = torch.zeros_like(self.graph.cutoffs, dtype=torch.bool)
        found[self.structure[self.graph.centre]] = True
        return found[self.structure[self.graph.first], None]


class Block(nn.Module):
    """An update of atoms, then, if a later block reads them, of bonds and of angles."""

    def __init__(self, atoms: nn.Module, bonds: nn.Module | None, angles: nn.Module | None) -> None:
        super().__init__()
        self.atoms = atoms
        self.bonds = bonds
        self.angles = angles

    def forward(
        self,
        atoms: Float[Tensor, "n d_atom"],
        bonds: Float[Tensor, "bonds d_bond"],
        angles: Float[Tensor, "angles d_angle"],
        geometry: Geometry,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features of atoms, bonds and angles after this block."""
        atoms = updated_atoms(self.atoms, atoms, bonds, geometry)
        if self.bonds is not None and len(angles):
            bonds = updated_bonds(self.bonds, atoms, bonds, angles, geometry)
        if self.angles is not None and len(angles):
            angles = updated_angles(self.angles, atoms, bonds, angles, geometry)
        return atoms, bonds, angles


def updated_atoms(layer: Any, atoms: Tensor, bonds: Tensor, geometry: Geometry) -> Tensor:
    """Add to each atom its bonds' messages: Σ_bonds weight · gated(centre, bond, neighbour)."""

    def summed(first: nn.Linear) -> Tensor:
        centre, bond, neighbour = first.weight.split([atoms.shape[1], bonds.shape[1], atoms.shape[1]], dim=1)
        rows = linear(atoms, centre, first.bias).index_select(0, geometry.centres)
        rows = rows + linear(atoms, neighbour).index_select(0, geometry.neighbours)
        return rows.view(2, len(bonds), first.out_features) + linear(bonds, bond)

    messages = (gated(layer.twoBody_atom, summed) * geometry.weights).flatten(0, 1)
    total = torch.zeros_like(atoms).index_add(0, geometry.centres, messages.to(atoms))
    return _added(layer, total, atoms, layer.atom_norm)


def updated_bonds(layer: Any, atoms: Tensor, bonds: Tensor, angles: Tensor, geometry: Geometry) -> Tensor:
    """Add to each short bond its angles' messages: Σ_angles weight · weight' · gated(bond, bond', angle, centre).

    A bias or a norm changes all bonds, of structures that have angles: the numbers of a structure without must not
    depend on what else is in the batch.
    """
    short, rest = bonds.split([geometry.graph.short, len(bonds) - geometry.graph.short])
    messages = gated(layer.twoBody_bond, _summed_by_angle(atoms, short, angles, geometry))
    messages = messages * geometry.short_weights.index_select(0, geometry.other)
    total = torch.zeros_like(short).index_add(0, geometry.one, messages.to(bonds)) * geometry.short_weights
    if layer.bond_norm is None and all(name.endswith("weight") for name, _ in layer.mlp_out.named_parameters()):
        return torch.cat([_added(layer, total, short, None), rest])
    updated = _added(layer, torch.cat([total, torch.zeros_like(rest)]), bonds, layer.bond_norm)
    return torch.where(geometry.has_angles(), updated, bonds)


def updated_angles(layer: Any, atoms: Tensor, bonds: Tensor, angles: Tensor, geometry: Geometry) -> Tensor:
    """Add gated(bond, bond', angle, centre) to each angle."""
    short = bonds[: geometry.graph.short]
    updated = gated(layer.twoBody_bond, _summed_by_angle(atoms, short, angles, geometry)) + angles
    return updated if layer.angle_norm is None else layer.angle_norm(updated)


def _summed_by_angle(atoms: Tensor, short: Tensor, angles: Tensor, geometry: Geometry) -> Summed:
    graph = geometry.graph
    centres = torch.cat([graph.first[: graph.short], graph.second[: graph.short]])

    def summed(first: nn.Linear) -> Tensor:
        width = short.shape[1]
        one, other, angle, centre = first.weight.split([width, width, angles.shape[1], atoms.shape[1]], dim=1)
        begin = linear(atoms, centre, first.bias).index_select(0, centres) + linear(short, one).repeat(2, 1)
        rows = begin.index_select(0, graph.one) + linear(short, other).index_select(0, geometry.other)
        return rows + linear(angles, angle)

    return summed


def gated(network: Any, summed: Summed) -> Tensor:
    """Apply a gated network of the package, its two first layers through ``summed``."""
    core, gate = _applied(network.mlp_core, summed), _applied(network.mlp_gate, summed)
    if network.norm is not None:
        core, gate = network.bn1(core), network.bn2(gate)
    return network.activation(core) * network.sigmoid(gate)


def _applied(network: Any, summed: Summed) -> Tensor:
    """Apply layers of the package; a dropout of the inputs, before the first linear one, is left out."""
    index = linear_indices(network)[0]
    rows = summed(network.layers[index])
    for layer in network.layers[index + 1 :]:
        rows = layer(rows)
    return rows


def linear_indices(network: Any) -> list[int]:
    """Return the indices of the linear layers among the layers of a network of the package."""
    return [index for index, layer in enumerate(network.layers) if isinstance(layer, nn.Linear)]


def _added(layer: Any, total: Tensor, before: Tensor, norm: nn.Module | None) -> Tensor:
    updated = layer.mlp_out(total) + before
    return updated if norm is None else norm(updated)
