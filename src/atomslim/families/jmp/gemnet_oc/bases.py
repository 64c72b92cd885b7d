"""Radial and angular bases of all edges, and the per-edge coefficients that no block changes.

| symbol | variable | shape |
|---|---|---|
| u(x) g_i(x), x = d/12 Å | ``rbf`` | (e, R) |
| radW[o, k, l] | projected ``rbf`` of an out edge | (e, K, L) |
| Y_lm(v) | ``harmonics`` | (e, L²) |
| Y_l(cos φ) | ``legendre`` | (…, L) |

The factorised sums (fast form of GemNet-OC, arXiv 2204.02782): an angular message sum over the edges into an atom,
Σ_in Y_l(v_out·v_in) y_in, is a product of Y_lm(v_out) with the atom's moments Σ_in Y_lm(v_in) y_in. Everything but y
depends on positions alone and is computed here, once for all blocks.
"""

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomslim.atoms import AtomsBatch
from atomslim.families.jmp.gemnet_oc.angular import (
    addition_weights,
    azimuth_harmonics,
    damped_azimuth_harmonics,
    degree_of_harmonic,
    frames,
    legendre,
    legendre_at,
    legendre_to_cosines,
    spherical_harmonics,
)
from atomslim.families.jmp.gemnet_oc.coefficients import (
    Bases,
    EdgeToAtomBasis,
    Made,
    OutgoingEdges,
    QuadBasis,
    QuadCoefficients,
    TripletBasis,
    TripletCoefficients,
    not_kept,
)
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.families.jmp.gemnet_oc.geometry import PaddedEdges, edge_vectors, lengths_and_directions
from atomslim.families.jmp.gemnet_oc.graphs import Edges, Topology
from atomslim.families.jmp.gemnet_oc.indices import InteractionIndex, QuadIndex
from atomslim.families.jmp.gemnet_oc.layers import (
    INV_SQRT_2,
    Linear,
    PairLinear,
    scale_gradient,
    standardised_orthogonal_,
)
from atomslim.families.jmp.gemnet_oc.reach import QUAD, Reach, envelope
from atomslim.families.jmp.gemnet_oc.segments import Part, Segments, segment_apply
from atomslim.models.precision import full_precision

KEPT_EDGES = {"cpu": 2**15, "cuda": 2**18}
"""Up to so many main edges the coefficients of all of them are kept for all blocks: 25 kB for an edge of JMP-L, and
three times that while they are computed. A GPU computes dense layers so fast that computing them again would show."""

EDGES_AT_ONCE = 2**13
"""For more, outside training, they are recomputed in each block for so many edges at a time."""

PAIRS_AT_ONCE = 2**16
"""Of so many edges of the other graphs is computed at a time what is summed up for atoms or pairs of them."""


class AngularWeight(nn.Module):
    """Projects a radial basis onto K functions for each of S angular ones: out[e, k, s] = Σ_r rbf[e, r] W'[r, k, s].

    The stored weight has the shape (R, S, K), but the product is read back as (K, S): W'[r, k, s] is entry k·S + s of
    row r. Trained weights rely on this order.
    """

    def __init__(self, num_radial: int, num_angular: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_radial, num_angular, out_features))
        standardised_orthogonal_(self.weight, summed=(0, 1))

    def by_function(self, gradient_scale: float) -> Float[Tensor, "R K S"]:
        """Return W', its gradient multiplied by ``gradient_scale``."""
        num_radial, num_angular, out_features = self.weight.shape
        return scale_gradient(self.weight, gradient_scale).reshape(num_radial, out_features, num_angular)


