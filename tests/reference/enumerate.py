"""Edge lists, and the triplets and quadruplets listed from them one by one.

An edge s->t has a source s, a target t and an integer cell offset o of the source: r_st = r_t - (r_s + o @ cell).
Edges may come in any order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """Directed edges: source (e,), target (e,) atom indices, offset (e, 3) in cells, all int64."""

    source: Int[Tensor, " e"]
    target: Int[Tensor, " e"]
    offset: Int[Tensor, "e 3"]

    def __len__(self) -> int:
        """Count the edges."""
        return len(self.source)


@dataclass(frozen=True)
class Inputs:
    """What the model reads.

    positions (n, 3) and cell (b, 3, 3) in Å (rows are lattice vectors, zeros when not periodic); atomic numbers (n,);
    batch (n,), the structure of each atom; graphs `main` (symmetrised), `a2a`, `a2ee2a`, `qint`; reverse (E,), the
    index of each main edge's reverse.
    """

    positions: Float[Tensor, "n 3"]
    numbers: Int[Tensor, " n"]
    cell: Float[Tensor, "b 3 3"]
    batch: Int[Tensor, " n"]
    graphs: dict[str, Graph]
    reverse: Int[Tensor, " e"]

    def with_positions(self, positions: Float[Tensor, "n 3"]) -> Inputs:
        """Return the same structure and topology at other positions (and in their dtype)."""
        return replace(self, positions=positions, cell=self.cell.to(positions))


@dataclass(frozen=True)
class Triplets:
    """Pairs of edges with one target: incoming (t,) and outgoing (t,) are edge indices."""

    incoming: Int[Tensor, " t"]
    outgoing: Int[Tensor, " t"]

    def __len__(self) -> int:
        """Count the triplets."""
        return len(self.incoming)


@dataclass(frozen=True)
class Quadruplets:
    """Chains d->b->a<-c, as pairs of two triplet lists that share their middle edge b->a.

    first.incoming: main edges d->b, first.outgoing: qint edges b->a.
    last.incoming: qint edges b->a, last.outgoing: main edges c->a.
    first_index, last_index (q,) say which entries of the two lists make each quadruplet.
    """

    first: Triplets
    last: Triplets
    first_index: Int[Tensor, " q"]
    last_index: Int[Tensor, " q"]

    def __len__(self) -> int:
        """Count the quadruplets."""
        return len(self.first_index)

    @property
    def incoming(self) -> Int[Tensor, " q"]:
        """Main edge d->b of each quadruplet."""
        return self.first.incoming[self.first_index]

    @property
    def middle(self) -> Int[Tensor, " q"]:
        """Middle edge b->a (qint) of each quadruplet."""
        return self.first.outgoing[self.first_index]

    @property
    def outgoing(self) -> Int[Tensor, " q"]:
        """Main edge c->a of each quadruplet."""
        return self.last.outgoing[self.last_index]


def join(left: Int[Tensor, " i"], right: Int[Tensor, " j"]) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"]]:
    """List every (i, j) with left[i] == right[j], ordered by j.

    left is sorted once; the partners of each right entry are then one contiguous run of it.
    """
    ordered, order = torch.sort(left, stable=True)
    start = torch.searchsorted(ordered, right.contiguous())
    count = torch.searchsorted(ordered, right.contiguous(), right=True) - start
    j = torch.repeat_interleave(torch.arange(len(right), device=right.device), count)
    first_of_run = torch.cumsum(count, 0) - count
    within = torch.arange(len(j), device=right.device) - first_of_run[j]
    return order[start[j] + within], j


def _same_image(
    atom: Int[Tensor, " p"], offset: Int[Tensor, "p 3"], other: Int[Tensor, " p"], other_offset: Int[Tensor, "p 3"]
) -> Tensor:
    return (atom == other) & (offset == other_offset).all(-1)


def _select(triplets: Triplets, keep: Tensor) -> Triplets:
    return Triplets(triplets.incoming[keep], triplets.outgoing[keep])


def _triplets_without_same_neighbour(incoming: Graph, outgoing: Graph) -> Triplets:
    i, o = join(incoming.target, outgoing.target)
    same = _same_image(incoming.source[i], incoming.offset[i], outgoing.source[o], outgoing.offset[o])
    return _select(Triplets(i, o), ~same)


def e2e_triplets(main: Graph) -> Triplets:
    """Pairs (in b->a, out c->a) of two different main edges; images of one atom are different neighbours."""
    i, o = join(main.target, main.target)
    return _select(Triplets(i, o), i != o)


def a2e_triplets(atom_edge: Graph, main: Graph) -> Triplets:
    """Pairs (in: a2ee2a edge b->a, out: main edge c->a) of two different neighbours."""
    return _triplets_without_same_neighbour(atom_edge, main)


def e2a_triplets(main: Graph, atom_edge: Graph) -> Triplets:
    """Pairs (in: main edge b->a, out: a2ee2a edge c->a) of two different neighbours."""
    return _triplets_without_same_neighbour(main, atom_edge)


def first_triplets(main: Graph, middle: Graph) -> Triplets:
    """Pairs (in: main edge d->b, out: qint edge b->a) with d not the atom a itself: d = a and o_in + o_q = 0."""
    i, q = join(main.target, middle.source)
    position_of_d = main.offset[i] + middle.offset[q]
    back = _same_image(main.source[i], position_of_d, middle.target[q], torch.zeros_like(position_of_d))
    return _select(Triplets(i, q), ~back)


def last_triplets(middle: Graph, main: Graph) -> Triplets:
    """Pairs (in: qint edge b->a, out: main edge c->a) with c not the atom b itself: c = b and o_out = o_q."""
    return _triplets_without_same_neighbour(middle, main)


def quadruplets(main: Graph, middle: Graph) -> Quadruplets:
    """List d->b->a<-c: all pairs of first and last triplets over one middle edge b->a.

    Dropped where c is d itself: c = d and o_in + o_q = o_out.
    """
    first, last = first_triplets(main, middle), last_triplets(middle, main)
    f, g = join(first.outgoing, last.incoming)
    d, q, c = first.incoming[f], first.outgoing[f], last.outgoing[g]
    same = _same_image(main.source[d], main.offset[d] + middle.offset[q], main.source[c], main.offset[c])
    return Quadruplets(first, last, f[~same], g[~same])
