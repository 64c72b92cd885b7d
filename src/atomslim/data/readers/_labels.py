"""Finding energy, forces, stress and other labels of a structure under the many names that files give them.

Since ASE 3.23, `energy`, `forces` and `stress` of an extended XYZ file leave `info` and `arrays` for the calculator,
and other spellings stay; databases keep labels in a row's results, key-value pairs or data. All are looked at, and
upper and lower case do not matter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from atomslim.atoms.charges import charge_or_spin
from atomslim.atoms.sample import Sample
from atomslim.atoms.xyz_header import symmetric
from atomslim.data.readers._classes import class_label
from atomslim.data.readers._common import converted, labelled, number
from atomslim.data.readers._units import factor
from atomslim.data.references import ISOLATED_ATOM
from atomslim.data.remarks import Remarks
from atomslim.errors import ConfigError, DataError, one_line

NAMES = {
    "energy": ("energy", "ref_energy", "dft_energy", "total_energy", "potential_energy"),
    "forces": ("forces", "force", "ref_forces", "ref_force", "dft_forces", "dft_force"),
    "stress": ("stress", "ref_stress", "dft_stress"),
    "virial": ("virial", "virials", "ref_virial", "ref_virials", "dft_virial", "dft_virials"),
}
"""The names that are known, in lower case."""

_AGREEMENT = 0.05
"""Relative: a stress and a virial that differ by more are not the same."""


@dataclass(frozen=True)
class Frame:
    """One structure of a file with everything a label may be in: results of a calculator, and a database row's data."""

    atoms: Atoms
    results: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, atoms: Atoms, data: Mapping[str, Any] | None = None) -> "Frame":
        """Take the stored results of the calculator: asking it for forces would zero those of fixed atoms."""
        return cls(atoms, getattr(atoms.calc, "results", {}), data or {})

    @property
    def sources(self) -> tuple[Mapping[str, Any], ...]:
        """Where labels are looked for, in this order."""
        return (self.results, self.atoms.info, self.atoms.arrays, self.data)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Give all names with their values, without the structure's own (positions, numbers and so on)."""
        own = {"positions", "numbers", "tags", "momenta", "masses"}
        for source in self.sources:
            yield from ((key, value) for key, value in source.items() if key not in own)


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
    classes: tuple[str, ...] = ()
    """Labels of 0 and 1, no and yes."""
    energy_unit: str = "eV"
    length_unit: str = "Å"
    stress_factor: float = 1.0
    stress_unit: str = ""
    """Empty: that of the energy and of lengths."""
    required: tuple[str, ...] = ()

    def sample(self, frame: Frame, location: str, remarks: Remarks | None = None) -> Sample:
        """Make a sample, in eV and Å, of a frame with the labels that it has; `remarks` get what else is noticed.

        Raises:
            DataError: a required label is missing; two labels contradict each other; numbers that are not finite, or
                shapes that do not fit. Names `location`.

        """
        length = factor(self.length_unit, "length_unit")
        atoms = frame.atoms
        batch = converted(atoms, location)
        sample = labelled(
            location,
            atoms.numbers,
            atoms.positions * length,
            self.targets(frame, location, Remarks() if remarks is None else remarks),
            cell=atoms.cell.array * length,
            pbc=atoms.pbc,
            tags=batch.tags.numpy(),
            fixed=batch.fixed.numpy(),
            group=self._group(frame, location),
        )
        return replace(sample, ignored=charge_or_spin(atoms, frame.data))

    def targets(self, frame: Frame, location: str, remarks: Remarks) -> dict[str, Any]:
        """Find and convert the labels; raises as `sample` does."""
        energy, length = factor(self.energy_unit, "energy_unit"), factor(self.length_unit, "length_unit")
        found: dict[str, Any] = {}
        if (value := _find(frame, "energy", self.energy_key, location, remarks)) is not None:
            found["energy"] = number(value, "the energy", location) * energy
        if (value := _find(frame, "forces", self.forces_key, location, remarks)) is not None:
            found["forces"] = _floats(value, "forces", location) * (energy / length)
        if (value := self._stress(frame, location, energy / length**3, remarks)) is not None:
            found["stress"] = value
        for name in self.properties:
            if (value := _named(frame, name)) is not None:
                found[name] = number(value, name, location)
                remarks.found(name, name)
        for name in self.classes:
            value = _named(frame, name)
            if value is not None and (label := class_label(value, name, location)) is not None:
                found[name] = label
                remarks.found(name, name)
        remarks.look_for_unused(frame.items(), self.used, len(frame.atoms))
        self._require(found, frame, location)
        return found

    @cached_property
    def used(self) -> frozenset[str]:
        """The names that labels are taken from, in lower case."""
        keys = {"energy": self.energy_key, "forces": self.forces_key, "stress": self.stress_key}
        known = {name for what, names in NAMES.items() if not keys.get(what, self.stress_key) for name in names}
        return frozenset(
            known | {name.lower() for name in (*keys.values(), *self.properties, *self.classes, self.group_key) if name}
        )

    def require_named(self, remarks: Remarks, path: object) -> None:
        """Raise DataError if a label that an option names was in no structure."""
        named = {"energy": self.energy_key, "forces": self.forces_key, "stress": self.stress_key}
        named |= {name: name for name in (*self.properties, *self.classes)}
        for label, key in named.items():
            if key and label not in remarks.sources:
                there = ", ".join(sorted(remarks.looked_at)[:12]) or "nothing"
                raise DataError(f"{path}: no structure has {key} (there is: {there}): correct the name in the option")

    def _stress(self, frame: Frame, location: str, unit: float, remarks: Remarks) -> NDArray[np.float64] | None:
        """Give the stress in eV/Å³, (3, 3); a structure without a volume has none. `unit` is that of the virial."""
        value = _find(frame, "stress", self.stress_key, location, remarks)
        virial = None if self.stress_key else _find(frame, "virial", "", location, remarks)
        if value is None and virial is None:
            return None
        volume = abs(float(np.linalg.det(frame.atoms.cell.array)))
        if value is None and frame.atoms.pbc.all() and not volume:
            raise DataError(f"{location}: has a virial and a cell without volume: correct the lattice vectors")
        if not frame.atoms.pbc.any() or not volume:
            remarks.left_out["stress or virial without a volume"] += 1
            return None
        from_virial = None if virial is None else -_matrix(virial, "virial", location, remarks) / volume * unit
        if value is None:
            return None if from_virial is None else from_virial * self.stress_factor
        own = factor(self.stress_unit, "stress_unit") if self.stress_unit else unit
        stress = _matrix(value, "stress", location, remarks) * (own * self.stress_factor)
        if from_virial is not None:
            _compare(stress, from_virial, location, remarks)
        return stress

    def _group(self, frame: Frame, location: str) -> str:
        if not self.group_key:
            kinds = (str(value).lower() for name, value in frame.items() if name.lower() == "config_type")
            return ISOLATED_ATOM if ISOLATED_ATOM.lower() in kinds else ""
        value = _named(frame, self.group_key)
        if value is None:
            raise DataError(
                f"{location}: has no {self.group_key} (it has: {_names(frame)}): correct the option group_key or "
                "remove the record"
            )
        return str(value)

    def _require(self, found: Mapping[str, Any], frame: Frame, location: str) -> None:
        missing = [name for name in self.required if name not in found]
        if missing:
            raise DataError(
                f"{location}: has no {', '.join(missing)} (it has: {_names(frame)}): mend or remove the record"
            )


