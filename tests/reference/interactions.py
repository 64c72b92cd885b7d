"""The interaction paths of a block, one function each: what a path adds, before the paths are combined.

`prefix` is the path's prefix in the checkpoint, such as "backbone.int_blocks.0.trip_interaction".
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear, silu

from reference.bases import Bases, State, TripletBasis, sum_to
from reference.enumerate import Graph


def act(x: Tensor) -> Tensor:
    """Scaled SiLU, silu(x) / 0.6."""
    return silu(x) / 0.6


def dense(state: State, key: str, x: Tensor) -> Tensor:
    """act(W x) with the weight `key`.linear.weight."""
    return act(linear(x, state[f"{key}.linear.weight"]))


def scale(state: State, key: str) -> Tensor:
    """Stored scale factor; 0 means never fitted and acts as 1."""
    factor = state[f"{key}.scale_factor"]
    return torch.where(factor == 0, torch.ones_like(factor), factor)


def sum_outer(
    angular: Float[Tensor, "t s"], values: Float[Tensor, "t c"], outgoing: Int[Tensor, " t"], number: int
) -> Float[Tensor, "o s c"]:
    """sum over the entries t with outgoing[t] = o of angular[t, :] x values[t, :].

    Every outgoing edge's entries are laid out in rows of one length, padded with zeros: the sum is then a batched
    matrix product.
    """
    ordered, order = torch.sort(outgoing, stable=True)
    count = torch.bincount(outgoing, minlength=number)
    longest = int(count.max()) if len(outgoing) else 0
    within = torch.arange(len(order), device=order.device) - (torch.cumsum(count, 0) - count)[ordered]
    slot = ordered * longest + within

    def lay_out(x: Tensor) -> Tensor:
        rows = x.new_zeros((number * longest, x.shape[1])).index_copy(0, slot, x[order])
        return rows.reshape(number, longest, x.shape[1])

    return lay_out(angular).transpose(1, 2) @ lay_out(values)


def _incoming(state: State, prefix: str, activated: Tensor, radial: Tensor) -> Tensor:
    """act(W_down (x * (W_rbf rad) scale_rbf)) for the activated features x of the incoming edges."""
    y = activated * linear(radial, state[f"{prefix}.mlp_rbf.linear.weight"]) * scale(state, f"{prefix}.scale_rbf")
    return dense(state, f"{prefix}.down_projection", y)


def _bilinear(state: State, prefix: str, name: str, z: Float[Tensor, "o k c"]) -> Tensor:
    """W z, z flattened with k major, times the scale factor of the sum. name: cbf, sbf or rbf."""
    path = f"{prefix}.bilinear" if name == "rbf" else f"{prefix}.mlp_{name}.bilinear"
    return linear(z.flatten(1), state[f"{path}.linear.weight"]) * scale(state, f"{prefix}.scale_{name}_sum")


def _to_edges(state: State, prefix: str, z: Float[Tensor, "e c"], reverse: Int[Tensor, " e"]) -> Float[Tensor, "e d"]:
    """(act(W_ca z) + act(W_ac z)[reverse]) / sqrt 2."""
    forwards = dense(state, f"{prefix}.up_projection_ca", z)
    backwards = dense(state, f"{prefix}.up_projection_ac", z)[reverse]
    return (forwards + backwards) / math.sqrt(2)


def _triplet_sum(basis: TripletBasis, y: Float[Tensor, "i c"]) -> Float[Tensor, "o k c"]:
    """z[out, k, :] = sum_l radW[out, k, l] sum_in Y_l(cos phi) y[in, :]."""
    t = basis.triplets
    return basis.weight @ sum_outer(basis.angular, y[t.incoming], t.outgoing, len(basis.weight))


def edge_to_edge(
    state: State, prefix: str, bases: Bases, m: Float[Tensor, "e d"], reverse: Int[Tensor, " e"]
) -> Float[Tensor, "e d"]:
    """Triplets of main edges: edges b->a speak to edges c->a."""
    basis = bases.edge_to_edge
    y = _incoming(state, prefix, dense(state, f"{prefix}.dense_ba", m), basis.radial)
    return _to_edges(state, prefix, _bilinear(state, prefix, "cbf", _triplet_sum(basis, y)), reverse)


def atom_to_edge(
    state: State, prefix: str, bases: Bases, h: Float[Tensor, "n a"], atom_edge: Graph, reverse: Int[Tensor, " e"]
) -> Float[Tensor, "e d"]:
    """Atoms b, along a2ee2a edges b->a, speak to main edges c->a."""
    basis = bases.atom_to_edge
    y = _incoming(state, prefix, dense(state, f"{prefix}.dense_ba", h)[atom_edge.source], basis.radial)
    return _to_edges(state, prefix, _bilinear(state, prefix, "cbf", _triplet_sum(basis, y)), reverse)


def edge_to_atom(
    state: State, prefix: str, bases: Bases, m: Float[Tensor, "e d"], atom_edge: Graph, number: int
) -> Float[Tensor, "n a"]:
    """Main edges b->a speak to the `number` atoms a, through the a2ee2a edges c->a, which are summed per atom."""
    basis = bases.edge_to_atom
    y = _incoming(state, prefix, dense(state, f"{prefix}.dense_ba", m), basis.radial)
    z = sum_to(_triplet_sum(basis, y), atom_edge.target, number)
    return dense(state, f"{prefix}.up_projection_ca", _bilinear(state, prefix, "cbf", z))


def quadruplet(
    state: State, prefix: str, bases: Bases, m: Float[Tensor, "e d"], reverse: Int[Tensor, " e"]
) -> Float[Tensor, "e d"]:
    """Edges d->b speak to edges c->a across the middle edge b->a.

    y[in, q] = y[in] * (W_cbf c) scale_cbf, then summed over the quadruplets with the spherical functions.
    """
    basis = bases.quadruplet
    quads = basis.quadruplets
    y = _incoming(state, prefix, dense(state, f"{prefix}.dense_db", m), basis.radial)
    circular = linear(basis.circular, state[f"{prefix}.mlp_cbf.linear.weight"])
    y = y[quads.first.incoming] * circular * scale(state, f"{prefix}.scale_cbf")
    z = basis.weight @ sum_outer(basis.spherical, y[quads.first_index], quads.outgoing, len(m))
    return _to_edges(state, prefix, _bilinear(state, prefix, "sbf", z), reverse)


def atom_to_atom(state: State, prefix: str, bases: Bases, h: Float[Tensor, "n a"], atom: Graph) -> Float[Tensor, "n a"]:
    """Atoms b speak to atoms a along a2a edges: z[a, k, :] = sum_b radA[b->a, k] y[b, :]."""
    y = dense(state, f"{prefix}.down_projection", h)[atom.source]
    z = sum_outer(bases.atom_to_atom, y, atom.target, len(h))
    return dense(state, f"{prefix}.up_projection", _bilinear(state, prefix, "rbf", z))
