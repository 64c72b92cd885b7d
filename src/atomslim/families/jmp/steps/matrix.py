"""Steps inside a program that is traced: the tables of `StepGraph` from a matrix of neighbours, by tensor operations.

Tables of all but the main edges are the matrices themselves. What `quad_index` looks up is compared here, slot by
slot: a compiler makes one loop of that. An image of an atom is one number, its key: source · s³ + o₁ · s² + o₂ · s +
o₃, with cell offset o and s so large that sums of three offsets do not meet.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.families.jmp.gemnet_oc.geometry import FAR
from atomslim.families.jmp.gemnet_oc.matrix import MatrixGraphs, NeighbourMatrix, matrix_graphs
from atomslim.families.jmp.graph_settings import JMPGraphSettings
from atomslim.families.jmp.model import JMP, Context
from atomslim.families.jmp.steps.bases import BasisMaker
from atomslim.families.jmp.steps.blocks import features
from atomslim.families.jmp.steps.graph import MiddleTables, StepGraph, Table
from atomslim.families.jmp.steps.weights import StepWeights
from atomslim.models.block_model import BlockFeatures
from atomslim.models.tasks import Task


class TracedSteps:
    """Gives the features of one structure from a matrix of neighbours; weights are those of the model now."""

    def __init__(self, model: JMP, task: Task, *, edges: bool) -> None:
        """Fold the model's weights; ``edges`` says whether features of edges are wanted."""
        self.model, self.settings = model, JMPGraphSettings.of(task.graph)
        self.edges = edges and model.config.direct_forces
        self.weights = StepWeights.of(model.backbone, quadruplets=self.settings.quad > 0)

    def __call__(
        self, batch: AtomsBatch, neighbours: Int[Tensor, "n k"], offsets: Int[Tensor, "n k 3"]
    ) -> BlockFeatures:
        """Return the features after the embedding and every block; see `matrix_graphs` for the arguments."""
        graphs = matrix_graphs(batch, neighbours, offsets, self.settings, narrow=True)
        graph = step_graph(graphs, self.weights.bases.centres)
        bases = BasisMaker(self.model.config, self.weights.bases).of(_vectors(batch, graphs, graph), graph)
        h = self.model.embedding.weight.detach().index_select(0, batch.numbers - 1)
        node, edge = zip(*features(h, self.weights, bases, graph, edges=self.edges), strict=True)
        context = Context(batch, graphs.topology(), bases.direction)
        return BlockFeatures(node, edge if self.edges else (), context)


def step_graph(graphs: MatrixGraphs, like: Tensor) -> StepGraph:
    """Make the tables; masks have the dtype of ``like``."""
    main, matrices = graphs.main, _matrices(graphs)
    edges = [main, *(matrix.edges() for matrix in matrices)]
    keys = _Keys.of_main(graphs)
    main_table = _main_table(graphs, like)
    atom_edge = main_table if graphs.atom_edge is None else _matrix_table(graphs.atom_edge, like)
    sizes = [0 if matrix is None else matrix.source.numel() for matrix in (graphs.atom_edge, graphs.quad, graphs.atom)]
    return StepGraph(
        source=torch.cat([part.source for part in edges]),
        target=torch.cat([part.target for part in edges]),
        offset=torch.cat([part.offset for part in edges]).double(),
        sizes=(main.count, sizes[0], sizes[1], sizes[2]),
        main=main_table,
        atom_edge=atom_edge,
        atom=_matrix_table(graphs.atom, like),
        atom_source=graphs.atom.source.flatten(),
        atom_edge_source=main.source[main_table.some]
        if graphs.atom_edge is None
        else graphs.atom_edge.source.flatten(),
        triplets=_triplets(graphs, keys).to(like)[..., None],
        both=torch.cat([graphs.table.slot, graphs.table.slot[graphs.reverse]]),
        ends=torch.cat([2 * main.source, 2 * main.target + 1]),
        middle=None if graphs.quad is None else _middle(graphs.quad, keys, like),
        reach=graphs.reach,
    )