def check_options(labels: Labels) -> Labels:
    """Return labels whose units are known; raises ConfigError for others."""
    given = {"energy_unit": labels.energy_unit, "length_unit": labels.length_unit, "stress_unit": labels.stress_unit}
    for option, unit in given.items():
        try:
            factor(unit, option)
        except DataError as error:
            raise ConfigError(str(error)) from error
    return labels


def _find(frame: Frame, what: str, key: str, location: str, remarks: Remarks) -> Any:
    """Give the value under a key, or under the known names of a label; None where there is none."""
    if key:
        value = _named(frame, key)
        found = [] if value is None else [(key, value)]
    else:
        found = [(name, value) for name, value in frame.items() if name.lower() in NAMES[what] and value is not None]
    if any(not _same(value, found[0][1]) for _, value in found[1:]):
        names = " and ".join(dict.fromkeys(name for name, _ in found))
        option = "stress_key" if what == "virial" else f"{what}_key"
        raise DataError(f"{location}: {names} differ: say with the option {option} which one is meant")
    if not found:
        return None
    if what in {"stress", "virial"} and _of_each_atom(found[0][1], len(frame.atoms)):
        remarks.left_out[f"{what} of each atom"] += 1
        return None
    if what != "energy" and _all_nan(found[0][1]):
        remarks.left_out[f"{what} of nothing but NaN"] += 1
        return None
    label = "stress" if what == "virial" else what
    for name, _ in found:
        remarks.found(label, name)
    return found[0][1]


