"""The graphs of one structure as tables of rows per atom, filled up to equal lengths: one product serves all atoms.

| symbol | meaning |
|---|---|
| n, E | atoms, main edges |
| W, V, P, Q | most main, atom-edge, atom and middle edges into one atom |
"""

from dataclasses import dataclass
from typing import Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomslim.families.jmp.gemnet_oc.graphs import Topology
from atomslim.families.jmp.gemnet_oc.indices import EdgeFinder, QuadIndex, quad_index
from atomslim.families.jmp.gemnet_oc.reach import Reach


@dataclass(frozen=True)
class Table:
    """Rows of each atom's edges, one atom after the other."""

    width: int
    rows: Int[Tensor, "n*width"] | None
    """The number of edges where a slot is empty; None where every slot is an edge, in this order."""
    some: Int[Tensor, "n*width"]
    """The same with any edge where a slot is empty."""
    slot: Int[Tensor, " edges"]
    """Where each edge is in the flat table."""
    filled: Float[Tensor, "n width"]

    @classmethod
    def of(cls, target: Int[Tensor, " edges"], num_atoms: int, like: Tensor) -> Self:
        """Make the table of edges whose targets are neighbours."""
        count = target.shape[0]
        sizes = torch.bincount(target, minlength=num_atoms)
        width = int(sizes.max()) if count else 0
        first = torch.zeros_like(sizes).scatter_reduce(0, target, _numbers(target), "amin", include_self=False)
        slot = target * width + _numbers(target) - first[target]
        rows = torch.full((num_atoms * width,), count, device=target.device).scatter(0, slot, _numbers(target))
        filled = like.new_zeros(num_atoms * width).index_fill(0, slot, 1).view(num_atoms, width)
        return cls(width, rows, rows.clamp(max=max(count - 1, 0)), slot, filled)


@dataclass(frozen=True)
class MiddleTables:
    """Of quadruplets d→b→a←c around middle edges q = (b→a)."""

    table: Table
    source: Int[Tensor, "n*Q"]
    incoming_kept: Float[Tensor, "n*Q W"]
    """Whether the main edge d→b exists and d is not a."""
    outgoing_kept: Float[Tensor, "n*W Q"]
    """Whether c is not b."""
    not_closed: Float[Tensor, "n W 1 Q W"]
    """Zero for the closed triangle d = c."""

    @classmethod
    def of(cls, main: Table, topology: Topology, like: Tensor) -> Self:
        """Make the tables."""
        atoms, quad = main.filled.shape[0], topology.quad
        table = Table.of(quad.target, atoms, like)
        main_rows, rows = cast("Tensor", main.rows), cast("Tensor", table.rows)
        index: QuadIndex = quad_index(topology.main, quad, main_rows.view(atoms, -1), rows.view(atoms, -1))
        kept = index.outgoing_kept.to(like)
        closed = torch.nonzero(index.closing < index.incoming.numel())
        slot = index.closing[closed[:, 0], closed[:, 1]] % index.incoming.shape[1]
        not_closed = like.new_ones(atoms * main.width, table.width, main.width)
        not_closed[main.slot[closed[:, 0]], closed[:, 1], slot] = 0
        return cls(
            table=table,
            source=quad.source[table.some],
            incoming_kept=_with_zero(index.incoming_kept.to(like))[rows],
            outgoing_kept=_with_zero(kept)[main_rows],
            not_closed=not_closed.view(atoms, main.width, 1, table.width, main.width),
        )


@dataclass(frozen=True)
class StepGraph:
    """The graphs of one structure, their edges in a row: main, atom-edge, middle, atom-to-atom edges.

    In smooth graphs the atom-edge edges are the main ones and do not occur twice.
    """

    source: Int[Tensor, " e"]
    target: Int[Tensor, " e"]
    offset: Float[Tensor, "e 3"] | None
    """None where no edge leaves the cell."""
    sizes: tuple[int, int, int, int]
    main: Table
    atom_edge: Table
    atom: Table
    atom_source: Int[Tensor, "n*P"]
    atom_edge_source: Int[Tensor, "n*V"]
    triplets: Float[Tensor, "n W W+V 1"]
    """One for edges that come in beside one that goes out and are there; zero for the same edge."""
    both: Int[Tensor, " 2*E"]
    """Slots of main edges, and those of their reverse edges."""
    ends: Int[Tensor, " 2*E"]
    """Source of each main edge, and target, among atoms' numbers for sources and targets in turn."""
    middle: MiddleTables | None
    reach: Reach | None

    @classmethod
    def of(cls, topology: Topology, num_atoms: int, like: Tensor) -> Self:
        """Make all tables of a topology with main edges; masks have the dtype of ``like``."""
        shared = topology.reach is not None
        parts = [topology.main, topology.atom_edge, topology.quad, topology.atom]
        edges = [part for slot, part in enumerate(parts) if not (shared and slot == 1)]
        offset = torch.cat([part.offset for part in edges])
        main = Table.of(topology.main.target, num_atoms, like)
        atom_edge = main if shared else Table.of(topology.atom_edge.target, num_atoms, like)
        atom = Table.of(topology.atom.target, num_atoms, like)
        same = EdgeFinder(topology.atom_edge, num_atoms).find(topology.main)
        sizes = [part.count for part in parts]
        return cls(
            source=torch.cat([part.source for part in edges]),
            target=torch.cat([part.target for part in edges]),
            offset=offset.double() if bool(offset.any()) else None,
            sizes=(sizes[0], 0 if shared else sizes[1], sizes[2], sizes[3]),
            main=main,
            atom_edge=atom_edge,
            atom=atom,
            atom_source=topology.atom.source[atom.some],
            atom_edge_source=topology.atom_edge.source[atom_edge.some],
            triplets=_triplets(main, atom_edge, same),
            both=torch.cat([main.slot, main.slot[topology.reverse]]),
            ends=torch.cat([2 * topology.main.source, 2 * topology.main.target + 1]),
            middle=MiddleTables.of(main, topology, like) if topology.quad.count else None,
            reach=topology.reach,
        )


def _triplets(main: Table, atom_edge: Table, same: Int[Tensor, " E"]) -> Float[Tensor, "n W W+V 1"]:
    atoms, width = main.filled.shape
    edges = (1 - torch.eye(width).to(main.filled)) * main.filled[:, None] * main.filled[:, :, None]
    others = atom_edge.filled[:, None].repeat(1, width, 1).view(atoms * width, atom_edge.width)
    there = torch.nonzero(same < atom_edge.slot.shape[0]).squeeze(1)
    others[main.slot[there], atom_edge.slot[same[there]] % max(atom_edge.width, 1)] = 0
    others = others.view(atoms, width, atom_edge.width) * main.filled[:, :, None]
    return torch.cat([edges, others], dim=2)[..., None]


def _numbers(like: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    return torch.arange(like.shape[0], device=like.device)


def _with_zero(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])