class BasisLayer(nn.Module):
    """Computes all bases of a topology.

    Gradients of the projections that all blocks share are divided by the number of blocks that use them.
    """

    offset: Tensor

    def __init__(self, config: GemNetOCConfig) -> None:
        super().__init__()
        self.config = config
        radial, angular = config.num_radial, config.num_spherical
        self.register_buffer("offset", gaussian_centres(radial))
        self.edge_embedding = PairLinear(config.emb_size_atom, radial, config.emb_size_edge)
        names = ("edge_to_edge", "quadruplet", "atom_to_edge", "edge_to_atom", "atom_to_atom", "atom_update", "output")
        self.radial = nn.ModuleDict({name: Linear(radial, config.emb_size_rbf) for name in names})
        circular = ("edge_to_edge", "atom_to_edge", "edge_to_atom", "quadruplet_circular")
        self.angular = nn.ModuleDict({name: AngularWeight(radial, angular, config.emb_size_cbf) for name in circular})
        self.angular["quadruplet_spherical"] = AngularWeight(radial, angular**2, config.emb_size_sbf)

    def rbf(self, distance: Float[Tensor, " e"], end: Float[Tensor, " e"] | None = None) -> Float[Tensor, "e R"]:
        """Return u(x) exp(−½((x − μ)/Δ)²) with x = d/12 Å: Gaussians under a polynomial envelope that ends at x = 1.

        In a smooth graph it ends at the edge's own ``end`` (Å).

        A Gaussian 10 widths away is e⁻⁵⁰ at least: nothing beside the nearest one even in float64, but no denormal
        number, which would slow every product with the basis down.
        """
        x = (distance / self.config.basis_cutoff).to(self.offset.dtype)[:, None]
        scale = (self.config.num_radial - 1) * INV_SQRT_2
        exponent = (x * scale - self.offset * scale).square().clamp(max=50.0)
        fading = envelope(x) if end is None else envelope(distance / end).to(x.dtype)[:, None]
        return fading * torch.exp(-exponent)

    def forward(self, batch: AtomsBatch, topology: Topology, index: InteractionIndex) -> Bases:
        """Return all bases, in the weights' dtype under any precision."""
        with full_precision(batch.device):
            return self._bases(batch, topology, index)

    def _bases(self, batch: AtomsBatch, topology: Topology, index: InteractionIndex) -> Bases:
        distance, direction = lengths_and_directions(edge_vectors(batch, topology.main))
        ae_distance, ae_direction = lengths_and_directions(edge_vectors(batch, topology.atom_edge))
        dtype = self.offset.dtype
        reach = self._reach(batch, topology)
        rbf = self.rbf(distance, _ends(reach, topology.main))
        ae_rbf = self.rbf(ae_distance, _ends(reach, topology.atom_edge))
        harmonics = spherical_harmonics(direction.to(dtype), self.config.num_spherical)
        ae_harmonics = spherical_harmonics(ae_direction.to(dtype), self.config.num_spherical)
        shared = index.same_atom_edge < topology.atom_edge.count
        return Bases(
            rbf=rbf,
            direction=direction,
            harmonics=harmonics,
            atom_edge_harmonics=ae_harmonics,
            edge_to_edge=self._triplets("edge_to_edge", rbf, rbf, harmonics, torch.ones_like(shared), index.main),
            atom_to_edge=self._triplets("atom_to_edge", ae_rbf, rbf, harmonics, shared, index.main),
            edge_to_atom=self._edge_to_atom(rbf, ae_rbf, harmonics, ae_harmonics, topology, index),
            atom_to_atom=self._atom_to_atom(batch, topology, index),
            quad=None
            if index.quad is None
            else self._quadruplets(batch, topology, index.quad, rbf, direction, index.main, reach),
            atom_update=self._radial("atom_update", rbf),
            output=self._radial("output", rbf),
        )

    def _reach(self, batch: AtomsBatch, topology: Topology) -> Reach | None:
        """Return where edges end, with its derivatives; None where all end at the same distance."""
        if topology.reach is None:
            return None
        distance = torch.linalg.vector_norm(edge_vectors(batch, topology.atom), dim=-1)
        return topology.reach.differentiable(distance, topology.atom.target)

    def _outgoing(self, main: Segments, make: Callable[[slice], Made]) -> OutgoingEdges[Made]:
        """Return the coefficients of all main edges, or what makes those of a part of them."""
        most = KEPT_EDGES.get(self.offset.device.type, KEPT_EDGES["cpu"])
        parts = (Part(slice(None), main),) if self.training else main.parts(most, EDGES_AT_ONCE)
        if len(parts) == 1:
            return OutgoingEdges(parts, make, kept=make(slice(None)))

        def made(rows: slice) -> Made:
            with full_precision(self.offset.device):
                return make(rows)

        return OutgoingEdges(parts, made, kept=None)

    def _triplets(
        self, name: str, rbf_in: Tensor, rbf_out: Tensor, harmonics: Tensor, has_own: Tensor, main: Segments
    ) -> TripletBasis:
        at_one = legendre_at(1.0, self.config.num_spherical).to(rbf_out)

        def coefficients(rows: slice) -> TripletCoefficients:
            projected = self._angular(name, rbf_out[rows])
            return TripletCoefficients(
                coefficient=self._by_harmonic(projected) * harmonics[rows, None],
                own=(projected @ at_one) * has_own[rows, None],
            )

        return TripletBasis(self._radial(name, rbf_in), self._outgoing(main, coefficients))

    def _edge_to_atom(
        self,
        rbf: Tensor,
        ae_rbf: Tensor,
        harmonics: Tensor,
        ae_harmonics: Tensor,
        topology: Topology,
        index: InteractionIndex,
    ) -> EdgeToAtomBasis:
        projected = self._angular("edge_to_atom", ae_rbf)

        def outgoing(rows: slice) -> Tensor:
            return (self._by_harmonic(projected[rows]) * ae_harmonics[rows, None]).transpose(1, 2)

        per_atom = rbf.new_zeros(index.main.num_segments, ae_harmonics.shape[1], self.config.emb_size_cbf)
        for rows, out in _in_slices(outgoing, topology.atom_edge, PAIRS_AT_ONCE):
            per_atom = per_atom.index_add(0, topology.atom_edge.target[rows], out)
        at_one = legendre_at(1.0, self.config.num_spherical).to(rbf)
        own = with_zero_row(projected @ at_one)[index.same_atom_edge]
        coefficient = segment_apply(harmonics[:, None], per_atom, index.main).squeeze(1) - own
        return EdgeToAtomBasis(radial=self._radial("edge_to_atom", rbf), coefficient=coefficient)

    def _atom_to_atom(self, batch: AtomsBatch, topology: Topology, index: InteractionIndex) -> Tensor:
        def weights_of(rows: slice) -> Tensor:
            with full_precision(batch.device):
                distance = torch.linalg.vector_norm(edge_vectors(batch, topology.atom[rows]), dim=-1)
                end = None if topology.reach is None else topology.reach.cutoff[topology.atom.target[rows]]
                return self._radial("atom_to_atom", self.rbf(distance, end))

        weights = torch.cat([part for _, part in _in_slices(weights_of, topology.atom, PAIRS_AT_ONCE)])
        return weights.new_zeros(index.pair_source.shape[0], weights.shape[1]).index_add(0, index.pair_of_edge, weights)

    def _quadruplets(
        self,
        batch: AtomsBatch,
        topology: Topology,
        index: QuadIndex,
        rbf: Tensor,
        direction: Tensor,
        main: Segments,
        reach: Reach | None,
    ) -> QuadBasis:
        num, dtype = self.config.num_spherical, self.offset.dtype
        distance, axis = lengths_and_directions(edge_vectors(batch, topology.quad))
        frame = frames(axis)
        incoming = torch.einsum("mij,mdj->mdi", frame, with_zero_row(direction)[index.incoming]).to(dtype)
        padded_frame = with_zero_row(frame)
        if reach is None:
            incoming_azimuth, incoming_straight = azimuth_harmonics(incoming, num)
            incoming_bent = with_zero_row((~incoming_straight).to(rbf).flatten())
        else:
            incoming_azimuth = damped_azimuth_harmonics(incoming, num)

        def coefficients(rows: slice) -> QuadCoefficients:
            outgoing = torch.einsum("eqij,ej->eqi", padded_frame[index.outgoing[rows]], direction[rows]).to(dtype)
            if reach is not None:
                return self._damped_coefficients(rbf[rows], outgoing, incoming_azimuth, index, rows)
            return self._outgoing_coefficients(rbf[rows], outgoing, incoming_bent, index, rows)

        end = _ends(reach, topology.quad, QUAD)
        return QuadBasis(
            radial=self._radial("quadruplet", rbf),
            circular=self._angular("quadruplet_circular", self.rbf(distance, end)),
            incoming_legendre=legendre(incoming[..., 2], num) * index.incoming_kept[..., None],
            incoming_azimuth=incoming_azimuth,
            outgoing=self._outgoing(main, coefficients),
        )

    def _outgoing_coefficients(
        self, rbf: Tensor, outgoing: Tensor, incoming_bent: Tensor, index: QuadIndex, rows: slice
    ) -> QuadCoefficients:
        """Split Σ_ll' W[l, l'] Y_l(cos φ_cab) Y_l'(cos ϑ), ϑ = φ_c − φ_d, into a part of c and a part of d.

        Y_l'(cos ϑ) = Σ_κ c[l', κ] (cos κφ_c cos κφ_d + sin κφ_c sin κφ_d), and Y_l'(0) where c or d lies on the line
        of the middle edge. A closed triangle has ϑ = 0.
        """
        num = self.config.num_spherical
        azimuth, straight = azimuth_harmonics(outgoing, num)
        by_order, at_zero, at_one = self._by_order(rbf, outgoing, index, rows).split([num, 1, 1], dim=2)

        factors = azimuth.transpose(1, 2)[:, None]
        bent = factors[:, :, :1]
        # A straight c meets a bent d in the slot of cos 0φ; any c meets a straight d in the last slot.
        constant = torch.where(straight[:, None, None], at_zero, by_order[:, :, :1])
        higher = by_order[:, :, 1:]
        coefficient = torch.cat(
            [constant, higher * factors[:, :, 1:num], higher * factors[:, :, num:-1], at_zero], dim=2
        )
        closed = (index.closing[rows] < index.incoming.numel()).to(rbf)[:, None, None]
        both_bent = bent * incoming_bent[index.closing[rows]][:, None, None]
        closing = closed * (both_bent * at_one + (1 - both_bent) * at_zero)
        return QuadCoefficients(coefficient.flatten(2), closing.squeeze(2))

    def _damped_coefficients(
        self, rbf: Tensor, outgoing: Tensor, incoming_azimuth: Tensor, index: QuadIndex, rows: slice
    ) -> QuadCoefficients:
        """Split Σ_ll' W[l, l'] Y_l(cos φ_cab) Σ_κ c[l', κ] (sin φ_cab sin φ_abd)^κ cos κϑ in the same way.

        With the sines' powers, the dihedral angle ϑ loses its weight where it loses its meaning, and the sum is smooth.
        """
        num = self.config.num_spherical
        azimuth = damped_azimuth_harmonics(outgoing, num).transpose(1, 2)[:, None]  # (e, 1, 2L, Q)
        by_order = self._by_order(rbf, outgoing, index, rows)[:, :, :num]  # (e, S, L, Q)
        by_slot = torch.cat([by_order, by_order[:, :, 1:], torch.zeros_like(by_order[:, :, :1])], dim=2)
        coefficient = by_slot * azimuth  # (e, S, 2L, Q)
        closing_azimuth = with_zero_row(incoming_azimuth.flatten(0, 1))[index.closing[rows]]  # (e, Q, 2L)
        closing = torch.einsum("esnq,eqn->esq", coefficient, closing_azimuth)
        return QuadCoefficients(coefficient.flatten(2), closing)

    def _by_order(self, rbf: Tensor, outgoing: Tensor, index: QuadIndex, rows: slice) -> Float[Tensor, "e S L+2 Q"]:
        """Return the weights of cos κϑ, of Y_l' at 0 and of Y_l' at 1, for each middle edge."""
        angular = legendre(outgoing[..., 2], self.config.num_spherical) * index.outgoing_kept[rows, :, None]
        weights = torch.einsum("er,rknl->eknl", rbf, self.spherical_by_order())
        return torch.einsum("eknl,eql->eknq", weights, angular)

    def spherical_by_order(self) -> Float[Tensor, "R S L+2 L"]:
        """Return the spherical weights with Y_l' replaced by cos κϑ, by its value at 0, and by its value at 1."""
        num = self.config.num_spherical
        weight = self.angular_weight("quadruplet_spherical")
        columns = torch.stack(
            [*legendre_to_cosines(num).unbind(1), legendre_at(0.0, num), legendre_at(1.0, num)], dim=1
        )
        return torch.einsum("rklm,mn->rknl", weight.unflatten(-1, (num, num)), columns.to(weight))

    def _radial(self, name: str, rbf: Tensor) -> Tensor:
        users = self.config.num_blocks + (name == "output")
        weight = cast("Linear", self.radial[name]).weight
        return nn.functional.linear(rbf, scale_gradient(weight, 1 / max(users, 1)))

    def _angular(self, name: str, rbf: Tensor) -> Tensor:
        return torch.einsum("er,rks->eks", rbf, self.angular_weight(name))

    def angular_weight(self, name: str) -> Float[Tensor, "R K S"]:
        """Return the weight of an angular basis, its gradient divided by the number of blocks."""
        return cast("AngularWeight", self.angular[name]).by_function(1 / max(self.config.num_blocks, 1))

    def _by_harmonic(self, projected: Float[Tensor, "e K L"]) -> Float[Tensor, "e K L*L"]:
        """Spread the weight of Y_l over its harmonics Y_lm, by the addition theorem."""
        num = self.config.num_spherical
        spread = nn.functional.one_hot(degree_of_harmonic(num), num).T * addition_weights(num)
        return projected @ spread.to(projected)


