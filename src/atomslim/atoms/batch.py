"""A batch of structures as plain tensors, its conversion from and to ASE, and the checks a structure must pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from atomslim.arguments import Explained, checked
from atomslim.errors import StructureError
from atomslim.words import number_of

LAST_ELEMENT = 118
"""Oganesson: the heaviest element with a name."""

DEFAULT_TAG = 2
"""The tag of an atom of a structure without tags: everything counts as adsorbate, as in JMP."""

FLAT_CELL = 1e-6
"""A cell is flat when its volume (area, length) is below this fraction of the product of its vectors' lengths."""

SHORTEST_VECTOR = 0.01
"""Å: along a shorter lattice vector every atom would lie on top of its own image."""

FARTHEST = 1e9
"""Å: farther from the origin, positions cannot be resolved to 1e-6 Å, and their sums and differences overflow."""

LONGEST_VECTOR = 1e5
"""Å: a longer lattice vector is not a cell but a mistake, and searching it for neighbours would take minutes."""


@dataclass(frozen=True, repr=False)
class AtomsBatch(metaclass=Explained):
    """Several structures side by side: n atoms in b structures.

    | field | shape | unit, meaning |
    |---|---|---|
    | positions | (n, 3) | Å, as given: atoms may lie outside the cell |
    | numbers | (n,) | atomic numbers |
    | cell | (b, 3, 3) | Å, rows are lattice vectors; rows of non-periodic directions are carried, never used |
    | pbc | (b, 3) | periodic along this lattice vector? |
    | tags | (n,) | 0 sub-surface, 1 surface, 2 adsorbate |
    | fixed | (n,) | held in place in the calculation it comes from |
    | batch | (n,) | index of the atom's structure, ascending |
    """

    positions: Float[Tensor, "n 3"]
    numbers: Int[Tensor, " n"]
    cell: Float[Tensor, "b 3 3"]
    pbc: Bool[Tensor, "b 3"]
    tags: Int[Tensor, " n"]
    fixed: Bool[Tensor, " n"]
    batch: Int[Tensor, " n"]

    def __repr__(self) -> str:
        dtype = str(self.positions.dtype).removeprefix("torch.")
        size = f"{number_of(self.num_structures, 'structure')}, {number_of(self.num_atoms, 'atom')}"
        return f"AtomsBatch: {size}, {dtype} on {self.device}"

    @property
    def num_structures(self) -> int:
        """Number of structures b."""
        return self.cell.shape[0]

    @property
    def num_atoms(self) -> int:
        """Number of atoms n of all structures together."""
        return self.positions.shape[0]

    @property
    def natoms(self) -> Int[Tensor, " b"]:
        """Number of atoms of each structure."""
        return self.batch.new_zeros(self.num_structures).index_add(0, self.batch, torch.ones_like(self.batch))

    @property
    def device(self) -> torch.device:
        """Device of the positions (all fields share it)."""
        return self.positions.device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "AtomsBatch":
        """Move every field to `device`; convert positions and cell, and only these, to `dtype`."""
        return AtomsBatch(
            positions=self.positions.to(device=device, dtype=dtype),
            numbers=self.numbers.to(device=device),
            cell=self.cell.to(device=device, dtype=dtype),
            pbc=self.pbc.to(device=device),
            tags=self.tags.to(device=device),
            fixed=self.fixed.to(device=device),
            batch=self.batch.to(device=device),
        )

    def structure(self, index: int) -> "AtomsBatch":
        """Return structure `index` (negative: from the end) as a batch of one; raises IndexError when absent."""
        index = range(self.num_structures)[index]
        end = int((self.batch <= index).sum())
        start = int((self.batch < index).sum())
        return AtomsBatch(
            positions=self.positions[start:end],
            numbers=self.numbers[start:end],
            cell=self.cell[index : index + 1],
            pbc=self.pbc[index : index + 1],
            tags=self.tags[start:end],
            fixed=self.fixed[start:end],
            batch=torch.zeros_like(self.batch[start:end]),
        )


