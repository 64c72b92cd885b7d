"""The graphs of one structure made from a matrix of neighbours by tensor operations alone.

`build_topology` chooses edges with numpy on the CPU. What is here chooses the same ones inside a program that
`torch.export` traces, whose only sizes that depend on numbers are those of the main graph: its edges E, and the most of
them into one atom W. The other graphs stay matrices (n, neighbours), their empty slots padded; on request, they are no
wider than the most edges into one atom, which is one more such size for each.
"""

from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.atoms.neighbours import CUTOFF_SLACK, TIE_TOLERANCE
from atomslim.families.jmp.gemnet_oc.geometry import PaddedEdges, edge_vectors
from atomslim.families.jmp.gemnet_oc.graphs import Edges, Topology
from atomslim.families.jmp.gemnet_oc.indices import EdgeFinder, IndexedTopology, InteractionIndex, quad_index
from atomslim.families.jmp.gemnet_oc.reach import QUAD, Reach, solve_reach
from atomslim.families.jmp.gemnet_oc.segments import Part, Segments
from atomslim.families.jmp.graph_settings import JMPGraphSettings

NEVER = 1e9
"""Å: the distance of an empty slot."""

WIDEST_SLICE = 64
"""Caps on neighbours up to here cut columns off the matrix; higher ones only mark what is beyond them."""

TIED = {8: 12, WIDEST_SLICE: 24}
"""Columns that caps up to so many leave for neighbours that tie with the last one: shells of crystals are no larger."""


@dataclass(frozen=True)
class NeighbourMatrix:
    """Neighbours of each of n atoms, nearest first.

    ``source`` is an atom, ``offset`` the integer cell offset o of its image, which is at r_source + o · cell, as in
    `Edges`. An empty slot is not ``real`` and holds the atom itself with a zero offset. Neighbours at one
    distance are of one ``shell``, counted from the nearest.
    """

    source: Int[Tensor, "n k"]
    offset: Int[Tensor, "n k 3"]
    real: Bool[Tensor, "n k"]
    shell: Int[Tensor, "n k"]

    @property
    def target(self) -> Int[Tensor, "n k"]:
        """The atom itself, in every slot."""
        return torch.arange(self.source.shape[0], device=self.source.device)[:, None].expand_as(self.source)

    def nearest(self, neighbours: int, *, ties: bool) -> "NeighbourMatrix":
        """Keep so many neighbours of each atom, with ties also those of the last one's shell."""
        if not neighbours:
            return self.columns(0)
        cut = self.columns(max(neighbours, 2) + ties * _room(neighbours)) if neighbours <= WIDEST_SLICE else self
        slot = torch.arange(cut.source.shape[1], device=cut.source.device)
        if not ties:
            return cut.only(slot < neighbours)
        last = torch.where(slot == neighbours - 1, cut.shell, -1).amax(1, keepdim=True)
        return cut.only((slot < neighbours) | (cut.shell == last))

    def without_empty_columns(self) -> "NeighbourMatrix":
        """Leave out the columns behind the last neighbour of any atom, but two: one is a case of its own to compilers.

        Columns are there for as many ties as there may be; every one of them would be computed with.
        """
        if type(self.source.shape[1]) is int and not self.source.shape[1]:
            return self
        slot = torch.arange(self.source.shape[1], device=self.source.device)
        width = cast("int", torch.where(self.real, slot + 1, 2).amax().clamp(min=2).item())
        _at_least(2, width)
        kept = torch.arange(width, device=self.source.device)
        return NeighbourMatrix(
            *(part.index_select(1, kept) for part in (self.source, self.offset, self.real, self.shell))
        )

    def columns(self, number: int) -> "NeighbourMatrix":
        """Return the first columns."""
        return NeighbourMatrix(
            self.source[:, :number], self.offset[:, :number], self.real[:, :number], self.shell[:, :number]
        )

    def only(self, wanted: Bool[Tensor, "n k"]) -> "NeighbourMatrix":
        """Empty the slots that are not wanted."""
        real = self.real & wanted
        source = torch.where(real, self.source, self.target)
        return replace(self, source=source, offset=self.offset * real[..., None], real=real)

    def edges(self) -> PaddedEdges:
        """All slots as edges, those of one atom after the other."""
        return PaddedEdges(
            self.source.flatten(), self.target.flatten(), self.offset.flatten(0, 1), real=self.real.flatten()
        )


