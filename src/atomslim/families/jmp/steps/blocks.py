"""The network over the bases of a step: GemNet-OC's blocks with fewer and larger operations.

The formulas are those of `gemnet_oc`; gains and scale factors are left out, since they are part of the weights.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from atomslim.families.jmp.gemnet_oc.layers import INV_SQRT_2, INV_SQRT_3, SILU_GAIN
from atomslim.families.jmp.steps.bases import QuadMatrices, StepBases
from atomslim.families.jmp.steps.graph import MiddleTables, StepGraph
from atomslim.families.jmp.steps.weights import (
    BlockWeights,
    ConcatWeights,
    OutputWeights,
    Residuals,
    StepWeights,
    UpdateWeights,
)


def features(
    h: Float[Tensor, "n atom"], weights: StepWeights, bases: StepBases, graph: StepGraph, *, edges: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Give the features of atoms and, with ``edges``, of edges after the embedding and after every block."""
    m = _act(_concat(h, bases.rbf, weights.bases.embedding, graph)).mul_(SILU_GAIN)
    yield _output(h, m, weights.outputs[0], bases, graph, edges=edges)
    for index, (block, output) in enumerate(zip(weights.blocks, weights.outputs[1:], strict=True)):
        h, m = _block(h, m, block, bases, graph, index)
        yield _output(h, m, output, bases, graph, edges=edges)


def _block(
    h: Tensor, m: Tensor, weights: BlockWeights, bases: StepBases, graph: StepGraph, index: int
) -> tuple[Float[Tensor, "n atom"], Float[Tensor, "E edge"]]:
    atoms, width = h.shape[0], graph.main.width
    from_atoms = _act(torch.mm(h, weights.from_atoms))
    started = _act(torch.bmm(m.expand(len(weights.from_edges), -1, -1), weights.from_edges))
    narrow = _act(torch.bmm(started[1:] * torch.bmm(bases.passes, weights.gates), weights.down))  # (P, E, t)
    padded = narrow.index_select(1, graph.main.some).view(narrow.shape[0], atoms, width, -1)

    x = _edge_messages(from_atoms, padded, weights, bases, graph, index)
    x = torch.add(started[0], x, alpha=INV_SQRT_2).mul_(SILU_GAIN / 2)
    h = _atom_messages(h, from_atoms, padded[-1], weights, bases, graph)
    m = _residual(_average(m, _residual(x, weights.before_skip)), weights.after_skip)
    h = _residual(h, weights.atom_layers)
    h = _average(h, _update(m, weights.update, bases.update, graph))
    ends = _act(_concat(h, m, weights.concat, graph)).mul_(SILU_GAIN)
    return h, _average(m, _residual(ends, weights.concat_layers))


def _edge_messages(
    from_atoms: Float[Tensor, "n atom+aint"],
    padded: Float[Tensor, "P n W t"],
    weights: BlockWeights,
    bases: StepBases,
    graph: StepGraph,
    index: int,
) -> Float[Tensor, "E edge"]:
    """Return the sum over all passes and both directions of an edge of act(W_up z)."""
    from_edges, from_sources, *quad = weights.sums
    y = _atom_edge_messages(from_atoms, weights, bases, graph)
    sums = [
        _triplet_sum(bases.edge_to_edge, padded[0, ..., : y.shape[2]], from_edges),
        _triplet_sum(bases.atom_to_edge, y, from_sources),
    ]
    if bases.quad is not None and graph.middle is not None:
        sums.append(_quadruplet_sum(padded[1], quad[0], bases.quad, graph.middle, index))
    z = torch.stack(sums).index_select(1, graph.both)  # (passes, 2 E, s)
    return _act(torch.bmm(z.view(2 * len(sums), -1, z.shape[2]), weights.up[: 2 * len(sums)])).sum(0)


def _atom_edge_messages(
    from_atoms: Tensor, weights: BlockWeights, bases: StepBases, graph: StepGraph
) -> Float[Tensor, "n V trip"]:
    before = from_atoms[:, : weights.atom_gate.shape[1]].index_select(0, graph.atom_edge_source)
    gated = before * torch.mm(bases.atom_edge, weights.atom_gate)
    messages = _act(torch.mm(gated, weights.atom_down))
    return messages.view(from_atoms.shape[0], graph.atom_edge.width, messages.shape[1])


