"""The structures that a pool, or the search for a student, begins with."""

from collections.abc import Sequence

from atomslim.atoms import find_pairs
from atomslim.inference.inputs import Frame, Input, naming_structure, read_inputs

NEAR = 0.1
"""Å: how far atoms on top of each other are looked for."""


def given_structures(inputs: Sequence[Input]) -> list[Frame]:
    """Read all; raises StructureError, which names file and record, also for atoms on top of each other."""
    frames = list(read_inputs(inputs))
    for frame in frames:
        with naming_structure(frame.name):
            find_pairs(frame.batch, NEAR)
    return frames
