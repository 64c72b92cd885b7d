"""Energies and forces of extended tight binding, through tblite: from scratch for every structure, on one thread.

The energy is the electronic free energy at the method's electronic temperature, of which the forces are the gradient.
Labels that no potential should learn from are refused: not converged, atoms inside each other, forces beyond 25 eV/Å.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from ase.data import covalent_radii
from numpy.typing import NDArray

from atomslim.atoms.sample import Sample
from atomslim.errors import ConfigError

LARGEST_FORCE = 25.0
"""eV/Å: a structure with a longer force on any atom is dropped, unless it is meant to have some."""

CLOSEST = 0.5
"""Structures with a distance below this part of the sum of two covalent radii are dropped before they are labelled."""

ENERGY_WINDOW = (-5.0, 15.0)
"""eV: a path's energies lie here relative to its start; what is beyond is an artefact of the method."""

_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Dropped(Exception):  # noqa: N818 -- no error: some structures cannot be labelled, and are counted
    """A structure that is left out; the text is the reason, the same for all of its kind."""


@dataclass(frozen=True)
class Method:
    """A level of theory."""

    name: Literal["GFN1-xTB", "GFN2-xTB"]
    temperature: float = 300.0
    """K, of the electrons."""
    accuracy: float = 1.0
    """Factor on tblite's thresholds of convergence (1e-6 Hartree, 2e-5 e)."""

    def __str__(self) -> str:
        """Name it as a table does."""
        return f"{self.name}, electrons at {self.temperature:g} K"

    def calculator(self) -> Any:
        """Make an ASE calculator; raises ConfigError where tblite is not installed."""
        return _tblite().TBLite(
            method=self.name, electronic_temperature=self.temperature, accuracy=self.accuracy, verbosity=0
        )

    def results(self, atoms: Atoms) -> dict[str, Any]:
        """Energy (eV), forces (n, 3) (eV/Å, of fixed atoms too) and, in a cell, stress (6,) (eV/Å³).

        Raises:
            Dropped: the charges did not converge, or a result is not finite.

        """
        copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        calculator = self.calculator()
        try:
            calculator.calculate(copy, ["energy", "forces"])
        except CalculationFailed as error:
            raise Dropped("charges did not converge") from error
        found: Mapping[str, Any] = calculator.results
        if not np.isfinite(found["energy"]) or not np.isfinite(found["forces"]).all():
            raise Dropped("result not finite")
        return {name: found[name] for name in ("energy", "forces", "stress") if name in found}


@dataclass
class Labeller:
    """Labels structures of one group, screens them, and counts what it drops."""

    method: Method
    group: str = ""
    stress: bool = False
    """Whether the stress is kept as well; it is where finite differences confirm it."""
    reference: float | None = None
    """Energy (eV) of the start of a path, for the window of energies."""
    dropped: Counter[str] = field(default_factory=Counter)
    largest_force: float = LARGEST_FORCE
    """eV/Å: a structure with a longer force on any atom is dropped."""
    limit: float = np.inf
    """Number dropped after which the group is given up."""

    def __call__(self, atoms: Atoms) -> Sample | None:
        """Label a structure; None where it is dropped. Raises Dropped once too many have been."""
        try:
            require_apart(atoms)
            found = self.method.results(atoms)
            self._require_sound(found)
        except Dropped as reason:
            self.dropped[str(reason)] += 1
            if self.dropped.total() >= self.limit:
                raise Dropped("group given up") from reason
            return None
        kept = {name: value for name, value in found.items() if name != "stress" or self.stress}
        return Sample.from_ase(atoms, kept, group=self.group)

    def _require_sound(self, found: Mapping[str, Any]) -> None:
        if largest(found["forces"]) > self.largest_force:
            raise Dropped(f"force above {self.largest_force:g} eV/Å")
        low, high = ENERGY_WINDOW
        if self.reference is not None and not low < found["energy"] - self.reference < high:
            raise Dropped(f"energy outside {low:g} to {high:g} eV")


def largest(forces: NDArray[np.float64]) -> float:
    """Length of the longest force."""
    return float(np.linalg.norm(forces, axis=1).max())


def require_apart(atoms: Atoms) -> None:
    """Raise Dropped where two atoms, images included, are much nearer than a bond."""
    radii = covalent_radii[atoms.numbers]
    distance = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    np.fill_diagonal(distance, np.inf)
    if (distance < CLOSEST * (radii[:, None] + radii)).any():
        raise Dropped("atoms too close")


def labels_package(name: str) -> Any:
    """Import a package of the `labels` extra; raises ConfigError saying how to install it where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        what = name.partition(".")[0]
        raise ConfigError(f"this needs the package {what}: pip install 'atomslim[labels]'") from error


@cache
def _tblite() -> Any:
    """Import tblite with one thread: it is slower with more for structures this small, and processes share the work."""
    with _environment(_THREADS):
        return labels_package("tblite.ase")


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
