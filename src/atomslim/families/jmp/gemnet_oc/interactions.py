"""The message passes of a block: angular sums over triplets and quadruplets at a cost linear in the edges.

Every pass is: dense layer on the input, gate by the radial basis, down-projection to a narrow message y, angular sum z
by matrix products per atom, linear map, up-projection. Only narrow tensors meet the angular sum.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from atomslim.families.jmp.gemnet_oc.bases import with_zero_row
from atomslim.families.jmp.gemnet_oc.coefficients import (
    EdgeToAtomBasis,
    QuadBasis,
    QuadCoefficients,
    TripletBasis,
    TripletCoefficients,
)
from atomslim.families.jmp.gemnet_oc.config import GemNetOCConfig
from atomslim.families.jmp.gemnet_oc.indices import QuadIndex
from atomslim.families.jmp.gemnet_oc.layers import Linear, ScaleFactor, average, scaled_silu
from atomslim.families.jmp.gemnet_oc.segments import Part, Segments, segment_apply, segment_outer
from atomslim.models.precision import full_precision


class GatedDown(nn.Module):
    """Base of the passes: y = act(W_down (act(W_in x) ⊙ (W_rbf rad)))."""

    def __init__(self, config: GemNetOCConfig, width: int, narrow: int) -> None:
        super().__init__()
        self.input = Linear(width, width)
        self.radial = Linear(config.emb_size_rbf, width)
        self.scale_radial = ScaleFactor()
        self.down = Linear(width, narrow)

    def gated_down(
        self, x: Float[Tensor, "rows width"], radial: Float[Tensor, "e rbf"], rows: Int[Tensor, " e"] | None = None
    ) -> Float[Tensor, "e narrow"]:
        """Return the narrow messages of edges; ``rows`` picks each edge's row of ``x``."""
        before = scaled_silu(self.input(x))
        if rows is not None:
            before = before[rows]
        gate = self.radial(radial * self.scale_radial())
        gated = before * gate if torch.is_grad_enabled() else gate.mul_(before)
        self.scale_radial.observe(before, gated)
        return scaled_silu(self.down(gated))


class _UpBothWays(GatedDown):
    """A pass that ends on main edges: (act(W_up z) + act(W_reverse z)[rev])/√2."""

    def __init__(self, config: GemNetOCConfig, width: int, narrow: int, summed: int) -> None:
        super().__init__(config, width, narrow)
        self.up = Linear(summed, config.emb_size_edge)
        self.up_reverse = Linear(summed, config.emb_size_edge)

    def up_both_ways(self, z: Float[Tensor, "E summed"], reverse: Int[Tensor, " E"]) -> Float[Tensor, "E emb_edge"]:
        """Return the pass's output; the narrow z is permuted rather than the wide result."""
        return average(scaled_silu(self.up(z)), scaled_silu(self.up_reverse(z[reverse])))


class TripletInteraction(_UpBothWays):
    """Sum over triplets b→a←c into main edges c→a, of main edges b→a (edge to edge) or of atoms b (atom to edge)."""

    def __init__(self, config: GemNetOCConfig, width: int) -> None:
        narrow, summed = config.emb_size_trip_in, config.emb_size_trip_out
        super().__init__(config, width, narrow, summed)
        self.bilinear = Linear(config.emb_size_cbf * narrow, summed)
        self.scale_sum = ScaleFactor()

    def edge_to_edge(
        self,
        m: Float[Tensor, "E emb_edge"],
        basis: TripletBasis,
        harmonics: Float[Tensor, "E L*L"],
        main: Segments,
        reverse: Int[Tensor, " E"],
    ) -> Float[Tensor, "E emb_edge"]:
        """Return the update of main edges by the main edges into the same atom."""
        y = self.gated_down(m, basis.radial)
        moments = segment_outer(harmonics[:, None], y[:, None], main)
        return self._finish(y, moments, y, basis, reverse)

    def atom_to_edge(
        self,
        h: Float[Tensor, "n emb_atom"],
        basis: TripletBasis,
        harmonics: Float[Tensor, "ae L*L"],
        source: Int[Tensor, " ae"],
        atom_edge: Segments,
        same_atom_edge: Int[Tensor, " E"],
        reverse: Int[Tensor, " E"],
    ) -> Float[Tensor, "E emb_edge"]:
        """Return the update of main edges by the neighbours of their target."""
        y = self.gated_down(h, basis.radial, rows=source)
        moments = segment_outer(harmonics[:, None], y[:, None], atom_edge)
        return self._finish(y, moments, with_zero_row(y)[same_atom_edge], basis, reverse)

    def _finish(
        self, y: Tensor, moments: Tensor, own: Tensor, basis: TripletBasis, reverse: Tensor
    ) -> Float[Tensor, "E emb_edge"]:
        def summed_of(edges: TripletCoefficients, part: Part) -> Tensor:
            z = segment_apply(edges.coefficient, moments, part.segments)
            z = z.addcmul_(edges.own[:, :, None], own[part.rows, None], value=-1)
            return self.bilinear(z.flatten(1))

        summed = basis.outgoing.each(summed_of) * self.scale_sum()
        self.scale_sum.observe(y, summed)
        return self.up_both_ways(summed, reverse)


