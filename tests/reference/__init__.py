"""The plain statement of what the JMP / GemNet-OC model means, for tests only.

Every triplet and every quadruplet is listed, gathered and summed. Nothing here is shared with the package: weights are
read by JMP's own checkpoint keys, and every size is read off their shapes. Meant to be read next to the equations.
"""

from reference.bases import Bases, compute_bases, cosine, dihedral, dihedral_cosine, legendre, radial_basis
from reference.enumerate import (
    Graph,
    Inputs,
    Quadruplets,
    Triplets,
    a2e_triplets,
    e2a_triplets,
    e2e_triplets,
    quadruplets,
)
from reference.interactions import (
    atom_to_atom,
    atom_to_edge,
    edge_to_atom,
    edge_to_edge,
    quadruplet,
    sum_outer,
)
from reference.model import final_mlp, forward, head, interaction_block, output_block
from reference.weights import GOLDEN, golden_inputs, golden_state, keys_from_config

__all__ = [
    "GOLDEN",
    "Bases",
    "Graph",
    "Inputs",
    "Quadruplets",
    "Triplets",
    "a2e_triplets",
    "atom_to_atom",
    "atom_to_edge",
    "compute_bases",
    "cosine",
    "dihedral",
    "dihedral_cosine",
    "e2a_triplets",
    "e2e_triplets",
    "edge_to_atom",
    "edge_to_edge",
    "final_mlp",
    "forward",
    "golden_inputs",
    "golden_state",
    "head",
    "interaction_block",
    "keys_from_config",
    "legendre",
    "output_block",
    "quadruplet",
    "quadruplets",
    "radial_basis",
    "sum_outer",
]
