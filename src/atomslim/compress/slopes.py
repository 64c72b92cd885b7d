"""How fast a model's features change when atoms move: the basis of the forces of its readout.

A direction d moves all atoms of a batch, and, if asked to, strains its cells. With features f of n atoms,

    slope = ∂f/∂d,   −F · d + V σ : ε = ∂E/∂d = Σ_atoms ∂E/∂f · slope

so that forces along d follow from features and slopes, whatever the readout. Slopes come from two backward passes: the
first one, of f · u, is linear in u, and differentiated by u along d; it is shared by all directions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.models.block_model import BlockModel
from atomslim.models.modes import without_parameter_gradients
from atomslim.models.outputs import strained


@dataclass(frozen=True)
class Direction:
    """A displacement of every atom and a symmetric strain of every structure, and the weight of each structure."""

    displacement: Float[Tensor, "n 3"]
    strain: Float[Tensor, "b 3 3"]
    weight: Float[Tensor, " b"]

    def along(self, batch: AtomsBatch, forces: Tensor, virial: Tensor) -> Float[Tensor, " b"]:
        """Return the derivative of energies with these forces (n, 3) and ∂E/∂ε (b, 3, 3)."""
        by_atom = (forces.to(self.displacement) * self.displacement).sum(1)
        moved = by_atom.new_zeros(batch.num_structures).index_add(0, batch.batch, by_atom)
        return (virial.to(self.strain) * self.strain).sum((1, 2)) - moved


def random_directions(
    batch: AtomsBatch, count: int, generator: torch.Generator, *, stress: float = 0.0
) -> list[Direction]:
    """Return orthogonal directions, random ones where a structure has more than ``count`` degrees of freedom.

    They are scaled so that the weighted sum of squared derivatives is, for all directions together exactly and for
    random ones in expectation, the mean square of force components plus ``stress`` times that of ∂E/∂ε per atom (eV).
    """
    periodic = batch.pbc.any(-1) & (torch.linalg.det(batch.cell).abs() > 0)
    parts = [
        _of_structure(int(natoms), count, generator, stress if bool(strains) else 0.0)
        for natoms, strains in zip(batch.natoms, periodic, strict=True)
    ]
    device = batch.positions.device
    return [
        Direction(
            torch.cat([moves[index] for moves, _, _ in parts]).to(device),
            torch.stack([strains[index] for _, strains, _ in parts]).to(device),
            torch.stack([weights[index] for _, _, weights in parts]).to(device),
        )
        for index in range(count)
    ]


def features_and_slopes(
    model: BlockModel, batch: AtomsBatch, topology: object, directions: Sequence[Direction]
) -> list[tuple[Tensor, ...]]:
    """Return for each direction the slopes of the features of atoms that the readout takes, (n, width) by block."""
    blocks = model.readout_maps()["node"].blocks

    def read(moving: AtomsBatch) -> list[Tensor]:
        node = model.features(moving, topology, edges=False).node
        return [node[block] for block in blocks]

    return slopes_of(read, model, batch, directions)


def slopes_of(
    computed: Callable[[AtomsBatch], Sequence[Tensor]],
    model: BlockModel,
    batch: AtomsBatch,
    directions: Sequence[Direction],
) -> list[tuple[Tensor, ...]]:
    """Return for each direction the slopes of a function of a batch."""
    with torch.enable_grad(), without_parameter_gradients(model):
        moving, strain = strained(batch)
        read = computed(moving)
        moved = [features for features in read if features.requires_grad]
        if not moved:
            return [tuple(torch.zeros_like(features) for features in read) for _ in directions]
        cotangents = [torch.zeros_like(features).requires_grad_() for features in moved]
        wanted = [moving.positions] if strain is None else [moving.positions, strain]
        gradients = torch.autograd.grad(moved, wanted, cotangents, create_graph=True, materialize_grads=True)
        return [_slopes(read, gradients, cotangents, direction) for direction in directions]


def _slopes(
    read: Sequence[Tensor], gradients: Sequence[Tensor], cotangents: Sequence[Tensor], direction: Direction
) -> tuple[Tensor, ...]:
    along = [direction.displacement, direction.strain][: len(gradients)]
    made = iter(
        torch.autograd.grad(
            gradients,
            cotangents,
            [values.to(gradient) for values, gradient in zip(along, gradients, strict=True)],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
    )
    return tuple(next(made).detach() if features.requires_grad else torch.zeros_like(features) for features in read)


def _of_structure(
    natoms: int, count: int, generator: torch.Generator, stress: float
) -> tuple[Float[Tensor, "count n 3"], Float[Tensor, "count 3 3"], Float[Tensor, " count"]]:
    """Return displacements, strains and weights of one structure; beyond its degrees of freedom they are zero."""
    size = 3 * natoms + (6 if stress else 0)
    there = min(count, size)
    frame = torch.zeros(size, count, dtype=torch.float64)
    drawn = torch.randn(size, there, dtype=torch.float64, generator=generator)
    frame[:, :there] = torch.linalg.qr(drawn).Q
    displacements = frame[: 3 * natoms].T.reshape(count, natoms, 3) / (3 * natoms) ** 0.5
    strains = torch.zeros(count, 3, 3, dtype=torch.float64)
    if stress:
        strains = torch.einsum("vc,vij->cij", frame[3 * natoms :], _STRAINS) * (stress / 6) ** 0.5 / natoms
    weights = torch.zeros(count, dtype=torch.float64)
    weights[:there] = size / there
    return displacements, strains, weights


def _strains() -> Float[Tensor, "6 3 3"]:
    """Return the six symmetric strains of a cell, each of norm 1."""
    found = torch.zeros(6, 3, 3, dtype=torch.float64)
    for index, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        found[index, i, j] = found[index, j, i] = 1.0 if i == j else 0.5**0.5
    return found


_STRAINS = _strains()
