"""Geometry, radial and angular basis functions, and their shared projections: computed once, used by all blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import linear

from reference.enumerate import (
    Graph,
    Inputs,
    Quadruplets,
    Triplets,
    a2e_triplets,
    e2a_triplets,
    e2e_triplets,
    quadruplets,
)

BASIS_CUTOFF = 12.0  # Å, for every graph: an absolute length, whatever the graph's own cut-off

State = dict[str, Tensor]


def edge_vectors(inputs: Inputs, graph: Graph) -> tuple[Float[Tensor, " e"], Float[Tensor, "e 3"]]:
    """Distances d (e,) in Å and unit vectors v (e, 3) from source to target."""
    shift = torch.einsum("ei,eij->ej", graph.offset.to(inputs.positions), inputs.cell[inputs.batch[graph.target]])
    r = inputs.positions[graph.target] - inputs.positions[graph.source] - shift
    distance = r.square().sum(-1).sqrt()
    return distance, r / distance[:, None]


def radial_basis(distance: Float[Tensor, " e"], offset: Float[Tensor, " r"]) -> Float[Tensor, "e r"]:
    """u(x) exp(-1/2 ((x - mu_i) / D)^2), x = d / 12 Å, D = 1 / (R - 1).

    The envelope u(x) is 1 - 21 x^5 + 35 x^6 - 15 x^7 for x < 1, else 0.
    """
    x = distance[:, None] / BASIS_CUTOFF
    envelope = torch.where(x < 1, 1 - 21 * x**5 + 35 * x**6 - 15 * x**7, torch.zeros_like(x))
    return envelope * torch.exp(-0.5 * ((x - offset) * (len(offset) - 1)) ** 2)


def cosine(v: Float[Tensor, "t 3"], w: Float[Tensor, "t 3"]) -> Float[Tensor, " t"]:
    """Cosine of the angle between unit vectors, clamped to [-1, 1].

    The clamp undoes nothing but rounding, so gradients pass it.
    """
    raw = (v * w).sum(-1)
    return raw + (raw.clamp(-1, 1) - raw).detach()


def dihedral(v_out: Tensor, v_in: Tensor, v_q: Tensor) -> Float[Tensor, " q"]:
    """Unsigned dihedral angle as the original writes it, in radians.

    atan2(max(|w_c x w_d|, 1e-9), w_c . w_d), w_c = v_out x v_q, w_d = v_in x v_q.
    """
    w_c, w_d = torch.linalg.cross(v_out, v_q), torch.linalg.cross(v_in, v_q)
    y = torch.linalg.cross(w_c, w_d).norm(dim=-1).clamp(min=1e-9)
    return torch.atan2(y, (w_c * w_d).sum(-1))


def _direction(w: Float[Tensor, "q 3"], tolerance: float) -> tuple[Float[Tensor, "q 3"], Bool[Tensor, " q"]]:
    """w / |w| and whether |w| < tolerance, where the direction is not w's own but finite, and so are its gradients."""
    squared = w.square().sum(-1)
    straight = squared < tolerance**2
    return w / torch.where(straight, torch.ones_like(squared), squared).sqrt()[:, None], straight


def dihedral_cosine(
    v_out: Float[Tensor, "q 3"], v_in: Float[Tensor, "q 3"], v_q: Float[Tensor, "q 3"], straight_tolerance: float = 1e-5
) -> Float[Tensor, " q"]:
    """Cosine of `dihedral`, as w_c . w_d / (|w_c| |w_d|): 0 for a straight chain, |w| below the tolerance at an end.

    The two agree because |w_c x w_d|^2 + (w_c . w_d)^2 = |w_c|^2 |w_d|^2. This form has all derivatives in planar
    chains too. There the floor of 1e-9 lowers the original's |cosine| by (1e-9 / (|w_c| |w_d|))^2 / 2.
    """
    w_c, straight_c = _direction(torch.linalg.cross(v_out, v_q), straight_tolerance)
    w_d, straight_d = _direction(torch.linalg.cross(v_in, v_q), straight_tolerance)
    raw = cosine(w_c, w_d)
    return torch.where(straight_c | straight_d, torch.zeros_like(raw), raw)


def legendre(z: Float[Tensor, " t"], number: int) -> Float[Tensor, "t s"]:
    """Y_l(z) = sqrt((2 l + 1) / 4 pi) P_l(z), l = 0 .. number - 1, by (l + 1) P_l+1 = (2 l + 1) z P_l - l P_l-1."""
    p = [torch.ones_like(z), z]
    for degree in range(1, number - 1):
        p.append(((2 * degree + 1) * z * p[degree] - degree * p[degree - 1]) / (degree + 1))
    return torch.stack([math.sqrt((2 * degree + 1) / (4 * math.pi)) * p[degree] for degree in range(number)], -1)


def project_angular(rbf: Float[Tensor, "e r"], weight: Float[Tensor, "r s k"]) -> Float[Tensor, "e k s"]:
    """out[e, k, s] = sum_r rbf[e, r] Wflat[r, k S + s].

    The flat product is read back with k major, although W's own axes are (r, s, k): trained weights rely on it.
    """
    _, s, k = weight.shape
    return (rbf @ weight.flatten(1)).unflatten(1, (k, s))


