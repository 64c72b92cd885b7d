"""Errors of one target, in its unit and in others."""

import re
from dataclasses import dataclass

from ase import units as ase_units

PER_ATOM = "energy per atom"

SMALLEST = 1e-9
"""In a target's unit: smaller mean absolute errors count as this much in ratios."""

LARGE = 1e4
"""meV, from which on eV are shown."""

ENERGY_UNITS = {
    "kcal/mol": ase_units.kcal / ase_units.mol,
    "kJ/mol": ase_units.kJ / ase_units.mol,
    "Hartree": ase_units.Hartree,
    "Ha": ase_units.Hartree,
    "meV": 1e-3,
    "eV": 1.0,
}
"""eV."""


@dataclass(frozen=True)
class Errors:
    """Errors of one target."""

    mae: float
    """Mean absolute error."""
    rmse: float
    """Root mean square error."""
    count: int
    """Numbers compared."""
    unit: str

    def converted(self, unit: str, factor: float) -> "Errors":
        """Return the same in another unit; one of that unit is ``factor`` of this one."""
        return Errors(self.mae / factor, self.rmse / factor, self.count, unit)

    @property
    def error(self) -> float:
        """What models are compared by: smaller is better, and 0 is perfect."""
        return self.mae

    @property
    def measure(self) -> str:
        """What `error` is."""
        return "MAE"

    @property
    def smooth_error(self) -> float:
        """An error that every change of a prediction affects."""
        return self.mae

    @property
    def least(self) -> float:
        """Smaller errors count as this much in ratios."""
        return SMALLEST

    @property
    def metrics(self) -> dict[str, float | None]:
        """All that is monitored during training, by the names in files."""
        return {"mae": self.mae}

    def __str__(self) -> str:
        """Format the mean absolute error."""
        return f"{self.shown.mae:.4g} {self.shown.unit}"

    @property
    def shown(self) -> "Errors":
        """The same for display: in meV (meV/Å, …) if the unit is one of energy, unless that is a large number."""
        return self.milli if self.milli is not None and self.milli.mae < LARGE else self

    @property
    def milli(self) -> "Errors | None":
        """The same in meV (meV/Å, …), or None if the unit is not one of energy."""
        return self.converted(f"m{self.unit}", 1e-3) if self.unit.startswith("eV") else None


Results = dict[str, dict[str, Errors]]
"""By task and target."""


def own_unit(errors: Errors, units_in_file: str) -> Errors:
    """Return errors in the unit of energy that a dataset's files are in ("kcal/mol, Å"), or as they are."""
    if not errors.unit.startswith("eV"):
        return errors
    for unit, factor in ENERGY_UNITS.items():
        if re.search(rf"(?<![\w/]){re.escape(unit)}(?![\w])", units_in_file):
            return errors.converted(unit + errors.unit.removeprefix("eV"), factor)
    return errors
