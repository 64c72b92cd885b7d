"""Finding energy, forces, stress and other labels of a structure under the many names and places they have in files.

Since ASE 3.23, `energy`, `forces` and `stress` of an extended XYZ file leave `info` and `arrays` for the calculator,
and other spellings stay; databases keep labels in a row's results, key-value pairs or data. All are looked at, and
upper and lower case do not matter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from atomslim.atoms.charges import charge_or_spin
from atomslim.atoms.sample import Sample
from atomslim.data.readers._common import converted, labelled, number
from atomslim.data.readers._units import factor
from atomslim.errors import ConfigError, DataError, one_line

NAMES = {
    "energy": ("energy", "ref_energy", "dft_energy", "total_energy", "potential_energy"),
    "forces": ("forces", "force", "ref_forces", "ref_force", "dft_forces", "dft_force"),
    "stress": ("stress", "ref_stress", "dft_stress"),
    "virial": ("virial", "virials", "ref_virial", "ref_virials", "dft_virial", "dft_virials"),
}
"""The names that are known, in lower case."""


@dataclass(frozen=True)
class Frame:
    """One structure of a file with everything a label may be in: results of a calculator, and a database row's data."""

    atoms: Atoms
    results: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, atoms: Atoms, data: Mapping[str, Any] | None = None) -> "Frame":
        """Take the results from the calculator as they are: asking it for forces would zero those of fixed atoms."""
        return cls(atoms, getattr(atoms.calc, "results", {}), data or {})

    @property
    def places(self) -> tuple[Mapping[str, Any], ...]:
        """Where labels are looked for, in this order."""
        return (self.results, self.atoms.info, self.atoms.arrays, self.data)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Give all names with their values, without the structure's own (positions, numbers and so on)."""
        own = {"positions", "numbers", "tags", "momenta", "masses"}
        for place in self.places:
            yield from ((key, value) for key, value in place.items() if key not in own)


@dataclass(frozen=True)
class Labels:
    """Which labels to take from a frame, and in which units they are.

    An empty key means: look under the known names. `stress_factor` multiplies the stress after conversion (-1 for files
    that count compression as positive). A virial, where there is no stress, becomes stress = -virial / volume.
    """

    energy_key: str = ""
    forces_key: str = ""
    stress_key: str = ""
    group_key: str = ""
    properties: tuple[str, ...] = ()
    energy_unit: str = "eV"
    length_unit: str = "Å"
    stress_factor: float = 1.0
    required: tuple[str, ...] = ()

    def sample(self, frame: Frame, place: str) -> Sample:
        """Make a sample, in eV and Å, of a frame with at least one label.

        Raises:
            DataError: there is no label, or a required one or one named by a key is missing; two labels contradict each
                other; numbers that are not finite, or shapes that do not fit. Names `place`.

        """
        length = factor(self.length_unit, "length_unit")
        atoms = frame.atoms
        batch = converted(atoms, place)
        sample = labelled(
            place,
            atoms.numbers,
            atoms.positions * length,
            self.targets(frame, place),
            cell=atoms.cell.array * length,
            pbc=atoms.pbc,
            tags=batch.tags.numpy(),
            fixed=batch.fixed.numpy(),
            group=self._group(frame, place),
        )
        return replace(sample, ignored=charge_or_spin(atoms, frame.data))

    def targets(self, frame: Frame, place: str) -> dict[str, Any]:
        """Find and convert the labels; raises as `sample` does."""
        energy, length = factor(self.energy_unit, "energy_unit"), factor(self.length_unit, "length_unit")
        found: dict[str, Any] = {}
        if (value := _find(frame, "energy", self.energy_key, place)) is not None:
            found["energy"] = number(value, "the energy", place) * energy
        if (value := _find(frame, "forces", self.forces_key, place)) is not None:
            found["forces"] = _floats(value, "forces", place) * (energy / length)
        if (value := self._stress(frame, place)) is not None:
            found["stress"] = value * (energy / length**3 * self.stress_factor)
        for name in self.properties:
            found[name] = number(_named(frame, name, place), name, place)
        self._require(found, frame, place)
        return found

    def _stress(self, frame: Frame, place: str) -> NDArray[np.float64] | None:
        """Give the stress, in the file's units, (3, 3)."""
        value = _find(frame, "stress", self.stress_key, place)
        if value is not None:
            return _matrix(value, "stress", place)
        virial = _find(frame, "virial", "", place)
        if virial is None or not frame.atoms.pbc.all():
            return None
        volume = abs(float(np.linalg.det(frame.atoms.cell.array)))
        if not volume:
            raise DataError(f"{place}: has a virial and a cell without volume: correct the lattice vectors")
        return -_matrix(virial, "virial", place) / volume

    def _group(self, frame: Frame, place: str) -> str:
        return str(_named(frame, self.group_key, place)) if self.group_key else ""

    def _require(self, found: Mapping[str, Any], frame: Frame, place: str) -> None:
        missing = [name for name in self.required if name not in found]
        if found and not missing:
            return
        what = ", ".join(missing) or "energy, forces or stress"
        raise DataError(
            f"{place}: has no {what} (it has: {_names(frame)}): name the label with energy_key, forces_key, stress_key "
            "or properties"
        )


def check_options(labels: Labels) -> Labels:
    """Return labels whose units are known; raises ConfigError for others."""
    for option, unit in {"energy_unit": labels.energy_unit, "length_unit": labels.length_unit}.items():
        try:
            factor(unit, option)
        except DataError as error:
            raise ConfigError(str(error)) from error
    return labels


def _find(frame: Frame, what: str, key: str, place: str) -> Any:
    """Give the value under a key, or under the known names of a label; None where there is none."""
    if key:
        return _named(frame, key, place)
    found = [(name, value) for name, value in frame.items() if name.lower() in NAMES[what] and value is not None]
    if any(not _same(value, found[0][1]) for _, value in found[1:]):
        names = " and ".join(dict.fromkeys(name for name, _ in found))
        option = "stress_key" if what == "virial" else f"{what}_key"
        raise DataError(f"{place}: {names} differ: say with {option} which one is meant")
    return found[0][1] if found else None


def _named(frame: Frame, key: str, place: str) -> Any:
    """Give the value of a name that is spelt exactly so, or else but for upper and lower case."""
    found = [(name, value) for name, value in frame.items() if name.lower() == key.lower() and value is not None]
    if not found:
        raise DataError(f"{place}: has no {key} (it has: {_names(frame)}): correct the name or remove the record")
    return next((value for name, value in found if name == key), found[0][1])


def _names(frame: Frame) -> str:
    return ", ".join(sorted({name for name, _ in frame.items()})[:12]) or "nothing"


def _same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(np.ravel(np.asarray(one)), np.ravel(np.asarray(other))))


def _floats(value: Any, what: str, place: str) -> NDArray[np.float64]:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: the {what} are no numbers ({one_line(error)}): check the file") from error


def _matrix(value: Any, what: str, place: str) -> NDArray[np.float64]:
    array = _floats(value, what, place)
    if array.size == 6:
        return np.asarray(voigt_6_to_full_3x3_stress(array.reshape(6)))
    if array.size != 9:
        raise DataError(f"{place}: the {what} has {array.size} numbers where 6 or 9 are expected: check the file")
    return array.reshape(3, 3)