@dataclass(frozen=True)
class _Keys:
    """Keys of the sources of main edges in the slots of their table, and what makes keys of others."""

    main: Int[Tensor, "n W"]
    real: Bool[Tensor, "n W"]
    span: Int[Tensor, ""]
    """s."""

    @classmethod
    def of_main(cls, graphs: MatrixGraphs) -> "_Keys":
        edges = graphs.main
        span = 8 * graphs.atom.offset.abs().amax() + 1  # edges of all graphs are among its, in one direction
        key = _packed(edges.source, edges.offset, span)
        return cls(key[graphs.table.found], graphs.table.table < edges.count, span)

    def of(self, atoms: Int[Tensor, "*shape"], offsets: Int[Tensor, "*shape 3"]) -> Int[Tensor, "*shape"]:
        """Return the keys of others."""
        return _packed(atoms, offsets, self.span)


def _packed(atoms: Int[Tensor, "*shape"], offsets: Int[Tensor, "*shape 3"], span: Tensor) -> Int[Tensor, "*shape"]:
    first, second, third = offsets.unbind(-1)
    return ((atoms * span + first) * span + second) * span + third


def _vectors(batch: AtomsBatch, graphs: MatrixGraphs, graph: StepGraph) -> Float[Tensor, "e 3"]:
    """Return r_st = r_t − (r_s + o·cell) in Å of all edges; empty slots are beyond every basis."""
    image = cast("Tensor", graph.offset).to(batch.cell) @ batch.cell[0]
    vectors = batch.positions[graph.target] - (batch.positions[graph.source] + image)
    main = torch.ones_like(graphs.main.source, dtype=torch.bool)
    real = torch.cat([main, *(matrix.real.flatten() for matrix in _matrices(graphs))])
    return torch.where(real[:, None], vectors, FAR)


def _matrices(graphs: MatrixGraphs) -> list[NeighbourMatrix]:
    return [matrix for matrix in (graphs.atom_edge, graphs.quad, graphs.atom) if matrix is not None]


def _main_table(graphs: MatrixGraphs, like: Tensor) -> Table:
    table = graphs.table
    filled = (table.table < graphs.main.count).to(like)
    return Table(table.table.shape[1], table.table.flatten(), table.found.flatten(), table.slot, filled)


def _matrix_table(matrix: NeighbourMatrix, like: Tensor) -> Table:
    """Make the table of a graph whose edges are all slots of a matrix, in their order."""
    slots = torch.arange(matrix.source.numel(), device=like.device)
    return Table(matrix.source.shape[1], None, slots, slots, matrix.real.to(like))


def _triplets(graphs: MatrixGraphs, keys: _Keys) -> Bool[Tensor, "n W W+V"]:
    own = torch.eye(keys.real.shape[1], dtype=torch.bool, device=keys.real.device)
    edges = keys.real[:, None] & keys.real[:, :, None] & ~own
    if graphs.atom_edge is None:
        return torch.cat([edges, edges], dim=2)
    other = graphs.atom_edge
    different = keys.main[:, :, None] != keys.of(other.source, other.offset)[:, None]
    return torch.cat([edges, keys.real[:, :, None] & other.real[:, None] & different], dim=2)


def _middle(quad: NeighbourMatrix, keys: _Keys, like: Tensor) -> MiddleTables:
    """Compare the ends of the edges d→b, b→a and c→a of all quadruplets, as seen from a."""
    (atoms, width), room = keys.real.shape, quad.source.shape[1]
    a = keys.of(quad.target, torch.zeros_like(quad.offset))  # (n, Q)
    b = keys.of(quad.source, quad.offset)
    d = keys.main[quad.source] + keys.of(torch.zeros_like(quad.source), quad.offset)[..., None]  # (n, Q, W)
    incoming = keys.real[quad.source] & quad.real[..., None] & (d != a[..., None])
    outgoing = keys.real[:, :, None] & quad.real[:, None] & (keys.main[:, :, None] != b[:, None])  # (n, W, Q)
    open_ends = keys.main[:, :, None, None] != d[:, None]  # (n, W, Q, W)
    return MiddleTables(
        table=_matrix_table(quad, like),
        source=quad.source.flatten(),
        incoming_kept=incoming.view(atoms * room, width).to(like),
        outgoing_kept=outgoing.view(atoms * width, room).to(like),
        not_closed=open_ends.to(like)[:, :, None],
    )