def _triplet_sum(
    matrix: Float[Tensor, "n W*K in"], y: Float[Tensor, "n in trip"], weight: Float[Tensor, "K*trip s"]
) -> Float[Tensor, "n*W s"]:
    return torch.mm(torch.bmm(matrix, y).view(-1, weight.shape[0]), weight)


def _quadruplet_sum(
    y: Float[Tensor, "n W t"], weight: Tensor, quad: QuadMatrices, middle: MiddleTables, index: int
) -> Float[Tensor, "n*W s"]:
    factors = quad.incoming[index]
    incoming = y[..., : factors.shape[2]].index_select(0, middle.source) * factors  # (n Q, W, quad)
    z = torch.bmm(quad.sum, incoming.view(y.shape[0], -1, factors.shape[2]))
    return torch.mm(z.view(-1, weight.shape[0]), weight)


def _atom_messages(
    h: Tensor,
    from_atoms: Float[Tensor, "n atom+aint"],
    y: Float[Tensor, "n W t"],
    weights: BlockWeights,
    bases: StepBases,
    graph: StepGraph,
) -> Float[Tensor, "n atom"]:
    """Return (h + edge to atom + atom to atom)/√3."""
    atoms = h.shape[0]
    summed, up = weights.edge_to_atom
    z = torch.bmm(bases.edge_to_atom, y[..., : weights.atom_down.shape[1]])
    from_edges = _act(torch.mm(torch.mm(z.view(atoms, -1), summed), up))
    summed, up = weights.atom_to_atom
    pairs = from_atoms[:, weights.atom_gate.shape[1] :].index_select(0, graph.atom_source)
    z = torch.bmm(bases.atom_to_atom, pairs.view(atoms, graph.atom.width, -1))
    from_pairs = _act(torch.mm(torch.mm(z.view(atoms, -1), summed), up))
    return torch.add(h, from_edges.add_(from_pairs), alpha=SILU_GAIN).mul_(INV_SQRT_3)


def _output(
    h: Tensor, m: Tensor, weights: OutputWeights, bases: StepBases, graph: StepGraph, *, edges: bool
) -> tuple[Tensor, Tensor | None]:
    node = _residual(_average(h, _update(m, weights.update, bases.output, graph)), weights.atom_layers)
    if not edges or weights.edge_radial is None:
        return node, None
    return node, _residual(m, weights.edge_layers) * torch.mm(bases.output_edges, weights.edge_radial)


def _update(
    m: Float[Tensor, "E edge"], weights: UpdateWeights, radial: Float[Tensor, "n rbf W"], graph: StepGraph
) -> Float[Tensor, "n atom"]:
    """Return what `AtomUpdate` does."""
    rows = m.index_select(0, graph.main.some).view(radial.shape[0], graph.main.width, -1)
    x = (torch.bmm(radial, rows) * weights.radial).sum(1)
    if weights.dense is not None:
        x = _act(torch.mm(x, weights.dense)).mul_(SILU_GAIN)
    return _residual(x, weights.layers)


def _concat(h: Tensor, x: Tensor, weights: ConcatWeights, graph: StepGraph) -> Tensor:
    """Return what `PairLinear` does."""
    ends = torch.mm(h, weights.ends).view(2 * h.shape[0], -1).index_select(0, graph.ends)
    return torch.addmm(ends.view(2, x.shape[0], -1).sum(0), x, weights.edge)


def _residual(x: Tensor, layers: Residuals) -> Tensor:
    for first, second in layers:
        branch = _act(torch.mm(_act(torch.mm(x, first)), second))
        x = torch.add(x, branch, alpha=SILU_GAIN).mul_(INV_SQRT_2)
    return x


def _average(x: Tensor, y: Tensor) -> Tensor:
    return torch.add(x, y).mul_(INV_SQRT_2)


def _act(x: Tensor) -> Tensor:
    """Return SiLU without its gain; overwrites what no derivative needs."""
    return silu(x, inplace=not x.requires_grad)