def _ends(reach: Reach | None, edges: Edges, share: float = 1.0) -> Float[Tensor, " e"] | None:
    return None if reach is None else share * reach.of_edges(edges.source, edges.target)


def _in_slices(function: Callable[[slice], Tensor], edges: Edges, at_once: int) -> Iterator[tuple[slice, Tensor]]:
    """Compute something of edges, so many at a time where they are more than that and no program is traced."""
    traced = type(edges.count) is not int
    if traced or isinstance(edges, PaddedEdges) or len(edges) <= at_once:
        yield slice(None), function(slice(None))
        return
    for first in range(0, len(edges), at_once):
        rows = slice(first, first + at_once)
        yield rows, not_kept(function, rows)


def gaussian_centres(num: int) -> Float[Tensor, " num"]:
    """Return the centres μ of the radial basis on [0, 1] in float32, rounded exactly as in trained checkpoints.

    With s = float32(1)/float32(num − 1): float32(s·i) in the lower half, float32(1 − s·(num − 1 − i)) in the upper.
    Library routines for evenly spaced numbers round some entries otherwise, which moves energies by up to 3e-5.
    """
    step = float(np.float32(1) / np.float32(num - 1))
    centres = [step * i if i < num / 2 else 1 - step * (num - 1 - i) for i in range(num)]
    return torch.tensor(centres, dtype=torch.float64).to(torch.float32)


def with_zero_row(rows: Tensor) -> Tensor:
    """Append a row of zeros, for indices that mean "none"."""
    return torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])
