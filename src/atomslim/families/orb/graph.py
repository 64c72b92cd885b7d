"""Graphs of Orb models: the nearest neighbours of every atom, as many as the task allows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomslim.atoms import AtomsBatch, Pairs
from atomslim.atoms.neighbours import nearest
from atomslim.families.orb.config import OrbGraphSettings

TIE = 2e-5
"""Å: distances within this are equal in float32, so the cap may fall on either side."""

Chooser: TypeAlias = Callable[[AtomsBatch, OrbGraphSettings], tuple[Tensor, Tensor, Tensor]]
"""Gives source, target and offset of the edges of one structure."""


@dataclass(frozen=True)
class Graph:
    """Edges neighbour → atom, sorted by the atom, with the neighbour's cell offset."""

    source: Int[Tensor, " E"]
    target: Int[Tensor, " E"]
    offset: Int[Tensor, "E 3"]
    share: Float[Tensor, " b"]
    """Fraction of each structure's pairs that the cap left out."""

    def edges(self) -> "Graph":
        """Return the edges."""
        return self

    def left_out(self) -> Float[Tensor, " b"]:
        """Return the fraction of pairs within the cutoff that the cap left out."""
        return self.share

    def to(self, device: torch.device | str) -> "Graph":
        """Move to a device."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items()}
        return replace(self, **moved)


def build_graph(batch: AtomsBatch, pairs: Pairs, settings: Sequence[OrbGraphSettings], choose: Chooser) -> Graph:
    """Return the graph of a batch, with one setting for each structure.

    Where the cap falls between neighbours that are equally far, ``choose`` says which are kept, except for structures
    periodic in one or two directions, which the package refuses: there, the order of pairs decides.
    """
    structure = batch.batch.cpu()
    caps = torch.tensor([one.max_neighbours for one in settings])[structure]
    counts = torch.bincount(pairs.target, minlength=batch.num_atoms)
    kept = pairs.select(nearest(pairs, caps))
    tied = [
        number
        for number in _tied(pairs, counts, caps, structure)
        if bool((batch.pbc[number] == batch.pbc[number, 0]).all())
    ]
    source, target, offset = kept.source, kept.target, kept.offset
    if tied:
        untouched = ~torch.isin(structure[target], torch.tensor(tied))
        parts = [(source[untouched], target[untouched], offset[untouched])]
        for number in tied:
            first = int((structure < number).sum())
            own = choose(batch.structure(number), settings[number])
            parts.append((own[0] + first, own[1] + first, own[2]))
        source, target, offset = (torch.cat(found) for found in zip(*parts, strict=True))
        order = torch.argsort(target, stable=True)
        source, target, offset = source[order], target[order], offset[order]
    return Graph(source, target, offset, _share(counts, target, structure, batch.num_structures)).to(batch.device)


def _tied(pairs: Pairs, counts: Tensor, caps: Tensor, structure: Tensor) -> list[int]:
    """Return the structures with an atom whose last kept and first left-out neighbour are equally far."""
    capped = torch.nonzero(counts > caps).flatten()
    first_out = (counts.cumsum(0) - counts)[capped] + caps[capped]
    equal = pairs.distance[first_out] - pairs.distance[first_out - 1] < TIE
    return torch.unique(structure[capped[equal]]).tolist()


def _share(counts: Tensor, target: Tensor, structure: Tensor, number: int) -> Float[Tensor, " b"]:
    zeros = torch.zeros(number, dtype=torch.float64)
    whole = zeros.index_add(0, structure, counts.double())
    kept = zeros.index_add(0, structure[target], torch.ones(len(target), dtype=torch.float64))
    return (1 - kept / whole.clamp(min=1)).clamp(min=0) * (whole > 0)
