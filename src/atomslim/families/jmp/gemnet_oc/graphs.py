"""The four graphs of GemNet-OC: one candidate list, a neighbour cap per graph, and the symmetrised main graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from atomslim.atoms.batch import AtomsBatch
from atomslim.atoms.neighbours import (
    Pairs,
    find_pairs,
    nearest,
    packed_keys,
    sorted_pairs,
    update_distances,
    within,
)
from atomslim.errors import ConfigError
from atomslim.families.jmp.gemnet_oc.reach import QUAD, Reach, solve_reach
from atomslim.families.jmp.gemnet_oc.segments import order_by_size
from atomslim.families.jmp.graph_settings import JMPGraphSettings

BASIS_CUTOFF = 12.0
"""Å: the radial basis of JMP is zero from here on."""

IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Edges:
    """Directed edges source → target: targets with few edges first, then by target, distance, source and offset.

    So the edges of one target are neighbours, and targets with equally many edges are too. The integer cell offset
    o (e, 3) belongs to the source: r_st = r_target − (r_source + o · cell).
    """

    source: Int[Tensor, " e"]
    target: Int[Tensor, " e"]
    offset: Int[Tensor, "e 3"]

    def __len__(self) -> int:
        """Return the number of edges."""
        return self.source.shape[0]

    @property
    def count(self) -> int:
        """The number of edges, which `len` would make a constant where a program is traced."""
        return self.source.shape[0]

    def __getitem__(self, rows: slice) -> "Edges":
        """Return some of the edges."""
        return Edges(self.source[rows], self.target[rows], self.offset[rows])

    def to(self, device: torch.device | str) -> "Edges":
        """Move to `device`."""
        return Edges(self.source.to(device), self.target.to(device), self.offset.to(device))


@dataclass(frozen=True)
class Topology:
    """The four graphs of a batch of b structures.

    | field | meaning |
    |---|---|
    | main | edges that carry embeddings; with every edge its reverse |
    | atom | atom → atom |
    | atom_edge | atom → edge and edge → atom |
    | quad | middle edges of quadruplets |
    | reverse (len(main),) | index of the reverse of each main edge |
    | capped_fraction (b,) | fraction of pairs within the cutoff that the main graph's neighbour cap dropped |
    | reach | where edges of every atom end, if any structure has a smooth graph |
    """

    main: Edges
    atom: Edges
    atom_edge: Edges
    quad: Edges
    reverse: Int[Tensor, " main"]
    capped_fraction: Float[Tensor, " b"]
    reach: Reach | None

    def edges(self) -> Edges:
        """Return the edges that carry embeddings."""
        return self.main

    def left_out(self) -> Float[Tensor, " b"]:
        """Return ``capped_fraction``."""
        return self.capped_fraction

    def to(self, device: torch.device | str) -> "Topology":
        """Move to `device`."""
        return Topology(
            main=self.main.to(device),
            atom=self.atom.to(device),
            atom_edge=self.atom_edge.to(device),
            quad=self.quad.to(device),
            reverse=self.reverse.to(device),
            capped_fraction=self.capped_fraction.to(device),
            reach=None if self.reach is None else self.reach.to(device),
        )


def build_topology(
    batch: AtomsBatch,
    settings: JMPGraphSettings | Sequence[JMPGraphSettings],
    *,
    pairs: Pairs | None = None,
    basis_cutoff: float = BASIS_CUTOFF,
) -> Topology:
    """Build the four graphs, on the batch's device; nothing here is differentiated.

    All are chosen from the same pairs within the cutoff: atom first (its nearest), the others as nearest-k subsets of
    it; by the invariant rule, those that tie with the k-th are kept, too. Main is then symmetrised, quad keeps edges
    that touch a surface or adsorbate atom (tag 1 or 2). After that, edges of `basis_cutoff` (Å) or more leave atom,
    atom_edge and quad, to whose sums they contribute exactly nothing.

    Smooth graphs have no caps: see `reach`. `settings` holds for all structures, or one per structure, smooth for all
    or for none. `pairs` reuses a list found earlier with a cutoff at
    least as large (for instance, cutoff + skin): its distances are recomputed. Raises StructureError for
    structures no model can take, ConfigError when the number of settings is not the number of structures.
    """
    chosen = _settings_per_structure(settings, batch.num_structures)
    cutoffs = [one.cutoff if one.smooth is None else min(one.cutoff, basis_cutoff) for one in chosen]
    candidates = find_pairs(batch, cutoffs) if pairs is None else within(update_distances(pairs, batch), batch, cutoffs)
    if any(one.smooth is not None for one in chosen):
        return _smooth_topology(batch, chosen, candidates, basis_cutoff)
    ties = [one.symmetrise == "invariant" for one in chosen]
    atom = _capped(candidates, batch, [one.atom for one in chosen], ties)
    kept = _capped(atom, batch, [one.main for one in chosen], ties)
    atom_edge = _capped(atom, batch, [one.atom_edge for one in chosen], ties)
    quad = _capped(atom, batch, [one.quad for one in chosen], ties)
    main = candidates if len(kept) == len(candidates) else symmetrised(kept, _original_rule(batch, chosen, kept))
    main = _by_degree(main)
    return Topology(
        main=_edges(main),
        atom=_edges(_by_degree(_nearer_than(atom, basis_cutoff))),
        atom_edge=_edges(_by_degree(_nearer_than(atom_edge, basis_cutoff))),
        quad=_edges(_by_degree(_nearer_than(_touching_surface(quad, batch), basis_cutoff))),
        reverse=reverse_index(main),
        capped_fraction=_capped_fraction(batch, candidates, kept),
        reach=None,
    ).to(batch.device)


def _smooth_topology(
    batch: AtomsBatch, settings: Sequence[JMPGraphSettings], candidates: Pairs, basis_cutoff: float
) -> Topology:
    """Build the graphs of atoms' reaches: every pair is in or out together with its reverse."""
    if any(one.smooth is None for one in settings):
        raise ConfigError("structures with smooth graphs and with caps on neighbours cannot be in one batch")
    structure = batch.batch.cpu()
    neighbours = torch.tensor([one.smooth for one in settings], dtype=torch.float64)[structure]
    cutoff = torch.tensor([min(one.cutoff, basis_cutoff) for one in settings], dtype=torch.float64)[structure]
    reach = solve_reach(candidates.distance, candidates.target, neighbours, cutoff)
    limit = reach.of_edges(candidates.source, candidates.target)
    main = _by_degree(candidates.select(torch.nonzero(candidates.distance < limit).flatten()))
    middle = torch.tensor([one.quad > 0 for one in settings])[structure[candidates.target]]
    middle &= candidates.distance < QUAD * limit
    return Topology(
        main=_edges(main),
        atom=_edges(_by_degree(candidates)),
        atom_edge=_edges(main),
        quad=_edges(_by_degree(_touching_surface(candidates.select(torch.nonzero(middle).flatten()), batch))),
        reverse=reverse_index(main),
        capped_fraction=torch.zeros(batch.num_structures, dtype=torch.float64),
        reach=reach,
    ).to(batch.device)