class QuadrupletInteraction(_UpBothWays):
    """Sum over quadruplets d→b→a←c, of main edges d→b into main edges c→a."""

    def __init__(self, config: GemNetOCConfig) -> None:
        narrow, summed = config.emb_size_quad_in, config.emb_size_quad_out
        super().__init__(config, config.emb_size_edge, narrow, summed)
        self.circular = Linear(config.emb_size_cbf, narrow)
        self.scale_circular = ScaleFactor()
        self.bilinear = Linear(config.emb_size_sbf * narrow, summed)
        self.scale_sum = ScaleFactor()

    def forward(
        self, m: Float[Tensor, "E emb_edge"], basis: QuadBasis, index: QuadIndex, reverse: Int[Tensor, " E"]
    ) -> Float[Tensor, "E emb_edge"]:
        """Return the update of main edges."""
        y = with_zero_row(self.gated_down(m, basis.radial))[index.incoming]
        with full_precision(m.device):
            incoming, moments = self._incoming(y, basis, index)

        def summed_of(edges: QuadCoefficients, part: Part) -> Tensor:
            with full_precision(m.device):
                z = segment_apply(edges.azimuth, moments, part.segments)
                z = z.baddbmm_(edges.closing, incoming[index.closing[part.rows]], alpha=-1)
            return self.bilinear(z.flatten(1))

        summed = basis.outgoing.each(summed_of) * self.scale_sum()
        self.scale_sum.observe(y, summed, index.incoming_kept)
        return self.up_both_ways(summed, reverse)

    def _incoming(self, y: Tensor, basis: QuadBasis, index: QuadIndex) -> tuple[Tensor, Tensor]:
        """Return the messages of d→b→a, a zero row after them, and their azimuthal moments for each atom a."""
        weights = torch.einsum("ik,mkl->mli", self.circular.weight * self.scale_circular(), basis.circular)
        incoming = y * (basis.incoming_legendre @ weights)
        self.scale_circular.observe(y, incoming, index.incoming_kept, index.incoming_kept)
        moments = with_zero_row(basis.incoming_azimuth.transpose(1, 2) @ incoming)[index.middle]
        return with_zero_row(incoming.flatten(0, 1)), moments.transpose(1, 2).flatten(1, 2)


class EdgeToAtomInteraction(GatedDown):
    """Sum over triplets b→a←o of main edges b→a into atoms a, weighted by the atom-edge edges o→a."""

    def __init__(self, config: GemNetOCConfig) -> None:
        narrow, summed = config.emb_size_trip_in, config.emb_size_trip_out
        super().__init__(config, config.emb_size_edge, narrow)
        self.bilinear = Linear(config.emb_size_cbf * narrow, summed)
        self.scale_sum = ScaleFactor()
        self.up = Linear(summed, config.emb_size_atom)

    def forward(
        self, m: Float[Tensor, "E emb_edge"], basis: EdgeToAtomBasis, main: Segments
    ) -> Float[Tensor, "n emb_atom"]:
        """Return the update of atoms."""
        y = self.gated_down(m, basis.radial)
        z = segment_outer(basis.coefficient[:, None], y[:, None], main)
        summed = self.bilinear(z.flatten(1)) * self.scale_sum()
        self.scale_sum.observe(y, summed)
        return scaled_silu(self.up(summed))


class AtomToAtomInteraction(nn.Module):
    """Sum over all neighbours within the cutoff, weighted by distance alone."""

    def __init__(self, config: GemNetOCConfig) -> None:
        super().__init__()
        narrow, summed = config.emb_size_aint_in, config.emb_size_aint_out
        self.down = Linear(config.emb_size_atom, narrow)
        self.bilinear = Linear(config.emb_size_rbf * narrow, summed)
        self.scale_sum = ScaleFactor()
        self.up = Linear(summed, config.emb_size_atom)

    def forward(
        self,
        h: Float[Tensor, "n emb_atom"],
        weights: Float[Tensor, "pairs emb_rbf"],
        source: Int[Tensor, " pairs"],
        pairs: Segments,
    ) -> Float[Tensor, "n emb_atom"]:
        """Return the update of atoms."""
        y = scaled_silu(self.down(h))
        z = segment_outer(weights[:, None], y[source][:, None], pairs)
        summed = self.bilinear(z.flatten(1)) * self.scale_sum()
        self.scale_sum.observe(y, summed)
        return scaled_silu(self.up(summed))
