"""What a teacher gives, and whether it is consistent: checked on the first structure.

Forces are compared with the gradient of the energy. Of a rattled copy x and a random direction u, normal in every
coordinate and of rms length h,

    E(x + u) − E(x − u) = −2 F(x)·u + O(h³),

so that the difference between both sides, over |2 h F|, is the relative error of the forces. Likewise for the stress
and a random symmetric strain ε: E(x, ε) − E(x, −ε) = 2 V σ·ε.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from atomslim.atoms.sample import ENERGIES
from atomslim.errors import AtomslimError
from atomslim.labelling.teachers import Labels, Session
from atomslim.labelling.unlabelled import Unlabelled

STEP, STRAIN = 0.005, 0.002
"""Å: rms displacement of a coordinate, and largest strain."""

RATTLED = 0.05
"""Å: standard deviation of the noise on the copy, so that there are forces."""

DIRECTIONS = 2

WRONG = 0.02
"""Relative difference above which forces or stress are not derivatives of the energy."""

_DIGITS = 2e-7
"""Relative error of energies in single precision, which is allowed for."""

LABELS = ("energy", "forces", "stress", ENERGIES)
"""What is kept."""

_SAME, _NOISE = 1e-6, 1e-3
"""eV/atom: repeated energies that differ by less are equal; by more, useless as labels."""

_DERIVATIVES = {"forces": (1e-4, 0.02, "eV/Å"), "stress": (1e-5, 1e-3, "eV/Å³")}
"""Largest differences of a component up to which they are equal, and above which they are useless."""


class ChangedAnswerError(AtomslimError):
    """A teacher whose answers for one structure are too different to be labels."""


@dataclass(frozen=True)
class Given:
    """What a teacher gives, and its problems."""

    labels: tuple[str, ...]
    """Names of what is kept: energy, forces, stress, energies (of atoms)."""
    free: bool = False
    """Whether its energy is the free energy, of which the forces are the gradient."""
    faults: tuple[str, ...] = ()
    """Its problems, a sentence each."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """Relative differences of forces and stress from derivatives of the energy."""
    energy: float = 0.0
    """eV: its first answer."""
    first: int = 0
    """Number of the structure that it was for."""

    def sentence(self, name: str) -> str:
        """Say what is kept, and how it was checked."""
        kept = ", ".join("energies of atoms" if what == ENERGIES else what for what in self.labels)
        energy = "; energies are free energies, whose gradient the forces are" if self.free else ""
        sound = [what for what in self.measured if not any(what in fault for fault in self.faults)]
        are = "is a derivative" if sound == ["stress"] else "are derivatives"
        checked = f"; {' and '.join(sound)} {are} of the energy" if sound else ""
        return f"{name}: gives {kept}{energy}{checked}"

    def kept(self, found: Labels) -> Labels:
        """Select the labels from a teacher's results; raises Unlabelled where forces are missing."""
        if "forces" in self.labels and "forces" not in found:
            raise Unlabelled("there are no forces")
        labels = {what: found[what] for what in LABELS if what in found}
        return labels | {"energy": found["free_energy"]} if self.free and "free_energy" in found else labels


def examine(session: Session, atoms: Atoms, number: int = 0, name: str = "the teacher") -> Given:
    """Ask a teacher for the structure with this number, for copies of it, and for the structure again.

    Raises:
        Unlabelled: it gives no labels for this structure, or its rattled copy.
        ChangedAnswerError: its answers for one structure are too different to be labels.

    """
    first = session.ask(atoms)
    free = "free_energy" in first and abs(float(first["free_energy"] - first["energy"])) > 1e-6
    labels = tuple(what for what in LABELS if what in first)
    measured = _measured(session, atoms, labels)
    faults = [*_wrong(name, measured), *_changing(name, first, session.ask(atoms), len(atoms))]
    faults += _not_adding_up(name, first)
    if "forces" not in labels:
        faults.append(f"{name}: gives no forces: students learn from energies alone")
    return Given(labels, free, tuple(faults), measured, energy_of(first), number)


def require_same(name: str, before: float, after: float, natoms: int) -> float:
    """Return the difference (eV/atom) of two energies of one structure; raises ChangedAnswerError if too large."""
    difference = abs(before - after) / natoms
    if difference > _NOISE:
        raise ChangedAnswerError(
            f"{name}: gave {before:.6g} eV, and then {after:.6g} eV for the same structure: its "
            "labels would be meaningless: let it compute from scratch, with a fixed seed"
        )
    return difference