@dataclass(frozen=True)
class MatrixSegments(Segments):
    """Rows of a matrix (segments, width), one segment after the other."""

    width: int

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the sums of `segment_outer`."""
        return torch.bmm(self._matrix(x).transpose(1, 2), self._matrix(y))

    def apply(self, x: Tensor, matrices: Tensor) -> Tensor:
        """Return the products of `segment_apply`."""
        return torch.bmm(self._matrix(x), matrices).view(x.shape[0], x.shape[1], matrices.shape[2])

    def _matrix(self, x: Tensor) -> Tensor:
        return x.reshape(self.num_segments, self.width * x.shape[1], x.shape[2])


@dataclass(frozen=True)
class TableSegments(Segments):
    """Rows looked up in a table (segments, width) that holds the number of rows in empty slots.

    Every product needs the table: what it is looked up by is made once, since a compiler's time goes with operations.
    """

    table: Int[Tensor, "segments width"]
    slot: Int[Tensor, " rows"]
    """Where in the flattened table each row is."""
    found: Int[Tensor, "segments width"]
    """The table with some row in empty slots."""
    empty: Bool[Tensor, "segments width 1 1"]
    """Which slots are empty."""

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the sums of `segment_outer`."""
        return torch.bmm(self._padded(x).transpose(1, 2), self._padded(y))

    def apply(self, x: Tensor, matrices: Tensor) -> Tensor:
        """Return the products of `segment_apply`."""
        segments, width = self.table.shape
        products = torch.bmm(self._padded(x), matrices)
        return products.view(segments * width, x.shape[1], matrices.shape[2])[self.slot]

    def parts(self, together: int, at_once: int) -> tuple[Part, ...]:  # noqa: ARG002 - for any number of rows
        """Return all rows as one part."""
        return (Part(slice(None), self),)

    def _padded(self, x: Tensor) -> Tensor:
        segments, width = self.table.shape
        rows = x[self.found].masked_fill(self.empty, 0)
        return rows.view(segments, width * x.shape[1], x.shape[2])


@dataclass(frozen=True)
class MatrixGraphs:
    """The four graphs of one structure, the main one as edges by target, and with it their table by atoms.

    Without ``atom_edge``, that graph is the main one, and without ``quad`` there are no quadruplets.
    """

    main: Edges
    reverse: Int[Tensor, " E"]
    table: TableSegments
    atom: NeighbourMatrix
    atom_edge: NeighbourMatrix | None
    quad: NeighbourMatrix | None
    reach: Reach | None

    def narrow(self) -> "MatrixGraphs":
        """Leave out the columns that are empty."""
        others = (self.atom, self.atom_edge, self.quad)
        atom, atom_edge, quad = (None if one is None else one.without_empty_columns() for one in others)
        return replace(self, atom=cast("NeighbourMatrix", atom), atom_edge=atom_edge, quad=quad)

    def topology(self) -> Topology:
        """Return them as edges; ``capped_fraction`` is not computed but zero."""
        return Topology(
            main=self.main,
            atom=self.atom.edges(),
            atom_edge=self.main if self.atom_edge is None else self.atom_edge.edges(),
            quad=self.atom.columns(0).edges() if self.quad is None else self.quad.edges(),
            reverse=self.reverse,
            capped_fraction=torch.zeros(1, dtype=torch.float64, device=self.main.target.device),
            reach=self.reach,
        )


def matrix_topology(
    batch: AtomsBatch, neighbours: Int[Tensor, "n k"], offsets: Int[Tensor, "n k 3"], settings: JMPGraphSettings
) -> IndexedTopology:
    """Build the four graphs of one structure, and their tables, as `build_topology` does.

    ``neighbours`` and ``offsets`` are those of `matrix_graphs`.
    """
    graphs = matrix_graphs(batch, neighbours, offsets, settings, narrow=False)
    topology = graphs.topology()
    return IndexedTopology(**vars(topology), index=_index(graphs, topology))


def matrix_graphs(
    batch: AtomsBatch,
    neighbours: Int[Tensor, "n k"],
    offsets: Int[Tensor, "n k 3"],
    settings: JMPGraphSettings,
    *,
    narrow: bool,
) -> MatrixGraphs:
    """Choose the edges of the four graphs of one structure.

    ``neighbours`` and ``offsets`` hold, in any order, at least all neighbours within the cutoff, and may hold others;
    an empty slot holds the atom itself with a zero offset. There must be at least one pair within the cutoff.
    With ``narrow``, matrices have no columns that are empty. Nothing here is differentiated.
    """
    batch = replace(batch, positions=batch.positions.detach(), cell=batch.cell.detach())
    known = _nearest_first(batch, neighbours, offsets, settings)
    most = known.columns(neighbours.shape[1] + 2)
    graphs = _smooth(batch, most, settings) if settings.smooth else _capped(batch, known, most, settings)
    return graphs.narrow() if narrow else graphs


