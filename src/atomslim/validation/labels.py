"""The check of labelled structures: predictions compared with labels."""

from collections.abc import Sequence

import numpy as np
from ase.calculators.calculator import CalculationFailed, Calculator, PropertyNotImplementedError
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from atomslim.atoms import Sample
from atomslim.data.references import ReferenceGap, gap_of
from atomslim.errors import AtomslimError
from atomslim.validation.measurement import (
    FloatArray,
    Measurement,
    NotDoneError,
    Settings,
    energy_of,
    with_calculator,
)
from atomslim.validation.reference import LABELS, Labels

SETTLED = 0.02
"""eV/Å: below this, directions of forces are not compared."""

Found = tuple[Sample, dict[str, FloatArray]]
"""A labelled structure, and energy, forces and stress that the model gives for it."""


def labels(calculator: Calculator, data: Labels, settings: Settings) -> Measurement:
    """Compare energies per atom (meV), forces (eV/Å) and stress (GPa) with labels: mean and largest errors.

    Energies with a different reference from the model's are compared after a fit per element, with a remark.
    """
    chosen = data.spread(settings["structures"])
    found, notes = _predicted(calculator, chosen)
    energies, gap = _energies(found)
    numbers = energies | _forces(found) | _stress(found)
    for name in LABELS:
        if not any(number.startswith(name) for number in numbers):
            labelled = any(sample.label(name) is not None for sample, _ in found)
            notes.append(f"the model gives no {name}" if labelled else f"the data has no {name}")
    if not numbers:
        raise NotDoneError("; ".join(notes))
    part = f"{len(chosen)} of {data.total} labelled structures are compared, evenly spaced"
    remarks = [part] if len(chosen) < data.total else []
    remarks += [] if gap is None else [str(gap)]
    return Measurement(numbers, notes=tuple(notes), remarks=tuple(remarks))


def _predicted(calculator: Calculator, samples: Sequence[Sample]) -> tuple[list[Found], list[str]]:
    """Compute all structures; those that the model refuses are left out with the first reason."""
    found, reasons = [], []
    for sample in samples:
        try:
            found.append((sample, _outputs(calculator, sample)))
        except (AtomslimError, CalculationFailed, RuntimeError, ValueError) as error:
            reasons.append(f"{sample.name}: {' '.join(str(error).split())}")
    if not found:
        raise NotDoneError(f"the model refuses all {len(samples)} structures: {reasons[0]}")
    notes = [f"{len(reasons)} of {len(samples)} structures are left out: {reasons[0]}"] if reasons else []
    return found, notes


def _outputs(calculator: Calculator, sample: Sample) -> dict[str, FloatArray]:
    atoms = with_calculator(sample.to_ase(), calculator)
    outputs = {"energy": np.asarray(energy_of(atoms))}
    for name, get in (("forces", atoms.get_forces), ("stress", atoms.get_stress)):
        if sample.label(name) is None:
            continue
        try:
            outputs[name] = np.asarray(get(), dtype=np.float64)
        except (PropertyNotImplementedError, NotImplementedError):
            continue
    return outputs


def _pairs(found: Sequence[Found], name: str) -> list[tuple[Sample, FloatArray, FloatArray]]:
    """Return structures with label and prediction of those that have both."""
    both = [(sample, sample.label(name), outputs.get(name)) for sample, outputs in found]
    return [(sample, label, value) for sample, label, value in both if label is not None and value is not None]


def _energies(found: Sequence[Found]) -> tuple[dict[str, float], ReferenceGap | None]:
    pairs = _pairs(found, "energy")
    if not pairs:
        return {}, None
    table = np.array([np.bincount(sample.numbers, minlength=120) for sample, _, _ in pairs], dtype=np.float64)
    differences = np.array([float(label) - float(value) for _, label, value in pairs])
    gap = gap_of(table, differences)
    if gap is not None:
        differences -= [gap.of(sample.numbers.tolist()) for sample, _, _ in pairs]
    errors = 1e3 * np.abs(differences) / table.sum(axis=1)
    return {"energy": float(errors.mean()), "energy, largest": float(errors.max())}, gap


def _forces(found: Sequence[Found]) -> dict[str, float]:
    pairs = _pairs(found, "forces")
    if not pairs:
        return {}
    theirs, ours = (np.concatenate([pair[index] for pair in pairs]) for index in (1, 2))
    numbers = {
        "forces": float(np.abs(ours - theirs).mean()),
        "forces, largest": float(np.linalg.norm(ours - theirs, axis=1).max()),
    }
    sizes = np.linalg.norm(theirs, axis=1)
    felt = sizes > SETTLED
    if felt.any():
        cosines = (ours * theirs).sum(axis=1)[felt] / (np.linalg.norm(ours, axis=1) * sizes).clip(1e-12)[felt]
        numbers["forces, cosine"] = float(cosines.mean())
    return numbers


def _stress(found: Sequence[Found]) -> dict[str, float]:
    pairs = _pairs(found, "stress")
    if not pairs:
        return {}
    differences = np.array([voigt_6_to_full_3x3_stress(value) - label for _, label, value in pairs]) / GPa
    return {"stress": float(np.abs(differences).mean()), "stress, largest": float(np.abs(differences).max())}