def symmetrised(pairs: Pairs, original: BoolArray) -> Pairs:
    """Complete a capped set of pairs so that with every edge it holds the reverse, as `original` (p,) says per pair.

    True, JMP's rule: keep an edge if s < t, or if s = t and the first non-zero component of its offset is negative;
    then add the reverse of each. An edge that was kept only as s > t is lost. False, the invariant rule: keep an edge,
    and its reverse, if either was kept; the result, as a set, does not depend on the numbering of the atoms.
    """
    source, target, offset = pairs.source.numpy(), pairs.target.numpy(), pairs.offset.numpy()
    forward = _is_forward(source, target, offset)
    kept = np.flatnonzero(forward | ~original)
    source, target, offset = _turned_forward(source[kept], target[kept], offset[kept], forward[kept])
    unique = np.unique(packed_keys(source, target, *offset.T), return_index=True)[1]
    source, target, offset = source[unique], target[unique], offset[unique]
    distance = pairs.distance.numpy()[kept][unique]
    return sorted_pairs(
        np.concatenate([source, target]),
        np.concatenate([target, source]),
        np.concatenate([offset, -offset]),
        np.concatenate([distance, distance]),
    )


def reverse_index(edges: Edges | Pairs) -> Int[Tensor, " e"]:
    """Return for each edge (s → t, o) the index of its reverse (t → s, −o), which must be present.

    Turned to the same direction, an edge and its reverse get equal keys and become neighbours when sorted.
    """
    source, target, offset = edges.source.numpy(), edges.target.numpy(), edges.offset.numpy()
    turned = _turned_forward(source, target, offset, _is_forward(source, target, offset))
    keys = packed_keys(turned[0], turned[1], *turned[2].T)
    order = np.argsort(keys)
    one, other = order[0::2], order[1::2]
    if len(one) != len(other) or (keys[one] != keys[other]).any():
        raise ValueError("an edge without its reverse: the edges are not symmetric")
    reverse = np.empty_like(order)
    reverse[one], reverse[other] = other, one
    return torch.from_numpy(reverse)


