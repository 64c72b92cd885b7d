"""Unit names as datasets write them, and a check that tells a total energy in another unit from one in the right unit.

A molecule's total energy is its atoms' total energies to within 1 %, whatever the functional, as long as all electrons
are in the calculation (no pseudopotentials). So the ratio of the two shows the unit of an energy in a file.
"""

import re

import numpy as np
from ase import units
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from atomslim.errors import DataError

FACTORS = {
    "ev": 1.0,
    "mev": 1e-3,
    "ha": units.Hartree,
    "hartree": units.Hartree,
    "eh": units.Hartree,
    "ry": units.Rydberg,
    "rydberg": units.Rydberg,
    "cal": units.kcal / 1000,
    "kcal": units.kcal,
    "kj": units.kJ,
    "mol": units.mol,
    "å": 1.0,
    "a": 1.0,
    "ang": 1.0,
    "angstrom": 1.0,
    "ångström": 1.0,
    "a0": units.Bohr,
    "bohr": units.Bohr,
    "nm": units.nm,
    "pm": units.nm / 1000,
    "gpa": units.GPa,
    "mpa": units.GPa / 1000,
    "kbar": units.GPa / 10,
    "kb": units.GPa / 10,
    "bar": units.GPa / 1e4,
    "pa": units.Pascal,
    "d": units.Debye,
    "debye": units.Debye,
    "ghz": 1.0,
    "k": 1.0,
    "kelvin": 1.0,
}
"""eV, Å and derived units, per unit (in lower case); frequencies and temperatures unchanged."""

_TOTAL_UNITS = ("eV", "Hartree", "kcal/mol", "kJ/mol")
# Not Rydberg: energies in eV without those of the core electrons, as tight binding gives them, look like it.

_ATOMS = {
    1: -0.500, 2: -2.904, 3: -7.478, 4: -14.667, 5: -24.654, 6: -37.845, 7: -54.589, 8: -75.067, 9: -99.734,
    10: -128.94, 11: -162.25, 12: -200.05, 13: -242.35, 14: -289.36, 15: -341.26, 16: -398.11, 17: -460.15,
    18: -527.54,
}  # fmt: skip
"""Total energies of the atoms, Hartree, all electrons, not relativistic: Chakravorty et al., PRA 47, 3649 (1993)."""

_TOLERANCE = 0.03
"""Covers binding (1 % in H2O, 18 % in H2, which is why a molecule needs heavier atoms) and the functional."""


def factor(unit: str, location: str) -> float:
    """Give the size of a unit such as `kcal/mol`, `hartree/bohr`, `eV Ang^-1` or `a0^3` in eV and Å.

    Raises:
        DataError: a name that is not known; names `location`.

    """
    result, divide = 1.0, False
    for part in re.findall(r"[*/·]|[^*/·\s]+", unit.replace("**", "^")):
        if part in {"*", "/", "·"}:
            divide = part == "/"
            continue
        name, _, power = part.partition("^")
        if name.lower() not in FACTORS or not re.fullmatch(r"-?\d*", power):
            raise DataError(f"{location}: the unit {unit!r} is not known: write it as eV, Hartree/bohr, kcal/mol/Å, …")
        result *= float(FACTORS[name.lower()]) ** (int(power or 1) * (-1 if divide else 1))
        divide = False
    return result


def require_total(energy: float, numbers: NDArray[np.int64], unit: str, location: str) -> None:
    """Refuse a total energy (in eV, converted from `unit`) that would be right in another unit.

    Energies that fit no unit pass: references may be subtracted, or core electrons left out.

    Raises:
        DataError: names `location`, the unit that would fit and how to say so.

    """
    expected = _total(numbers)
    if expected is None or abs(energy / expected - 1) < _TOLERANCE:
        return
    written = energy / factor(unit, location)
    for other in _TOTAL_UNITS:
        if abs(written * factor(other, location) / expected - 1) < _TOLERANCE:
            formula = Formula.from_list([chemical_symbols[number] for number in numbers]).format("hill")
            raise DataError(
                f"{location}: the energy {written:.6g} {unit} would be right for {formula} in {other}: "
                f'if that is its unit, give the option energy_unit="{other}"'
            )


def _total(numbers: NDArray[np.int64]) -> float | None:
    """Sum of the atoms' total energies in eV, None with elements that are not in the table or nothing but H and He."""
    if not all(int(number) in _ATOMS for number in numbers) or max(numbers, default=0) < 3:
        return None
    return float(units.Hartree) * sum(_ATOMS[int(number)] for number in numbers)
