"""The measurement of a check for one calculator and one structure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from numpy.typing import NDArray

from atomslim.errors import AtomslimError

FloatArray: TypeAlias = NDArray[np.float64]

IntArray: TypeAlias = NDArray[np.int64]

Settings: TypeAlias = Mapping[str, Any]
"""Numbers of a check as `checks.yaml` has them: steps, temperatures, strains."""


class NotDoneError(AtomslimError):
    """A check that cannot be made on a structure or with a calculator; the text says why."""

    seconds = 0.0
    """Wall-clock time that it took."""


class DoesNotFitError(NotDoneError):
    """A check that does not apply to a structure: torsions without a rotatable bond."""


@dataclass(frozen=True)
class Measurement:
    """Numbers that are judged, and curves that are drawn.

    A curve is (x, y) with its axes' labels in ``axes``.
    """

    numbers: dict[str, float]
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    axes: tuple[str, str] = ("", "")
    notes: tuple[str, ...] = ()
    """Parts that could not be done."""
    remarks: tuple[str, ...] = ()
    """Remarks on the numbers."""
    seconds: float = 0.0
    """Wall-clock time."""


Subject: TypeAlias = Any
"""What is measured: usually a structure; labelled structures or end points for the checks that need them."""

Measure: TypeAlias = Callable[[Calculator, Subject, Settings], Measurement]
"""Measures a copy of the structure; raises `NotDoneError` with the reason if it cannot."""

Contrast: TypeAlias = Callable[[Measurement, Measurement], dict[str, float]]
"""Numbers that need both measurements, the model's and the reference's: such as distances of curves."""


def with_calculator(atoms: Atoms, calculator: Calculator) -> Atoms:
    """Return a copy with the calculator, without constraints and labels."""
    copy = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, tags=atoms.get_tags())
    copy.calc = calculator
    return copy


_MEMORIES: "WeakKeyDictionary[Calculator, dict[Any, Any]]" = WeakKeyDictionary()


def memory_of(calculator: Calculator) -> dict[Any, Any]:
    """Return the cache that checks share for a calculator, as long as it exists."""
    return _MEMORIES.setdefault(calculator, {})


def energy_of(atoms: Atoms) -> float:
    """Return the energy in eV."""
    return float(atoms.get_potential_energy())


def stress_of(atoms: Atoms) -> FloatArray:
    """Return the stress (6,) in eV/Å³, ASE's sign and order; raises NotDoneError if the calculator gives none."""
    try:
        return np.asarray(atoms.get_stress(), dtype=np.float64)
    except (PropertyNotImplementedError, NotImplementedError) as error:
        energy_of(atoms)  # raises other errors of the calculator
        raise NotDoneError("the calculator gives no stress") from error


def repeated(atoms: Atoms, length: float) -> Atoms:
    """Repeat a periodic structure until every periodic side is at least so long (Å)."""
    sides = zip(atoms.cell.lengths(), atoms.pbc, strict=True)
    repeats = [max(1, int(np.ceil(length / side - 1e-6))) if periodic else 1 for side, periodic in sides]
    return atoms.repeat(repeats)


def height(atoms: Atoms, axis: int) -> float:
    """Return the distance (Å) between the two opposite faces of the cell along an axis."""
    others = np.delete(np.asarray(atoms.cell), axis, axis=0)
    normal = np.cross(*others) if np.any(others, axis=1).all() else atoms.cell[axis]
    return float(abs(atoms.cell[axis] @ normal) / np.linalg.norm(normal))


def imported(name: str) -> Any:
    """Import a module of the extra ``validate``; raises NotDoneError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise NotDoneError(f"this needs {name.partition('.')[0]}: pip install 'atomslim[validate]'") from error


def rattled(atoms: Atoms, amplitude: float, seed: int = 0) -> Atoms:
    """Return a copy with normally distributed displacements of so many Å."""
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).normal(0.0, amplitude, moved.positions.shape)
    return moved