def _changing(name: str, before: Labels, after: Labels, natoms: int) -> list[str]:
    difference = require_same(name, energy_of(before), energy_of(after), natoms)
    found = [] if difference < _SAME else [f"{difference * 1000:.2g} meV/atom"]
    for what, (same, noise, unit) in _DERIVATIVES.items():
        if what in before and what in after:
            apart = float(np.abs(before[what] - after[what]).max(initial=0.0))
            if apart > noise:
                raise ChangedAnswerError(
                    f"{name}: gave {what} that differ by {apart:.3g} {unit} for the same structure: its labels would "
                    "be meaningless: let it compute from scratch, with a fixed seed"
                )
            found += [] if apart < same else [f"{apart:.2g} {unit} in its {what}"]
    if not found:
        return []
    return [f"{name}: changes its answer between calls, by {' and '.join(found)} for the same structure"]


def _not_adding_up(name: str, labels: Labels) -> list[str]:
    """Say if atomic energies do not add up to that of the structure."""
    if ENERGIES not in labels:
        return []
    apart = [abs(float(labels[ENERGIES].sum() - labels[one])) for one in ("energy", "free_energy") if one in labels]
    if min(apart) <= max(_SAME * len(labels[ENERGIES]), 10 * _DIGITS * abs(energy_of(labels))):
        return []
    return [f"{name}: its atomic energies do not add up to its energy ({min(apart):.3g} eV off)"]


def _measured(session: Session, atoms: Atoms, labels: tuple[str, ...]) -> dict[str, float]:
    random = np.random.default_rng(0)
    copy = atoms.copy()
    copy.positions += RATTLED * random.standard_normal(copy.positions.shape)
    middle = session.ask(copy)
    found = {}
    if "forces" in labels and "forces" in middle and len(atoms) > 1:
        found["forces"] = _forces(session, copy, middle, random)
    if "stress" in labels and "stress" in middle:
        found["stress"] = _stress(session, copy, middle, random)
    return found


def _forces(session: Session, atoms: Atoms, middle: Labels, random: np.random.Generator) -> float:
    """Return the rms difference of forces from the gradient, over the forces."""
    scale = 2 * STEP * float(np.linalg.norm(middle["forces"]))
    wrong = []
    for _ in range(DIRECTIONS):
        step = STEP * random.standard_normal(atoms.positions.shape)
        difference = _difference(session, atoms, partial(_moved, step))
        wrong.append(_beyond(difference + 2 * float((middle["forces"] * step).sum()), middle))
    return float(np.sqrt(np.mean(np.square(wrong)))) / max(scale, 1e-9)


def _stress(session: Session, atoms: Atoms, middle: Labels, random: np.random.Generator) -> float:
    """Return the difference of the stress from the derivative by a strain, over the stress and 1 GPa."""
    half = random.uniform(-1, 1, (3, 3))
    strain = STRAIN * (half + half.T) / 2
    stress = middle["stress"] if middle["stress"].shape == (3, 3) else voigt_6_to_full_3x3_stress(middle["stress"])
    difference = _difference(session, atoms, partial(_strained, strain))
    wrong = _beyond(difference - 2 * atoms.get_volume() * float((stress * strain).sum()), middle)
    scale = 2 * atoms.get_volume() * float(np.linalg.norm(strain)) * max(float(np.linalg.norm(stress)), 0.00624)
    return float(wrong / scale)


def _difference(session: Session, atoms: Atoms, change: Callable[[Atoms, int], None]) -> float:
    """Return the energy of a copy changed forwards, minus that of one changed backwards."""
    energies = []
    for sign in (1, -1):
        copy = atoms.copy()
        change(copy, sign)
        energies.append(energy_of(session.ask(copy)))
    return energies[0] - energies[1]


def _beyond(difference: float, labels: Labels) -> float:
    """Return by how much a difference exceeds rounding of energies."""
    return max(abs(difference) - _DIGITS * abs(energy_of(labels)), 0.0)


def _moved(step: NDArray[np.float64], atoms: Atoms, sign: int) -> None:
    atoms.positions += sign * step


def _strained(strain: NDArray[np.float64], atoms: Atoms, sign: int) -> None:
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)


def energy_of(labels: Labels) -> float:
    """Return the energy (eV) of which forces are the gradient."""
    return float(labels.get("free_energy", labels["energy"]))


def _wrong(name: str, measured: Mapping[str, float]) -> list[str]:
    return [
        f"{name}: its {what} {'are' if what == 'forces' else 'is'} not the {of} of its energy (off by {value:.0%} on "
        f"the first structure): a student with conservative forces cannot follow both"
        for what, of, value in (
            ("forces", "gradient", measured.get("forces", 0.0)),
            ("stress", "derivative", measured.get("stress", 0.0)),
        )
        if value > WRONG
    ]
