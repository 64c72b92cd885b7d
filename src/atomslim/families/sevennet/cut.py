"""Cuts of SevenNet models: blocks, or irreps within them, are removed; remaining weights keep their values."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from e3nn.o3 import Irrep, Irreps
from jaxtyping import Float
from torch import Tensor, nn

from atomslim.families.sevennet.config import SevenNetConfig
from atomslim.families.sevennet.irreps import SCALAR, TensorPath, channels, scalar_widths
from atomslim.families.sevennet.layers import block_of

if TYPE_CHECKING:
    from atomslim.families.sevennet.model import SevenNet

Indices = dict[Irrep, list[int]]
"""Irrep → where the channels of a narrower layer are among those of the wider one."""


def with_blocks(model: "SevenNet", kept: Sequence[int]) -> "SevenNet":
    """Return a copy of a model with only these blocks, and only the irreps that are passed between them."""
    if len(kept) == model.num_blocks:
        return copy.deepcopy(model)
    irreps = handed_over([Irreps(entry) for entry in model.config.irreps], kept)
    return narrowed(model, kept, irreps, model.config.lmax_edge)


def degrees(model: "SevenNet") -> range:
    """Return the degrees above 0 of the irreps passed between blocks."""
    return range(1, max(Irreps(entry).lmax for entry in model.config.irreps) + 1)


def without_degrees(model: "SevenNet", first: int) -> "SevenNet":
    """Return a copy without irreps of this degree (1 or more) and above, of atoms and of edges.

    Without vectors, odd scalars are removed, too: they are made of vectors only.
    """
    irreps = [
        Irreps([entry for entry in Irreps(text) if entry.ir.l < first and (first > 1 or entry.ir == SCALAR)])
        for text in model.config.irreps
    ]
    everything = range(1, model.num_blocks + 1)
    return narrowed(model, everything, irreps, min(model.config.lmax_edge, first - 1))


def with_cutoff(model: "SevenNet", cutoff: float) -> "SevenNet":
    """Return a copy whose envelope ends at a shorter cutoff (Å), with unchanged waves under it.

    The factor 2/c of the radial basis changes with the cutoff, and the layer that reads it is multiplied by the
    inverse. An XPLOR envelope begins at the same fraction of the cutoff.
    """
    ratio = cutoff / model.config.cutoff
    changes = {"cutoff": cutoff, "envelope_onset": model.config.envelope_onset * ratio}
    new = copy.deepcopy(model)
    new.config = SevenNetConfig.model_validate({**model.config.model_dump(), **changes})
    new.radial.config = new.config
    with torch.no_grad():
        for block in new.blocks:
            convolution: Any = block.convolution
            (convolution.hidden[0] if len(convolution.hidden) else convolution.last).mul_(ratio)
    new.tasks = {
        name: task.model_copy(update={"graph": task.graph.model_copy(update={"cutoff": cutoff})})
        for name, task in model.tasks.items()
    }
    return new


def handed_over(irreps: Sequence[Irreps], kept: Sequence[int]) -> list[Irreps]:
    """Return the outputs of the embedding and each kept block: the irreps that the next one reads, in its width.

    If it reads more channels than there are, the others are zero. The last kept block gives even scalars.
    """
    given = [irreps[0], *(irreps[block] for block in kept)]
    last = (
        irreps[-1]
        if kept and kept[-1] == len(irreps) - 1
        else Irreps([entry for entry in given[-1] if entry.ir == SCALAR])
    )
    read = [*(irreps[block - 1] for block in kept), last]
    return [
        Irreps([(mul, kind) for kind, mul in channels(two).items() if kind in channels(one)])
        for one, two in zip(given, read, strict=True)
    ]


def narrowed(model: "SevenNet", kept: Sequence[int], irreps: Sequence[Irreps], lmax_edge: int) -> "SevenNet":
    """Return a copy with these blocks, whose states have these irreps, and edges of at most this degree."""
    changes = {
        "irreps": tuple(map(str, irreps)),
        "lmax_edge": lmax_edge,
        "self_connection": tuple(model.config.self_connection[block - 1] for block in kept),
    }
    blocks = model.blocks
    small = copy.deepcopy(model)
    small.config = SevenNetConfig.model_validate({**model.config.model_dump(), **changes})
    small.block_ids = tuple(model.block_ids[block - 1] for block in kept)
    small.blocks = nn.ModuleList(
        _narrowed_block(blocks[block - 1], model.config, block - 1, small.config, index)
        for index, block in enumerate(kept)
    )
    _widen(small.embedding, channels(irreps[0])[SCALAR])
    small.readout = _reading(model.readout, scalar_widths(small.config)[-1])
    return small


def _widen(embedding: nn.Module, width: int) -> None:
    """Change the embedding's number of scalars: truncated, or padded with zeros."""
    for name, weight in list(embedding.named_parameters()):
        chosen = _chosen(weight.detach(), _taken(0, width, weight.shape[-1]))
        setattr(embedding, name, nn.Parameter(chosen, requires_grad=weight.requires_grad))