def _named(frame: Frame, key: str) -> Any:
    """Give the value of exactly this name, or else of this name in any case; None if there is none."""
    found = [(name, value) for name, value in frame.items() if name.lower() == key.lower() and value is not None]
    return next((value for name, value in found if name == key), found[0][1] if found else None)


def _names(frame: Frame) -> str:
    return ", ".join(sorted({name for name, _ in frame.items()})[:12]) or "nothing"


def _of_each_atom(value: Any, natoms: int) -> bool:
    """Say whether there are 6 or 9 numbers per atom, which are not the stress of the structure."""
    shape = np.shape(value)
    return len(shape) > 1 and shape[0] == natoms and shape != (3, 3) and np.size(value) not in {6, 9}


def _all_nan(value: Any) -> bool:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths, which are refused later
        return False
    return array.dtype.kind == "f" and array.size > 0 and bool(np.isnan(array).all())


def _same(one: Any, other: Any) -> bool:
    return bool(np.array_equal(np.ravel(np.asarray(one)), np.ravel(np.asarray(other))))


def _floats(value: Any, what: str, location: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(value)
        if array.dtype.kind == "b":
            raise DataError(f"{location}: the {what} are true and false, not numbers: check the file")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{location}: the {what} are not numbers ({one_line(error)}): check the file") from error


def _matrix(value: Any, what: str, location: str, remarks: Remarks) -> NDArray[np.float64]:
    """Give 6 numbers in Voigt's order or 9 as a symmetric matrix (3, 3)."""
    array = _floats(value, what, location)
    if array.size == 6:
        return np.asarray(voigt_6_to_full_3x3_stress(array.reshape(6)))
    if array.size != 9:
        raise DataError(f"{location}: the {what} has {array.size} numbers where 6 or 9 are expected: check the file")
    matrix = array.reshape(3, 3)
    if not symmetric(matrix):
        text = f"{location}: the {what} is not symmetric: its symmetric part is taken, here and in all other structures"
        remarks.say_once(f"asymmetric {what}", text)
    return np.asarray((matrix + matrix.T) / 2)


def _compare(stress: NDArray[np.float64], other: NDArray[np.float64], location: str, remarks: Remarks) -> None:
    """Say it where a stress and what follows from the virial do not agree."""
    size = float(np.linalg.norm(stress))
    if not np.isfinite(size) or np.linalg.norm(stress - other) <= _AGREEMENT * size:
        return
    if np.linalg.norm(stress + other) <= _AGREEMENT * size:
        text = "have opposite signs (virial = -volume × stress, tension positive): if the stress counts compression as "
        text += "positive, give the option stress_factor=-1"
    else:
        text = "do not agree (virial = -volume × stress in eV): check their units"
    remarks.say_once("stress and virial", f"{location}: stress and virial {text}; the stress is taken")
