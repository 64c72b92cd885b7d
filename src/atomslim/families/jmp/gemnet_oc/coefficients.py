"""What the blocks read besides features: coefficients that no block changes, kept or made a part at a time.

See `bases` for the symbols.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from atomslim.families.jmp.gemnet_oc.segments import Part

Made = TypeVar("Made")
Given = TypeVar("Given")


@dataclass(frozen=True)
class OutgoingEdges(Generic[Made]):
    """The coefficients of main edges as those that go out: kept, or computed for a part of them at a time."""

    parts: tuple[Part, ...]
    make: Callable[[slice], Made]
    kept: Made | None

    def each(self, function: Callable[[Made, Part], Tensor]) -> Tensor:
        """Return what a function of the coefficients gives for the edges of each part, one part after the other."""
        if self.kept is not None:
            return function(self.kept, self.parts[0])

        def of_part(part: Part) -> Tensor:
            return function(self.make(part.rows), part)

        return torch.cat([not_kept(of_part, part) for part in self.parts])


@dataclass(frozen=True)
class TripletCoefficients:
    """Those of main edges going out: z[o] = coefficient[o]·A[target] − own[o] y[own edge]."""

    coefficient: Float[Tensor, "e K L*L"]
    own: Float[Tensor, "e K"]
    """Weight of the edge itself, which is not a triplet; zero where it is not among the edges coming in."""


@dataclass(frozen=True)
class TripletBasis:
    """What a triplet sum with main edges going out reads besides features."""

    radial: Float[Tensor, "in emb_rbf"]
    """Projected radial basis of the edges coming in."""
    outgoing: OutgoingEdges[TripletCoefficients]


@dataclass(frozen=True)
class EdgeToAtomBasis:
    """Coefficients of the sum of main edges into atoms, z[a] = Σ_in coefficient[in] y[in]."""

    radial: Float[Tensor, "E emb_rbf"]
    coefficient: Float[Tensor, "E K"]


@dataclass(frozen=True)
class QuadCoefficients:
    """Those of main edges going out, for every middle edge into their target."""

    azimuth: Float[Tensor, "e S Q*2L"]
    """Coefficient of each middle edge's azimuthal moments."""
    closing: Float[Tensor, "e S Q"]
    """Coefficient of the closed triangle d = c, to be taken off."""


@dataclass(frozen=True)
class QuadBasis:
    """Coefficients of the two halves of the quadruplet sum; see `QuadIndex` for M, D and Q."""

    radial: Float[Tensor, "E emb_rbf"]
    circular: Float[Tensor, "M K L"]
    """Projected radial basis of the middle edge."""
    incoming_legendre: Float[Tensor, "M D L"]
    """Y_l(cos φ_abd), zero where there is no edge d→b."""
    incoming_azimuth: Float[Tensor, "M D 2L"]
    outgoing: OutgoingEdges[QuadCoefficients]


@dataclass(frozen=True)
class Bases:
    """Everything that the blocks read besides features."""

    rbf: Float[Tensor, "E R"]
    direction: Float[Tensor, "E 3"]
    harmonics: Float[Tensor, "E L*L"]
    atom_edge_harmonics: Float[Tensor, "ae L*L"]
    edge_to_edge: TripletBasis
    atom_to_edge: TripletBasis
    edge_to_atom: EdgeToAtomBasis
    atom_to_atom: Float[Tensor, "pairs emb_rbf"]
    quad: QuadBasis | None
    atom_update: Float[Tensor, "E emb_rbf"]
    output: Float[Tensor, "E emb_rbf"]


def not_kept(function: Callable[[Given], Tensor], given: Given) -> Tensor:
    """Return what a function gives; nothing of it is kept for derivatives, it is computed again there."""
    if not torch.is_grad_enabled():
        return function(given)
    return recomputed(function, given, use_reentrant=False, preserve_rng_state=False)