def _settings_per_structure(
    settings: JMPGraphSettings | Sequence[JMPGraphSettings], num_structures: int
) -> Sequence[JMPGraphSettings]:
    if isinstance(settings, JMPGraphSettings):
        return [settings] * num_structures
    if len(settings) != num_structures:
        raise ConfigError(f"{len(settings)} graph settings for {num_structures} structures: give one, or one for each")
    return settings


def _capped(pairs: Pairs, batch: AtomsBatch, neighbours: Sequence[int], ties: Sequence[bool]) -> Pairs:
    """Keep the nearest pairs of each target, up to its structure's number of neighbours, or all that tie with the last.

    Without ties, an atom's numbering chooses among neighbours that are equally far.
    """
    if _most_per_target(pairs) <= min(neighbours):
        return pairs
    structure = batch.batch.cpu()
    return pairs.select(nearest(pairs, torch.tensor(neighbours)[structure], torch.tensor(ties)[structure]))


def _most_per_target(pairs: Pairs) -> int:
    return int(torch.bincount(pairs.target).max()) if len(pairs) else 0


def _original_rule(batch: AtomsBatch, settings: Sequence[JMPGraphSettings], pairs: Pairs) -> BoolArray:
    """Say of each pair whether its structure is symmetrised by the original rule."""
    original = np.array([one.symmetrise == "original" for one in settings])
    rule: BoolArray = original[batch.batch.cpu().numpy()[pairs.target.numpy()]]
    return rule


def _is_forward(source: IntArray, target: IntArray, offset: IntArray) -> BoolArray:
    """Say of each edge whether it has s < t, or s = t and a negative first non-zero offset component."""
    first, second, third = offset.T
    leading = np.where(first != 0, first, np.where(second != 0, second, third))
    forward: BoolArray = (source < target) | ((source == target) & (leading < 0))
    return forward


def _turned_forward(
    source: IntArray, target: IntArray, offset: IntArray, forward: BoolArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Replace each edge that is not forward by its reverse."""
    return (
        np.where(forward, source, target),
        np.where(forward, target, source),
        np.where(forward[:, None], offset, -offset),
    )


def _nearer_than(pairs: Pairs, distance: float) -> Pairs:
    if len(pairs) == 0 or float(pairs.distance.max()) < distance:
        return pairs
    return pairs.select(torch.nonzero(pairs.distance < distance).flatten())


def _touching_surface(pairs: Pairs, batch: AtomsBatch) -> Pairs:
    """Keep the pairs whose source or target has tag 1 (surface) or 2 (adsorbate)."""
    exposed = (batch.tags > 0).cpu()
    if bool(exposed.all()):
        return pairs
    return pairs.select(torch.nonzero(exposed[pairs.source] | exposed[pairs.target]).flatten())


def _by_degree(pairs: Pairs) -> Pairs:
    """Put targets with few edges first, as `Edges` wants it."""
    degree = torch.bincount(pairs.target)
    if len(degree) == 0 or int(degree.max()) * len(degree) == len(pairs):
        return pairs
    return pairs.take(order_by_size(pairs.target))


def _edges(pairs: Pairs) -> Edges:
    return Edges(pairs.source, pairs.target, pairs.offset)


def _capped_fraction(batch: AtomsBatch, candidates: Pairs, kept: Pairs) -> Float[Tensor, " b"]:
    """Return the fraction of candidates that are not kept, per structure; 0 if there are none."""
    if len(kept) == len(candidates):
        return torch.zeros(batch.num_structures, dtype=torch.float64)
    structure = batch.batch.cpu()
    all_pairs = torch.bincount(structure[candidates.target], minlength=batch.num_structures).double()
    kept_pairs = torch.bincount(structure[kept.target], minlength=batch.num_structures).double()
    return 1.0 - kept_pairs / all_pairs.clamp_min(1.0) - (all_pairs == 0).double()
