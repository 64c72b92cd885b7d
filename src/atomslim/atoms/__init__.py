"""Structures: batches of atoms as plain tensors, and pairs of neighbours within a cutoff."""

from atomslim.atoms.batch import AtomsBatch, concatenate, from_ase, to_ase, validate
from atomslim.atoms.neighbours import Pairs, find_pairs, nearest, sorted_pairs, update_distances, within
from atomslim.atoms.sample import Sample, to_batch

__all__ = [
    "AtomsBatch",
    "Pairs",
    "Sample",
    "concatenate",
    "find_pairs",
    "from_ase",
    "nearest",
    "sorted_pairs",
    "to_ase",
    "to_batch",
    "update_distances",
    "validate",
    "within",
]
