"""One labelled structure as plain numpy: what every reader of a dataset yields and the trainer batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import ArrayLike, NDArray

from atomslim.arguments import Explained, explained
from atomslim.atoms.batch import DEFAULT_TAG, AtomsBatch, from_ase
from atomslim.errors import StructureError, one_line
from atomslim.words import number_of

ASE_RESULTS = ("energy", "forces", "stress")
"""Targets that ASE keeps in a calculator; the others go to `atoms.info` under their own names."""

ENERGIES = "energies"
"""Atomic energies as a teacher partitions them: two teachers need not do it the same way."""

HESSIAN = "hessian"
"""A row of the second derivatives of the energy: a direction u of all atoms, and the Hessian times u."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sample(metaclass=Explained):
    """One structure of n atoms with its labels; picklable, and never modified.

    | field | shape, type | unit, meaning |
    |---|---|---|
    | numbers | (n,) int64 | atomic numbers |
    | positions | (n, 3) float64 | Å |
    | cell | (3, 3) float64 | Å, rows are lattice vectors; zeros when not periodic |
    | pbc | (3,) bool | periodic along this lattice vector? |
    | tags | (n,) int64 | 0 sub-surface, 1 surface, 2 adsorbate, and 2 where the data has none |
    | fixed | (n,) bool | held in place in the calculation it comes from |
    | targets | dict of float64 arrays | "energy" () eV, "forces" (n, 3) eV/Å, "stress" (3, 3) eV/Å³ with ASE's sign, |
    | | | "energies" (n,) eV of atoms; "hessian" (n, 6): a direction, and the Hessian times it in eV/Å²; |
    | | | scalar properties () under their own names, in the unit their dataset declares |
    | name | text | "file, record 17", for messages |
    | group | text | molecule, system or reaction of a frame, for splits by group; "" if there is none |
    | ignored | text | charge or spin in the file, which models ignore; containers do not keep it |
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    tags: NDArray[np.int64]
    fixed: NDArray[np.bool_]
    targets: dict[str, NDArray[np.float64]]
    name: str = ""
    group: str = ""
    ignored: str = ""

    def __repr__(self) -> str:
        name = f" {self.name}" if self.name else ""
        labels = f" with {', '.join(self.targets)}" if self.targets else " without labels"
        return f"Sample{name}: {number_of(len(self), 'atom')}{labels}"

    def __len__(self) -> int:
        """Count the atoms n."""
        return len(self.numbers)

    @property
    def has_volume(self) -> bool:
        """Whether it is periodic and its cell has a volume, without which there is no stress."""
        return bool(self.pbc.any()) and bool(abs(np.linalg.det(self.cell)) > 0.0)

    def label(self, name: str) -> NDArray[np.float64] | None:
        """Return a target, or None where there is none; stress without a volume is meaningless and left out."""
        return None if name == "stress" and not self.has_volume else self.targets.get(name)

    @classmethod
    @explained
    def create(  # noqa: PLR0913 -- a structure has this many parts
        cls,
        numbers: ArrayLike,
        positions: ArrayLike,
        targets: Mapping[str, ArrayLike],
        *,
        cell: ArrayLike | None = None,
        pbc: ArrayLike | None = None,
        tags: ArrayLike | None = None,
        fixed: ArrayLike | None = None,
        name: str = "",
        group: str = "",
    ) -> "Sample":
        """Convert the contents of a file to the field types, filling in defaults.

        No cell: zeros. No pbc: periodic in all directions with a cell, in none without. No tags: 2. No fixed: none.
        Shapes are brought into order where that is unambiguous (a (1, 3, 3) cell, a (1,) energy, a stress of six
        components in Voigt's order).

        Raises:
            StructureError: arrays whose shapes do not fit each other; names `name`.

        """
        z = _shaped(numbers, (np.size(numbers),), "numbers", name).astype(np.int64)
        n = len(z)
        return cls(
            numbers=z,
            positions=_shaped(positions, (n, 3), "positions", name),
            cell=np.zeros((3, 3)) if cell is None else _shaped(cell, (3, 3), "cell", name),
            pbc=_flags(cell is not None if pbc is None else pbc, 3, "pbc", name),
            tags=np.full(n, DEFAULT_TAG) if tags is None else _shaped(tags, (n,), "tags", name).astype(np.int64),
            fixed=_flags(False if fixed is None else fixed, n, "fixed", name),
            targets={key: _target(key, value, n, name) for key, value in targets.items()},
            name=name,
            group=group,
        )

    @classmethod
    @explained
    def from_ase(cls, atoms: Atoms, targets: Mapping[str, ArrayLike], *, name: str = "", group: str = "") -> "Sample":
        """Take the structure (positions in Å, cell, tags, FixAtoms) from ASE and the labels from `targets`.

        As in a batch, tags that are all zero mean none. The results of the atoms' calculator are not used.
        """
        batch = from_ase(atoms)
        return cls.create(
            atoms.numbers,
            atoms.positions,
            targets,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            tags=batch.tags.numpy(),
            fixed=batch.fixed.numpy(),
            name=name,
            group=group,
        )

    def to_ase(self) -> Atoms:
        """Convert to ASE atoms: energy, forces, stress and energies as calculator results, other targets in `info`.

        A row of the Hessian, which is per atom, becomes an array of the atoms.
        """
        atoms = Atoms(
            numbers=self.numbers,
            positions=self.positions,
            cell=self.cell,
            pbc=self.pbc,
            tags=self.tags,
            constraint=FixAtoms(mask=self.fixed) if self.fixed.any() else None,
        )
        if HESSIAN in self.targets:
            atoms.set_array(HESSIAN, self.targets[HESSIAN])
        others = self.targets.keys() - {*ASE_RESULTS, ENERGIES, HESSIAN}
        atoms.info |= {key: float(value) for key, value in self.targets.items() if key in others}
        results = {key: self.targets[key] for key in (*ASE_RESULTS, ENERGIES) if key in self.targets}
        if "energy" in results:
            results["energy"] = results["energy"][()]
        if "stress" in results:
            results["stress"] = full_3x3_to_voigt_6_stress(results["stress"])
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms


def to_batch(samples: Sequence[Sample]) -> AtomsBatch:
    """Put the structures of samples side by side, float64 on the CPU; raises StructureError when there is none."""
    if not samples:
        raise StructureError("no structures: give at least one")
    sizes = [len(sample) for sample in samples]
    return AtomsBatch(
        positions=torch.from_numpy(np.concatenate([sample.positions for sample in samples])),
        numbers=torch.from_numpy(np.concatenate([sample.numbers for sample in samples])),
        cell=torch.from_numpy(np.stack([sample.cell for sample in samples])),
        pbc=torch.from_numpy(np.stack([sample.pbc for sample in samples])),
        tags=torch.from_numpy(np.concatenate([sample.tags for sample in samples])),
        fixed=torch.from_numpy(np.concatenate([sample.fixed for sample in samples])),
        batch=torch.from_numpy(np.repeat(np.arange(len(samples)), sizes)),
    )


def _target(key: str, value: ArrayLike, natoms: int, name: str) -> NDArray[np.float64]:
    shapes: dict[str, tuple[int, ...]] = {
        "forces": (natoms, 3),
        "stress": (3, 3),
        ENERGIES: (natoms,),
        HESSIAN: (natoms, 6),
    }
    if key == "stress" and np.size(value) == 6:
        value = voigt_6_to_full_3x3_stress(np.reshape(value, 6))
    return _shaped(value, shapes.get(key, ()), key, name)


def _shaped(value: ArrayLike, shape: tuple[int, ...], field: str, name: str) -> NDArray[np.float64]:
    """Give a new, contiguous float64 array of a shape; a reader's buffers may be reused or unmapped later."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StructureError(f"{name or 'structure'}: {field} are not numbers: {one_line(error)}") from error
    squeezed = tuple(size for size in array.shape if size != 1)
    if squeezed != tuple(size for size in shape if size != 1):
        raise StructureError(
            f"{name or 'structure'}: {field} has the shape {array.shape} where {shape} is expected: check the file"
        )
    return np.ascontiguousarray(array.reshape(shape)) if shape else array.reshape(())


def _flags(value: ArrayLike, size: int, field: str, name: str) -> NDArray[np.bool_]:
    array = np.asarray(value).astype(np.bool_).reshape(-1)
    if array.size not in {1, size}:
        raise StructureError(f"{name or 'structure'}: {field} has {array.size} values where {size} are expected")
    return np.array(np.broadcast_to(array, (size,)))
