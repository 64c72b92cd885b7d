"""The repulsion of nuclei that come close: the screened Coulomb energy of Ziegler, Biersack and Littmark.

A pair of nuclei Z_i, Z_j at distance d has the energy

    E_ij = k Z_i Z_j / d · φ(d / a) · u₆(d / (s (r_i + r_j))),    a = 0.46850 Å / (Z_i^0.23 + Z_j^0.23),

with k = e²/4πε₀, φ the universal screening function (J. F. Ziegler, J. P. Biersack, U. Littmark, *The Stopping and
Range of Ions in Solids*, 1985) and u₆ the polynomial envelope of `reach`, at whose end the energy and its first two
derivatives vanish. r are covalent radii, and s is the share of their sum at which the envelope ends.
"""

import math

import torch
from ase import units
from ase.data import covalent_radii
from jaxtyping import Float, Int
from torch import Tensor

from atomslim.families.jmp.gemnet_oc.geometry import PaddedEdges
from atomslim.families.jmp.gemnet_oc.graphs import Edges
from atomslim.families.jmp.gemnet_oc.reach import envelope

COULOMB = units._e * 1e10 / (4 * math.pi * units._eps0)  # noqa: SLF001 - ase's names of CODATA's constants
"""e²/4πε₀ in eV·Å."""

SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
"""Weights and rates of the exponentials of φ."""


def repulsion_energies(
    vectors: Float[Tensor, "e 3"], edges: Edges, numbers: Int[Tensor, " n"], share: float
) -> Float[Tensor, " n"]:
    """Return the energies of atoms in eV, of each pair one half: the edges hold both directions of it."""
    radii = torch.as_tensor(covalent_radii, device=vectors.device).to(vectors)[numbers]  # (n,)
    source, target = edges.source, edges.target
    end = share * (radii[source] + radii[target])  # (e,)
    if not isinstance(edges, PaddedEdges):  # tables of traced programs have one length; few pairs are ever so near
        near = torch.nonzero(vectors.detach().square().sum(-1) < end.square()).squeeze(1)
        vectors, source, target, end = vectors[near], source[near], target[near], end[near]
    charge = numbers.to(vectors)  # (n,)
    distance = torch.linalg.vector_norm(vectors, dim=-1)  # (e,)
    fading = envelope((distance / end).clamp(max=1.0), power=6)  # (e,)
    reduced = distance * (charge[source] ** 0.23 + charge[target] ** 0.23) / 0.46850  # (e,)
    screening = sum(weight * torch.exp(-rate * reduced) for weight, rate in SCREENING)  # (e,)
    pairs = COULOMB * charge[source] * charge[target] / distance * screening * fading  # (e,)
    return torch.zeros_like(charge).index_add(0, target, pairs / 2)
