"""Bases of one structure from the vectors of its edges: what all blocks of a step read besides features.

The angular sums are matrices here. A triplet sum, z[o, k] = Σ_in Σ_l radW[o, k, l] Y_l(v_o · v_in) y[in], is one
product for each atom of G[(o, k), in], which no block changes, with the messages; so is a quadruplet sum, whose G has
the pairs (middle edge q, d) as columns. Edges that are not part of a sum have zeros there, so that nothing is taken off
afterwards. With some ten edges into an atom this is less work than by harmonics, and far fewer operations.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from atomslim.families.jmp.gemnet_oc.angular import azimuth_harmonics, damped_azimuth_harmonics, frames, legendre
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.families.jmp.gemnet_oc.reach import QUAD, envelope
from atomslim.families.jmp.steps.graph import MiddleTables, StepGraph, Table
from atomslim.families.jmp.steps.weights import BasisWeights


@dataclass(frozen=True)
class QuadMatrices:
    """Of the quadruplet sum."""

    incoming: Float[Tensor, "blocks n*Q W quad"]
    """What the messages of d→b are multiplied by for each middle edge."""
    sum: Float[Tensor, "n W*S Q*W"]


@dataclass(frozen=True)
class StepBases:
    """See `StepGraph` for the symbols."""

    rbf: Float[Tensor, "E R"]
    direction: Float[Tensor, "E 3"]
    passes: Float[Tensor, "P E rbf"]
    """Radial bases of the passes that start from edges."""
    atom_edge: Float[Tensor, "n*V rbf"]
    edge_to_edge: Float[Tensor, "n W*K W"]
    atom_to_edge: Float[Tensor, "n W*K V"]
    edge_to_atom: Float[Tensor, "n K W"]
    atom_to_atom: Float[Tensor, "n rbf P"]
    quad: QuadMatrices | None
    update: Float[Tensor, "n rbf W"]
    output: Float[Tensor, "n rbf W"]
    output_edges: Float[Tensor, "E rbf"]


@dataclass(frozen=True)
class BasisMaker:
    """Makes the bases of a model's steps."""

    config: GemNetOCConfig
    weights: BasisWeights

    def of(self, vectors: Float[Tensor, "e 3"], graph: StepGraph) -> StepBases:
        """Return the bases for the vectors (Å) of the graph's edges."""
        weights, main = self.weights, graph.main
        distance = torch.linalg.vector_norm(vectors, dim=-1)
        radial = self._rbf(distance, graph).split(list(graph.sizes))
        rbf = radial[0]
        atoms = main.filled.shape[0]
        direction, others, middle, _ = (vectors / distance[:, None]).split(list(graph.sizes))
        outward = _padded(direction, main).view(atoms, main.width, 3)
        padded = _padded(rbf, main)
        around, atom_edge = [outward], padded
        if graph.atom_edge is not main:
            around.append(_padded(others, graph.atom_edge).view(atoms, graph.atom_edge.width, 3))
            atom_edge = _padded(radial[1], graph.atom_edge)
        cosines = torch.bmm(outward, torch.cat(around, 1).transpose(1, 2)).to(rbf)
        angular = self._angular(cosines, graph)  # (n, W, W+V, L)
        from_edges, from_atoms = angular.split([main.width, graph.atom_edge.width], dim=2)
        return StepBases(
            rbf=rbf,
            direction=direction,
            passes=torch.bmm(rbf.expand(len(weights.passes), -1, -1), weights.passes),
            atom_edge=torch.mm(atom_edge, weights.radial["atom_to_edge"]),
            edge_to_edge=self._triplets("edge_to_edge", padded, from_edges),
            atom_to_edge=self._triplets("atom_to_edge", padded, from_atoms),
            edge_to_atom=self._edge_to_atom(atom_edge, from_atoms),
            atom_to_atom=self._atom_to_atom(radial[3], graph),
            quad=None
            if graph.middle is None
            else self._quadruplets(graph.middle, middle, radial[2], padded, outward, graph),
            update=torch.mm(padded, weights.radial["atom_update"]).view(atoms, main.width, -1).transpose(1, 2),
            output=torch.mm(padded, weights.radial["output"]).view(atoms, main.width, -1).transpose(1, 2),
            output_edges=torch.mm(rbf, weights.radial["output"]),
        )

    def _rbf(self, distance: Float[Tensor, " e"], graph: StepGraph) -> Float[Tensor, "e R"]:
        """Return the radial basis of `BasisLayer.rbf`, for the edges of all graphs at once."""
        width = (self.config.num_radial - 1) * 0.5**0.5
        centres = self.weights.centres
        x = (distance / self.config.basis_cutoff).to(centres)[:, None]
        exponent = torch.sub(centres, x, alpha=width).square().clamp(max=50.0)
        fading = envelope(x) if graph.reach is None else self._smooth_fading(distance, graph).to(centres)[:, None]
        return fading * torch.exp(-exponent)

    @staticmethod
    def _smooth_fading(distance: Float[Tensor, " e"], graph: StepGraph) -> Float[Tensor, " e"]:
        if graph.reach is None:
            raise ValueError("the graph is not smooth")
        sizes = list(graph.sizes)
        sources, targets = graph.source.split(sizes), graph.target.split(sizes)
        reach = graph.reach.differentiable(distance.split(sizes)[3], targets[3])
        ends = [reach.of_edges(sources[0], targets[0])]
        if graph.middle is not None:
            ends.append(QUAD * reach.of_edges(sources[2], targets[2]))
        return envelope(distance / torch.cat([*ends, graph.reach.cutoff[targets[3]]]))

    def _angular(self, cosines: Tensor, graph: StepGraph) -> Float[Tensor, "n W W+V L"]:
        """Return Y_l of the cosines, zero where there is no triplet."""
        degrees = legendre(cosines, self.config.num_spherical)
        if graph.reach is not None:  # atom-edge edges are the main ones
            degrees = degrees * graph.triplets[:, :, : graph.main.width]
            return torch.cat([degrees, degrees], dim=2)
        return degrees * graph.triplets

    def _triplets(self, name: str, rbf: Float[Tensor, "n*W R"], angular: Tensor) -> Float[Tensor, "n W*K in"]:
        atoms, width, others, num = angular.shape
        projected = torch.mm(rbf, self.weights.angular[name]).view(atoms * width, -1, num)
        product = torch.bmm(projected, angular.reshape(atoms * width, others, num).transpose(1, 2))
        return product.view(atoms, width * projected.shape[1], others)

    def _edge_to_atom(self, rbf: Float[Tensor, "n*V R"], angular: Tensor) -> Float[Tensor, "n K W"]:
        atoms, width, others, num = angular.shape
        weight = self.weights.angular["edge_to_atom"]
        projected = torch.mm(rbf, weight).view(atoms, others, weight.shape[1] // num, num)
        outward = projected.transpose(1, 2).reshape(atoms, weight.shape[1] // num, others * num)
        return torch.bmm(outward, angular.reshape(atoms, width, others * num).transpose(1, 2))

    def _atom_to_atom(self, rbf: Float[Tensor, "pairs R"], graph: StepGraph) -> Float[Tensor, "n rbf P"]:
        weights = torch.mm(rbf, self.weights.radial["atom_to_atom"])
        padded = _padded(weights, graph.atom).view(graph.main.filled.shape[0], graph.atom.width, -1)
        return padded.transpose(1, 2)

    def _quadruplets(
        self,
        middle: MiddleTables,
        axis: Float[Tensor, "middle 3"],
        rbf_middle: Tensor,
        rbf: Tensor,
        outward: Float[Tensor, "n W 3"],
        graph: StepGraph,
    ) -> QuadMatrices:
        """Return the matrices of `BasisLayer`'s two halves of the quadruplet sum, multiplied with each other."""
        num, (atoms, width, _), middle_width = self.config.num_spherical, outward.shape, middle.table.width
        frame = _padded(frames(axis), middle.table)
        inward = outward.index_select(0, middle.source)
        incoming = torch.bmm(inward, frame.transpose(1, 2)).to(rbf)  # (n Q, W, 3)
        outgoing = torch.bmm(outward, frame.view(atoms, middle_width * 3, 3).transpose(1, 2)).to(rbf)
        outgoing = outgoing.view(atoms * width, middle_width, 3)
        coefficient, azimuth = self._by_azimuth(rbf, outgoing, incoming, middle, smooth=graph.reach is not None)
        # (n W, S, 2L, Q) and (n Q, W, 2L)
        slots = coefficient.view(atoms, width, -1, 2 * num, middle_width).permute(0, 4, 1, 2, 3)
        product = torch.bmm(slots.reshape(atoms * middle_width, -1, 2 * num), azimuth.transpose(1, 2))
        product = product.view(atoms, middle_width, width, -1, width).permute(0, 2, 3, 1, 4) * middle.not_closed
        return QuadMatrices(
            incoming=self._incoming(rbf_middle, incoming, middle),
            sum=product.reshape(atoms, -1, middle_width * width),
        )

    def _incoming(self, rbf: Tensor, incoming: Tensor, middle: MiddleTables) -> Float[Tensor, "blocks n*Q W quad"]:
        if self.weights.circular is None:
            raise ValueError("the weights are those of a model without quadruplets")
        num, blocks = self.config.num_spherical, self.config.num_blocks
        angular = legendre(incoming[..., 2], num) * middle.incoming_kept[..., None]
        weights = torch.mm(_padded(rbf, middle.table), self.weights.circular).view(angular.shape[0], num, -1)
        return torch.bmm(angular, weights).unflatten(2, (blocks, -1)).permute(2, 0, 1, 3).contiguous()

    def _by_azimuth(
        self, rbf: Tensor, outgoing: Tensor, incoming: Tensor, middle: MiddleTables, *, smooth: bool
    ) -> tuple[Float[Tensor, "n*W S 2L Q"], Float[Tensor, "n*Q W 2L"]]:
        """Return the coefficients of the azimuthal harmonics of c, and those harmonics of d."""
        if self.weights.spherical is None:
            raise ValueError("the weights are those of a model without quadruplets")
        num = self.config.num_spherical
        angular = legendre(outgoing[..., 2], num) * middle.outgoing_kept[..., None]  # (n W, Q, L)
        weights = torch.mm(rbf, self.weights.spherical).view(rbf.shape[0], -1, num)
        by_order = torch.bmm(weights, angular.transpose(1, 2)).unflatten(1, (-1, num + 1))  # (n W, S, L+1, Q)
        orders, at_zero = by_order[:, :, :num], by_order[:, :, num:]
        if smooth:
            factors = damped_azimuth_harmonics(outgoing, num).transpose(1, 2)[:, None]
            slots = torch.cat([orders, orders[:, :, 1:], torch.zeros_like(at_zero)], dim=2)
            return slots * factors, damped_azimuth_harmonics(incoming, num)
        azimuth, straight = azimuth_harmonics(outgoing, num)
        factors = azimuth.transpose(1, 2)[:, None]
        constant = torch.where(straight[:, None, None], at_zero, orders[:, :, :1])
        higher = orders[:, :, 1:]
        bent = [constant, higher * factors[:, :, 1:num], higher * factors[:, :, num:-1], at_zero]
        return torch.cat(bent, dim=2), azimuth_harmonics(incoming, num)[0]


def _padded(rows: Tensor, table: Table) -> Tensor:
    """Put rows into their slots, zeros into empty ones."""
    if table.rows is None:
        return rows
    return torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])]).index_select(0, table.rows)