@dataclass(frozen=True)
class TripletBasis:
    """radial (in, rbf) of the incoming edges; weight (out, k, s) of the outgoing; angular (t, s) of the triplets."""

    triplets: Triplets
    radial: Float[Tensor, "i c"]
    weight: Float[Tensor, "o k s"]
    angular: Float[Tensor, "t s"]


@dataclass(frozen=True)
class QuadrupletBasis:
    """What the quadruplets need.

    radial (E, rbf) of the incoming edges; circular (f, k), c of each first triplet d->b->a; weight (E, k, s*s) of the
    outgoing edges; spherical (q, s*s).
    """

    quadruplets: Quadruplets
    radial: Float[Tensor, "e c"]
    circular: Float[Tensor, "f k"]
    weight: Float[Tensor, "e k s2"]
    spherical: Float[Tensor, "q s2"]


@dataclass(frozen=True)
class Bases:
    """Everything of a structure that does not change from block to block."""

    rbf: Float[Tensor, "e r"]
    vector: Float[Tensor, "e 3"]
    edge_to_edge: TripletBasis
    atom_to_edge: TripletBasis
    edge_to_atom: TripletBasis
    quadruplet: QuadrupletBasis
    atom_to_atom: Float[Tensor, "x c"]
    atom_update: Float[Tensor, "e c"]
    output: Float[Tensor, "e c"]


def _w(state: State, name: str) -> Tensor:
    return state[f"backbone.bases.{name}.weight"]


def _triplet_basis(
    state: State, name: str, triplets: Triplets, rbf: tuple[Tensor, Tensor], vector: tuple[Tensor, Tensor]
) -> TripletBasis:
    """Bases of one triplet path; rbf and vector are those of the (incoming, outgoing) edges."""
    weight = _w(state, f"mlp_cbf_{name}")
    cos = cosine(vector[1][triplets.outgoing], vector[0][triplets.incoming])
    return TripletBasis(
        triplets,
        linear(rbf[0], _w(state, f"mlp_rbf_{name}.linear")),
        project_angular(rbf[1], weight),
        legendre(cos, weight.shape[1]),
    )


def _quadruplet_basis(
    state: State,
    quads: Quadruplets,
    rbf: tuple[Tensor, Tensor],
    vector: tuple[Tensor, Tensor],
    straight_tolerance: float,
) -> QuadrupletBasis:
    """Bases of the quadruplets; rbf and vector are those of the (main, qint) edges.

    c[k] = sum_l radW_q[q, k, l] Y_l(cos phi_abd); spherical, flat index l S + l': Y_l(cos phi_cab) Y_l'(cos theta).
    """
    (v_main, v_q), first, last = vector, quads.first, quads.last
    circular_weight = _w(state, "mlp_cbf_qint")
    s = circular_weight.shape[1]
    y_abd = legendre(cosine(v_q[first.outgoing], v_main[first.incoming]), s)
    y_cab = legendre(cosine(v_main[last.outgoing], v_q[last.incoming]), s)
    theta = dihedral_cosine(v_main[quads.outgoing], v_main[quads.incoming], v_q[quads.middle], straight_tolerance)
    return QuadrupletBasis(
        quads,
        linear(rbf[0], _w(state, "mlp_rbf_qint.linear")),
        torch.einsum("fks,fs->fk", project_angular(rbf[1], circular_weight)[first.outgoing], y_abd),
        project_angular(rbf[0], _w(state, "mlp_sbf_qint")),
        torch.einsum("qi,qj->qij", y_cab[quads.last_index], legendre(theta, s)).flatten(1),
    )


def compute_bases(state: State, inputs: Inputs, straight_tolerance: float = 1e-5) -> Bases:
    """All bases of the structures, from positions and topology."""
    geometry = {name: edge_vectors(inputs, graph) for name, graph in inputs.graphs.items()}
    offset = state["backbone.bases.radial_basis.rbf.offset"]
    rbf = {name: radial_basis(distance, offset) for name, (distance, _) in geometry.items()}
    v = {name: vector for name, (_, vector) in geometry.items()}
    main, ae, qint = inputs.graphs["main"], inputs.graphs["a2ee2a"], inputs.graphs["qint"]
    m, a, q = "main", "a2ee2a", "qint"
    return Bases(
        rbf[m],
        v[m],
        _triplet_basis(state, "tint", e2e_triplets(main), (rbf[m], rbf[m]), (v[m], v[m])),
        _triplet_basis(state, "aeint", a2e_triplets(ae, main), (rbf[a], rbf[m]), (v[a], v[m])),
        _triplet_basis(state, "eaint", e2a_triplets(main, ae), (rbf[m], rbf[a]), (v[m], v[a])),
        _quadruplet_basis(state, quadruplets(main, qint), (rbf[m], rbf[q]), (v[m], v[q]), straight_tolerance),
        linear(rbf["a2a"], _w(state, "mlp_rbf_aint")),
        linear(rbf[m], _w(state, "mlp_rbf_h.linear")),
        linear(rbf[m], _w(state, "mlp_rbf_out.linear")),
    )


def sum_to(values: Float[Tensor, "p ..."], index: Int[Tensor, " p"], number: int) -> Float[Tensor, "n ..."]:
    """Sum the values that share an index, into `number` rows."""
    return values.new_zeros((number, *values.shape[1:])).index_add(0, index, values)