def concatenate(batches: Sequence[AtomsBatch]) -> AtomsBatch:
    """Join batches into one, in order; raises StructureError when there is none."""
    if not batches:
        raise StructureError("no structures: give at least one")
    sizes = [batch.num_structures for batch in batches]
    starts = [sum(sizes[:position]) for position in range(len(sizes))]
    shifted = [replace(batch, batch=batch.batch + start) for batch, start in zip(batches, starts, strict=True)]
    return AtomsBatch(
        positions=torch.cat([batch.positions for batch in shifted]),
        numbers=torch.cat([batch.numbers for batch in shifted]),
        cell=torch.cat([batch.cell for batch in shifted]),
        pbc=torch.cat([batch.pbc for batch in shifted]),
        tags=torch.cat([batch.tags for batch in shifted]),
        fixed=torch.cat([batch.fixed for batch in shifted]),
        batch=torch.cat([batch.batch for batch in shifted]),
    )


@checked
def from_ase(atoms: Atoms | Sequence[Atoms], dtype: torch.dtype = torch.float64) -> AtomsBatch:
    """Convert ASE atoms (Å) to a batch on the CPU, with positions and cell in `dtype`.

    ASE has no way to say "no tags": a structure whose tags are all zero gets tag 2 for every atom.
    `fixed` comes from FixAtoms constraints; other constraints are ignored. Raises StructureError for an empty list.
    """
    if isinstance(atoms, Atoms):
        return _one_from_ase(atoms, dtype)
    return concatenate([_one_from_ase(structure, dtype) for structure in atoms])


@checked
def to_ase(batch: AtomsBatch) -> list[Atoms]:
    """Convert a batch to ASE atoms, one per structure, with tags and a FixAtoms constraint where atoms are fixed."""
    return [_one_to_ase(batch.structure(index).to("cpu")) for index in range(batch.num_structures)]


def validate(batch: AtomsBatch) -> None:
    """Raise StructureError, naming structure and atom, for what no model can take.

    That is: a structure without atoms, an atomic number outside 1..118, a position or cell that is not finite, a
    position farther than 1e9 Å from the origin, or a cell without volume, or longer than 1e5 Å, along its periodic
    directions. Atoms on top of each other are refused where pairs are found.
    """
    _require_atoms(batch)
    _require_elements(batch)
    _require_finite(batch)
    _require_volume(batch)


def _one_from_ase(atoms: Atoms, dtype: torch.dtype) -> AtomsBatch:
    tags = np.asarray(atoms.get_tags(), dtype=np.int64)
    return AtomsBatch(
        positions=torch.tensor(atoms.positions, dtype=dtype),
        numbers=torch.tensor(atoms.numbers, dtype=torch.int64),
        cell=torch.tensor(atoms.cell.array, dtype=dtype)[None],
        pbc=torch.tensor(atoms.pbc, dtype=torch.bool)[None],
        tags=torch.from_numpy(tags if tags.any() else np.full_like(tags, DEFAULT_TAG)),
        fixed=torch.from_numpy(_fixed_atoms(atoms)),
        batch=torch.zeros(len(atoms), dtype=torch.int64),
    )


def _fixed_atoms(atoms: Atoms) -> NDArray[np.bool_]:
    fixed = np.zeros(len(atoms), dtype=np.bool_)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            _require_there(constraint.index, len(atoms))
            fixed[constraint.index] = True
    return fixed


def _require_there(fixed: NDArray[np.int64], natoms: int) -> None:
    if len(fixed) and not -natoms <= fixed.min() <= fixed.max() < natoms:
        raise StructureError(f"structure 0: a constraint fixes atom {fixed.max()} of {natoms}: correct or remove it")


def _one_to_ase(structure: AtomsBatch) -> Atoms:
    fixed = structure.fixed.numpy()
    return Atoms(
        numbers=structure.numbers.numpy(),
        positions=structure.positions.detach().double().numpy(),
        cell=structure.cell[0].detach().double().numpy(),
        pbc=structure.pbc[0].numpy(),
        tags=structure.tags.numpy(),
        constraint=FixAtoms(mask=fixed) if fixed.any() else None,
    )


