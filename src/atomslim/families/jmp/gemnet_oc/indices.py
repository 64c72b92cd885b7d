"""Which edges meet: integer tables that the factorised interactions share, made once per topology.

No table lists pairs of main edges or quadruplets. The largest are (middle edges × neighbours of an atom) and
(main edges × middle edges of an atom).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from atomslim.families.jmp.gemnet_oc.graphs import Edges, Topology
from atomslim.families.jmp.gemnet_oc.segments import Segments, order_by_size


@dataclass(frozen=True)
class QuadIndex:
    """Tables of the quadruplets d→b→a←c around a middle edge q = (b→a), a quad edge.

    E main edges, M middle edges, D the largest number of main edges into a source b, Q the largest number of middle
    edges into an atom. An entry equal to the number of rows of the table it points into means "none".
    """

    incoming: Int[Tensor, "M D"]
    """Main edge d→b in slot j of the edges into b."""
    incoming_kept: Bool[Tensor, "M D"]
    """Whether that edge exists and d is not a itself."""
    middle: Int[Tensor, "n Q"]
    """Middle edges into each atom."""
    outgoing: Int[Tensor, "E Q"]
    """Middle edges into the target of each main edge c→a."""
    outgoing_kept: Bool[Tensor, "E Q"]
    """Whether that middle edge exists and c is not b itself."""
    closing: Int[Tensor, "E Q"]
    """Flat index into ``incoming`` of the edge d→b with d = c: the closed triangle, which is not a quadruplet."""


@dataclass(frozen=True)
class InteractionIndex:
    """Everything the interactions need to know of a topology besides its edges."""

    main: Segments
    """Main edges by target."""
    atom_edge: Segments
    """Atom-edge edges by target."""
    pairs: Segments
    """Atom pairs of the atom graph by target: periodic images of one source count once."""
    pair_of_edge: Int[Tensor, " a2a_edges"]
    pair_source: Int[Tensor, " pairs"]
    same_atom_edge: Int[Tensor, " E"]
    """Atom-edge edge with the same source, target and offset as a main edge."""
    quad: QuadIndex | None
    """None where no structure has a quadruplet's middle edge."""

    @classmethod
    def of(cls, topology: Topology, num_atoms: int) -> "InteractionIndex":
        """Make the tables on the topology's device, unless the topology brings them along."""
        if isinstance(topology, IndexedTopology):
            return topology.index
        main, atom, quad = topology.main, topology.atom, topology.quad
        keys, pair_of_edge = torch.unique(atom.target * num_atoms + atom.source, return_inverse=True)
        order = order_by_size(keys // num_atoms)
        keys, pair_of_edge = keys[order], torch.argsort(order)[pair_of_edge]
        return cls(
            main=Segments.of(topology.main.target, num_atoms),
            atom_edge=Segments.of(topology.atom_edge.target, num_atoms),
            pairs=Segments.of(keys // num_atoms, num_atoms),
            pair_of_edge=pair_of_edge,
            pair_source=keys % num_atoms,
            same_atom_edge=EdgeFinder(topology.atom_edge, num_atoms).find(main),
            quad=quad_index(main, quad, _rows_of(main.target, num_atoms), _rows_of(quad.target, num_atoms))
            if len(quad) and len(main)
            else None,
        )


@dataclass(frozen=True)
class IndexedTopology(Topology):
    """A topology that comes with its tables."""

    index: InteractionIndex


def quad_index(main: Edges, quad: Edges, main_rows: Int[Tensor, "n D"], middle: Int[Tensor, "n Q"]) -> QuadIndex:
    """Make the tables of quadruplets; ``main_rows`` and ``middle`` hold the rows of each atom's main and quad edges.

    The rows of one atom are neighbours; an empty slot holds the number of edges.
    """
    incoming = main_rows[quad.source]
    outgoing = middle[main.target]

    edge = incoming.clamp(max=main.count - 1)
    from_target = main.source[edge] == quad.target[:, None]
    from_target &= (main.offset[edge] + quad.offset[:, None] == 0).all(-1)
    incoming_kept = (incoming < main.count) & ~from_target

    q = outgoing.clamp(max=quad.count - 1)
    is_middle = main.source[:, None] == quad.source[q]
    is_middle &= (main.offset[:, None] == quad.offset[q]).all(-1)
    outgoing_kept = (outgoing < quad.count) & ~is_middle

    closing_edge = (
        EdgeFinder(main, main_rows.shape[0])
        .find(
            Edges(
                source=main.source[:, None].expand_as(q).flatten(),
                target=quad.source[q].flatten(),
                offset=(main.offset[:, None] - quad.offset[q]).flatten(0, 1),
            )
        )
        .view_as(q)
    )
    flat = q * incoming.shape[1] + closing_edge - incoming[q, 0]
    closed = outgoing_kept & (closing_edge < main.count)
    return QuadIndex(
        incoming=incoming,
        incoming_kept=incoming_kept,
        middle=middle,
        outgoing=outgoing,
        outgoing_kept=outgoing_kept,
        closing=torch.where(closed, flat, incoming.numel()),
    )


def _rows_of(segment: Int[Tensor, " rows"], num_segments: int) -> Int[Tensor, "segments width"]:
    """Rows of each segment, which are neighbours, filled up with ``len(segment)``."""
    sizes = torch.bincount(segment, minlength=num_segments)
    rows = torch.arange(len(segment), device=segment.device)
    first = torch.zeros_like(sizes).scatter_reduce(0, segment, rows, "amin", include_self=False)
    column = torch.arange(int(sizes.max()), device=segment.device)
    return torch.where(column < sizes[:, None], first[:, None] + column, len(segment))


class EdgeFinder:
    """Finds edges by (source, target, offset)."""

    def __init__(self, edges: Edges, num_atoms: int) -> None:
        self.edges, self.num_atoms = edges, num_atoms
        self.reach = edges.offset.abs().amax() if edges.count else edges.source.new_zeros(())
        self.keys, self.order = torch.sort(self._pack(edges))

    def find(self, wanted: Edges) -> Int[Tensor, " wanted"]:
        """Index of each wanted edge, or the number of edges where there is none."""
        if not self.edges.count:
            return torch.zeros_like(wanted.source)
        keys = self._pack(wanted)
        index = torch.searchsorted(self.keys, keys).clamp(max=self.edges.count - 1)
        found = (self.keys[index] == keys) & (wanted.offset.abs() <= self.reach).all(-1)
        return torch.where(found, self.order[index], self.edges.count)

    def _pack(self, edges: Edges) -> Int[Tensor, " edges"]:
        key = edges.target * self.num_atoms + edges.source
        for axis in range(3):
            key = key * (2 * self.reach + 1) + edges.offset[:, axis] + self.reach
        return key