def _capped(
    batch: AtomsBatch, known: NeighbourMatrix, most: NeighbourMatrix, settings: JMPGraphSettings
) -> MatrixGraphs:
    """Choose the nearest neighbours of each atom; ``most`` are all there can be, and no room for ties."""
    original = settings.symmetrise == "original"
    atom = most.nearest(settings.atom, ties=not original)
    atom_edge, quad, kept = (
        known.nearest(min(cap, settings.atom), ties=not original)
        for cap in (settings.atom_edge, settings.quad, settings.main)
    )
    main, reverse = _symmetrised(kept, original=original)
    quad = quad.only(_exposed(batch, quad))
    return MatrixGraphs(
        main=main,
        reverse=reverse,
        table=_by_target(main.target, batch.num_atoms),
        atom=atom,
        atom_edge=atom_edge,
        quad=quad if settings.quad else None,
        reach=None,
    )


def _smooth(batch: AtomsBatch, known: NeighbourMatrix, settings: JMPGraphSettings) -> MatrixGraphs:
    """Choose the edges of atoms' reaches; the atom-edge graph is the main one."""
    edges = known.edges()
    distance = torch.linalg.vector_norm(edge_vectors(batch, edges), dim=-1)  # (n k,)
    per_atom = distance.new_ones(batch.num_atoms)
    neighbours, cutoff = settings.typical_neighbours * per_atom, settings.cutoff * per_atom
    reach = solve_reach(distance, edges.target, neighbours, cutoff, traced=True)
    limit = reach.of_edges(edges.source, edges.target)
    main, reverse = _symmetrised(known.only((distance < limit).view_as(known.real)), original=False)
    middle = (distance < QUAD * limit).view_as(known.real) & _exposed(batch, known)
    return MatrixGraphs(
        main=main,
        reverse=reverse,
        table=_by_target(main.target, batch.num_atoms),
        atom=known,
        atom_edge=None,
        quad=known.only(middle) if settings.quad else None,
        reach=reach,
    )


def _exposed(batch: AtomsBatch, matrix: NeighbourMatrix) -> Bool[Tensor, "n k"]:
    """Return which slots touch a surface or adsorbate atom."""
    return (batch.tags > 0)[matrix.source] | (batch.tags > 0)[:, None]


def _nearest_first(
    batch: AtomsBatch, neighbours: Int[Tensor, "n k"], offsets: Int[Tensor, "n k 3"], settings: JMPGraphSettings
) -> NeighbourMatrix:
    """Sort the neighbours within the cutoff; empty slots are added, so that there are columns for every cap."""
    caps = (settings.atom, settings.main, settings.atom_edge, settings.quad)
    ties = settings.symmetrise == "invariant"
    empty = max([2, *(cap + ties * _room(cap) for cap in caps if cap <= WIDEST_SLICE)])
    atom = torch.arange(batch.num_atoms, device=batch.device)[:, None].expand(-1, empty)
    source, offset = torch.cat([neighbours, atom], 1), torch.cat([offsets, offsets.new_zeros(*atom.shape, 3)], 1)
    whole = NeighbourMatrix(source, offset, torch.ones_like(source, dtype=torch.bool), torch.zeros_like(source))
    whole = whole.only((source != whole.target) | (offset != 0).any(-1))
    distance = torch.linalg.vector_norm(edge_vectors(batch, whole.edges()), dim=-1).view_as(source)
    near = whole.only(distance < settings.cutoff + CUTOFF_SLACK)
    order, shell = _order(near, torch.where(near.real, distance, NEVER))
    return NeighbourMatrix(
        near.source.gather(1, order),
        near.offset.gather(1, order[..., None].expand_as(near.offset)),
        near.real.gather(1, order),
        shell,
    )


def _room(neighbours: int) -> int:
    return next(columns for most, columns in TIED.items() if neighbours <= most)


