"""The structures from which a pool, or the search for a student, starts."""

from collections.abc import Sequence

from atomslim.atoms import find_pairs
from atomslim.inference.inputs import Frame, Input, naming_structure, read_inputs

NEAR = 0.1
"""Å: range of the search for overlapping atoms."""


def given_structures(inputs: Sequence[Input]) -> list[Frame]:
    """Read all; raises StructureError, which names file and record, also for overlapping atoms."""
    frames = list(read_inputs(inputs))
    for frame in frames:
        with naming_structure(frame.name):
            find_pairs(frame.batch, NEAR)
    return frames