def _require_atoms(batch: AtomsBatch) -> None:
    if batch.num_structures == 1 and batch.num_atoms > 0:
        return
    empty = batch.natoms == 0
    if bool(empty.any()):
        raise StructureError(f"structure {_first(empty)} has no atoms: remove it")


def _require_elements(batch: AtomsBatch) -> None:
    unknown = (batch.numbers < 1) | (batch.numbers > LAST_ELEMENT)
    if bool(unknown.any()):
        atom = _first(unknown)
        raise StructureError(
            f"{_atom_label(batch, atom)}: atomic number {int(batch.numbers[atom])} is not an element "
            f"(1 to {LAST_ELEMENT}): correct it or remove the structure"
        )


def _require_finite(batch: AtomsBatch) -> None:
    if not bool(torch.isfinite(batch.positions).all()):
        atom = _first(~torch.isfinite(batch.positions).all(dim=1))
        raise StructureError(
            f"{_atom_label(batch, atom)}: position {batch.positions[atom].tolist()} is not finite: "
            "correct it or remove the structure"
        )
    if batch.num_atoms and float(batch.positions.detach().abs().max()) > FARTHEST:
        atom = _first((batch.positions.abs() > FARTHEST).any(dim=1))
        raise StructureError(
            f"{_atom_label(batch, atom)}: position {batch.positions[atom].tolist()} is farther than {FARTHEST:.0e} Å "
            "from the origin: correct it or move the structure"
        )
    if not bool(torch.isfinite(batch.cell).all()):
        index = _first(~torch.isfinite(batch.cell).all(dim=2).all(dim=1))
        raise StructureError(f"structure {index}: the cell is not finite: correct it or remove the structure")


def _require_volume(batch: AtomsBatch) -> None:
    if not bool(batch.pbc.any()):
        return
    length = batch.cell.detach().norm(dim=2)
    long = ((length > LONGEST_VECTOR) & batch.pbc).any(dim=1)
    if bool(long.any()):
        raise StructureError(
            f"structure {_first(long)}: a lattice vector is longer than {LONGEST_VECTOR:.0f} Å: "
            "correct it or set pbc to false along it"
        )
    flat = ((length < SHORTEST_VECTOR) & batch.pbc).any(dim=1) | (_relative_volume(batch) < FLAT_CELL)
    if bool(flat.any()):
        index = _first(flat)
        axes = ", ".join(str(axis) for axis in torch.nonzero(batch.pbc[index]).flatten().tolist())
        raise StructureError(
            f"structure {index}: the cell has no volume along its periodic directions ({axes}): "
            "correct the lattice vectors or set pbc to false"
        )


def _relative_volume(batch: AtomsBatch) -> Float[Tensor, " b"]:
    """Volume spanned by the periodic vectors over the product of their lengths (1 where none is periodic).

    The squared volume of a set of vectors is the determinant of its Gram matrix; non-periodic ones count as a unit
    vector at right angles to all others.
    """
    cell = batch.cell.detach().double()
    lengths = torch.linalg.vector_norm(cell, dim=2, keepdim=True)
    unit = cell / lengths.clamp_min(torch.finfo(cell.dtype).tiny)
    periodic = batch.pbc[:, :, None] & batch.pbc[:, None, :]
    identity = torch.eye(3, dtype=cell.dtype, device=cell.device)
    gram = torch.where(periodic, unit @ unit.transpose(1, 2), identity)
    squared: Tensor = torch.linalg.det(gram)
    return squared.clamp_min(0.0).sqrt()


def _first(mask: Bool[Tensor, " m"]) -> int:
    return int(torch.nonzero(mask)[0])


def _atom_label(batch: AtomsBatch, atom: int) -> str:
    """Say where an atom is: its structure, and its number within that structure."""
    structure = int(batch.batch[atom])
    first = int((batch.batch < structure).sum())
    return f"structure {structure}, atom {atom - first}"
