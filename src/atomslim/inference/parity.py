"""Whether another program gets the calculator's results; checked before anything is served."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from atomslim.errors import AtomslimError, ConfigError, one_line
from atomslim.inference.calculator_process import results

TOLERANCE = 1e-5
"""eV per atom, eV/Å and eV, and the same relative to the largest number, since sums on accelerators do not repeat."""


def structure_alone(atoms: Atoms) -> Atoms:
    """Return a copy without constraints and velocities, which are up to the engine, and without a calculator."""
    bare: Atoms = atoms.copy()
    bare.set_constraint()
    bare.arrays.pop("momenta", None)
    return bare


def expected_of(calculator: AseCalculator, atoms: Atoms) -> dict[str, Any]:
    """Return energy (eV), forces (n, 3; eV/Å) and, where there is a stress, virial (3, 3; eV) of a structure.

    The virial is −V σ, positive under pressure. Raises ConfigError for a calculator without forces, AtomslimError for
    one that fails.
    """
    try:
        found = results(calculator, atoms)
    except AtomslimError:
        raise
    except Exception as error:
        raise AtomslimError(f"{atoms.symbols}: the calculator fails for this structure: {one_line(error)}") from error
    if "forces" not in found:
        raise ConfigError("the model has no forces, which an engine needs: choose another task")
    expected = {name: found[name] for name in ("energy", "forces")}
    if "stress" in found:
        expected["virial"] = virial_of(atoms, found["stress"])
    return expected


def virial_of(atoms: Atoms, stress: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return −V σ (3, 3) in eV for a stress in eV/Å³ in Voigt order."""
    virial: NDArray[np.float64] = -atoms.get_volume() * voigt_6_to_full_3x3_stress(stress)
    return virial


def require_parity(engine: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise AtomslimError where an engine gets other numbers than the calculator gives."""
    for name, value in expected.items():
        wanted, given = np.asarray(value), np.asarray(found[name])
        atoms = len(expected["forces"]) if name == "energy" else 1
        allowed = TOLERANCE * atoms + (1e-9 if name == "energy" else TOLERANCE) * float(np.abs(wanted).max())
        off = float(np.abs(given - wanted).max()) if given.shape == wanted.shape else np.inf
        if not off <= allowed:
            raise AtomslimError(
                f"{engine} gets another {name} than the calculator gives, by {off:.1e} (eV, Å), more than "
                f"{allowed:.1e}: nothing is run; use another version of it"
            )
