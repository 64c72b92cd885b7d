"""How far predictions are from labels: mean absolute and root mean square errors, gathered batch by batch.

| name | errors of | unit |
|---|---|---|
| energy | each structure's energy | eV |
| energy per atom | the same divided by its number of atoms | eV |
| forces | each component of each atom, free atoms only where some are fixed | eV/Å |
| stress | each component | eV/Å³ |
| any other | each structure's number | the dataset's |

Missing labels (NaN) are left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from ase import units as ase_units
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.errors import DataError

PER_ATOM = "energy per atom"

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

_INTERNAL = {"energy": "eV", PER_ATOM: "eV", "forces": "eV/Å", "stress": "eV/Å³"}


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
        """Return the same in another unit, one of which is ``factor`` of this one's."""
        return Errors(self.mae / factor, self.rmse / factor, self.count, unit)

    @property
    def shown(self) -> "Errors":
        """The same as it is shown: in meV (meV/Å, …) where the unit is one of energy, unless this is a large number."""
        return self.milli if self.milli is not None and self.milli.mae < LARGE else self

    @property
    def milli(self) -> "Errors | None":
        """The same in meV (meV/Å, …), or None where the unit is none of energy."""
        return self.converted(f"m{self.unit}", 1e-3) if self.unit.startswith("eV") else None


@dataclass
class Accuracy:
    """Sums of errors by target, to which batches are added."""

    units: Mapping[str, str] = field(default_factory=dict)
    """Of targets that are not energy, forces or stress."""
    free_atoms_only: bool = True
    sums: dict[str, Float[Tensor, "3"]] = field(default_factory=dict)
    """Σ |error|, Σ error², and the number of errors, on the CPU in float64."""
    elements: Float[Tensor, "Z 2"] = field(default_factory=lambda: torch.zeros(120, 2, dtype=torch.float64))
    """Σ |error| and the number of errors of forces, by atomic number."""

    def add(self, predicted: Mapping[str, Tensor], labels: Mapping[str, Tensor], atoms: AtomsBatch) -> None:
        """Compare the predictions of one batch, in physical units, with its labels: what both have, by name.

        Labels that are missing (NaN) are left out; a prediction that is not finite makes the error so, too.
        """
        for name in predicted.keys() & labels.keys():
            known = torch.isfinite(labels[name])
            error = predicted[name].detach().double() - labels[name].double()
            if name == "forces":
                known = known & (~atoms.fixed | (not self.free_atoms_only))[:, None]
                whole = known.all(-1)
                self._add_elements(error[whole], atoms.numbers[whole])
            self._add(name, error[known])
            if name == "energy":
                self._add(PER_ATOM, (error / atoms.natoms)[known])

    def _add(self, name: str, error: Tensor) -> None:
        new = torch.stack([error.abs().sum(), error.square().sum(), error.new_tensor(float(error.numel()))]).cpu()
        self.sums[name] = self.sums[name] + new if name in self.sums else new

    def _add_elements(self, error: Float[Tensor, "n 3"], numbers: Int[Tensor, " n"]) -> None:
        sums = torch.stack([error.abs().sum(-1), torch.full_like(error[:, 0], 3.0)], dim=-1)
        self.elements.index_add_(0, numbers.cpu(), sums.cpu())

    @property
    def compared(self) -> bool:
        """Whether any prediction had a label."""
        return any(bool(sums[2]) for sums in self.sums.values())

    def by_element(self) -> dict[str, float]:
        """Return the mean absolute error of forces in eV/Å by element, lightest first."""
        return {
            chemical_symbols[number]: total / count
            for number, (total, count) in enumerate(self.elements.tolist())
            if count
        }

    def result(self) -> dict[str, Errors]:
        """Return the errors by target, alphabetically; raises DataError if nothing was compared."""
        found = {
            name: Errors(total / count, (squares / count) ** 0.5, int(count), self.unit(name))
            for name, (total, squares, count) in sorted((name, sums.tolist()) for name, sums in self.sums.items())
            if count
        }
        if not found:
            raise DataError("no prediction has a label to compare with: check the dataset's targets and the task")
        return found

    def unit(self, name: str) -> str:
        """Return the unit of a target's errors."""
        return _INTERNAL.get(name) or self.units.get(name, "eV")


def own_unit(errors: Errors, units_in_file: str) -> Errors:
    """Return errors in the unit of energy that a dataset's files are in ("kcal/mol, Å"), or as they are."""
    if not errors.unit.startswith("eV"):
        return errors
    for unit, factor in ENERGY_UNITS.items():
        if re.search(rf"(?<![\w/]){re.escape(unit)}(?![\w])", units_in_file):
            return errors.converted(unit + errors.unit.removeprefix("eV"), factor)
    return errors