def _reading(readout: nn.Linear, width: int) -> nn.Linear:
    """Return a copy of the readout's first layer for another number of scalars: truncated, or padded with zeros."""
    layer = nn.Linear(width, readout.out_features, bias=False, device="meta")
    weight = _chosen(readout.weight.detach(), _taken(0, width, readout.in_features))
    layer.weight = nn.Parameter(weight, requires_grad=readout.weight.requires_grad)
    return layer


def _narrowed_block(
    old: nn.Module, before: SevenNetConfig, old_index: int, after: SevenNetConfig, new_index: int
) -> nn.Module:
    """Return a block of the configuration ``after`` with the weights of the block ``old``."""
    if (
        before.irreps[old_index : old_index + 2] == after.irreps[new_index : new_index + 2]
        and before.lmax_edge == after.lmax_edge
    ):
        return copy.deepcopy(old)
    with torch.no_grad():
        new = block_of(after, new_index).to(next(old.parameters()))
        source, out = (
            tuple(Irreps(c.irreps[at + step]) for c, at in ((after, new_index), (before, old_index))) for step in (0, 1)
        )
        _fill(new, old, source, out)
    return new.train(old.training)


def _fill(new: Any, old: Any, source: tuple[Irreps, Irreps], out: tuple[Irreps, Irreps]) -> None:
    """Copy weights to a block with other irreps: ``source`` and ``out`` of the new one and of the old one."""
    same = {kind: _taken(0, mul, channels(source[1]).get(kind, 0)) for kind, mul in channels(source[0]).items()}
    inner = _inner_indices(*out)
    paths = new.convolution.paths, old.convolution.paths
    _fill_linear(new.connection, old.connection, same, inner)
    _fill_linear(new.first, old.first, same, same)
    _fill_linear(new.second, old.second, _message_indices(*paths), inner)
    for weight, before in zip(new.convolution.hidden, old.convolution.hidden, strict=True):
        weight.copy_(before)
    new.convolution.denominator.copy_(old.convolution.denominator)
    columns = [index for indices in _path_indices(*paths) for index in indices]
    new.convolution.last.copy_(_chosen(old.convolution.last, columns))


def _fill_linear(new: Any, old: Any, rows: Indices, columns: Indices) -> None:
    for kind, weight in new.weights.items():
        weight.zero_()
        if kind in old.weights:
            part = _chosen(old.weights[kind], columns[Irrep(kind)])
            weight.copy_(_chosen(part.transpose(-2, -1), rows[Irrep(kind)]).transpose(-2, -1))
    for name in ("bias", "modality"):
        if getattr(new, name, None) is not None:
            getattr(new, name).copy_(_chosen(getattr(old, name), columns[SCALAR]))


def _chosen(weight: Float[Tensor, "... before"], columns: Sequence[int]) -> Float[Tensor, "... after"]:
    """Take columns; those with index −1 are zero."""
    index = torch.tensor(columns, dtype=torch.int64, device=weight.device)
    found = (
        weight.index_select(-1, index.clamp(min=0))
        if weight.shape[-1]
        else weight.new_zeros(*weight.shape[:-1], len(columns))
    )
    return found * (index >= 0).to(weight)


def _taken(start: int, count: int, there: int) -> list[int]:
    """Return ``count`` indices from ``start`` on, −1 beyond the first ``there``."""
    return [start + index if index < there else -1 for index in range(count)]


def _inner_indices(new: Irreps, old: Irreps) -> Indices:
    """Say where the inputs of a gate are among those of another: even scalars first, then the gates in order."""
    counts, before = channels(new), channels(old)
    indices = {kind: _taken(0, mul, before.get(kind, 0)) for kind, mul in counts.items()}
    starts, start = {}, before[SCALAR]
    for kind, mul in before.items():
        starts[kind] = start
        start += mul if kind.l > 0 else 0
    for kind, mul in counts.items():
        if kind.l > 0:
            indices[SCALAR] += _taken(starts.get(kind, 0), mul, before.get(kind, 0))
    return indices


def _path_indices(new: Sequence[TensorPath], old: Sequence[TensorPath]) -> list[list[int]]:
    """Say where the channels of each path are among those of all paths of another convolution."""
    starts, start = {}, 0
    for path in old:
        starts[path.source, path.edge, path.message] = start, path.channels
        start += path.channels
    known = [starts.get((path.source, path.edge, path.message), (0, 0)) for path in new]
    return [_taken(first, path.channels, count) for path, (first, count) in zip(new, known, strict=True)]


def _message_indices(new: Sequence[TensorPath], old: Sequence[TensorPath]) -> Indices:
    """Say where the channels of the messages to each irrep are among those of another convolution."""
    found: Indices = {}
    for kind in {path.message: None for path in new}:
        ours, theirs = ([path for path in paths if path.message == kind] for paths in (new, old))
        found[kind] = [index for indices in _path_indices(ours, theirs) for index in indices]
    return found