def _order(matrix: NeighbourMatrix, distance: Float[Tensor, "n k"]) -> tuple[Int[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Return the order of each atom's slots by distance, where distances tie by source, then by offset; and shells.

    A distance ties with the next lower one if it is larger by no more than 1e-6 Å, as in `find_pairs`.
    """
    distance, order = torch.sort(distance, dim=1, stable=True)
    begins = distance[:, 1:] - distance[:, :-1] > TIE_TOLERANCE
    shell = torch.cat([torch.zeros_like(order[:, :1]), begins.cumsum(1)], 1)
    reach = matrix.offset.abs().amax()
    span = 2 * reach + 1
    first, second, third = (matrix.offset + reach).unbind(-1)
    key = ((matrix.source * span + first) * span + second) * span + third
    key = shell * (matrix.source.shape[0] * span**3) + key.gather(1, order)
    return order.gather(1, torch.sort(key, dim=1, stable=True)[1]), shell


def _symmetrised(kept: NeighbourMatrix, *, original: bool) -> tuple[Edges, Int[Tensor, " E"]]:
    """Return the main graph's edges, by target, and their reverse ones; see `graphs.symmetrised` for the rules."""
    edges = kept.edges()
    first, second, third = edges.offset.unbind(-1)
    leading = torch.where(first != 0, first, torch.where(second != 0, second, third))
    forward = (edges.source < edges.target) | ((edges.source == edges.target) & (leading < 0))
    chosen = edges.real & forward
    if not original:
        others = kept.only(forward.view_as(kept.real)).edges()
        reverse = Edges(edges.target, edges.source, -edges.offset)
        chosen = chosen | (edges.real & (EdgeFinder(others, kept.source.shape[0]).find(reverse) == others.count))
    slots = torch.nonzero(chosen).squeeze(1)
    _at_least(1, slots.shape[0])
    return _both_ways(Edges(edges.source[slots], edges.target[slots], edges.offset[slots]))


def _both_ways(edges: Edges) -> tuple[Edges, Int[Tensor, " E"]]:
    """Add the reverse of every edge, and sort by target."""
    source, target = torch.cat([edges.source, edges.target]), torch.cat([edges.target, edges.source])
    offset = torch.cat([edges.offset, -edges.offset])
    number = torch.arange(source.shape[0], device=source.device)
    reverse = torch.cat([number[edges.count :], number[: edges.count]])
    order = torch.sort(target, stable=True)[1]
    rank = torch.zeros_like(order).scatter(0, order, number)
    return Edges(source[order], target[order], offset[order]), rank[reverse[order]]


def _index(graphs: MatrixGraphs, topology: Topology) -> InteractionIndex:
    main, quad, device = graphs.main, topology.quad, graphs.main.target.device
    num_atoms, width = graphs.atom.source.shape
    middle = None if graphs.quad is None else torch.arange(quad.count, device=device).view(num_atoms, -1)
    return InteractionIndex(
        main=graphs.table,
        atom_edge=graphs.table if graphs.atom_edge is None else _rows_of(graphs.atom_edge),
        pairs=_rows_of(graphs.atom),
        pair_of_edge=torch.arange(num_atoms * width, device=device),
        pair_source=topology.atom.source,
        same_atom_edge=torch.arange(main.count, device=device)
        if graphs.atom_edge is None
        else EdgeFinder(topology.atom_edge, num_atoms).find(main),
        quad=None if middle is None else quad_index(main, quad, graphs.table.table, middle),
    )


def _rows_of(matrix: NeighbourMatrix) -> MatrixSegments:
    num_atoms, width = matrix.source.shape
    return MatrixSegments(num_atoms * width, num_atoms, (), width)


def _by_target(target: Int[Tensor, " rows"], num_atoms: int) -> TableSegments:
    """Make the table of rows that are sorted by ``target``."""
    sizes = target.new_zeros(num_atoms).index_add(0, target, torch.ones_like(target))
    first = sizes.cumsum(0) - sizes
    width = cast("int", sizes.max().clamp(min=2).item())
    _at_least(2, width)  # the compiler would specialise on a single column
    column = torch.arange(width, device=target.device)
    rows = target.shape[0]
    table = torch.where(column < sizes[:, None], first[:, None] + column, rows)
    slot = target * width + torch.arange(rows, device=target.device) - first[target]
    return TableSegments(rows, num_atoms, (), table, slot, table.clamp(max=rows - 1), (table == rows)[..., None, None])


def _at_least(least: int, size: int) -> None:
    """Give tracing a lower bound of a data-dependent size; the program checks it."""
    torch.ops.aten.sym_constrain_range_for_size(size, min=least)
