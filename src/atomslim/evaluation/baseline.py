"""Errors of predicting the mean: what a model has to beat, on the same labels that it is compared with.

| label | predicted |
|---|---|
| energy | Σ_Z n_Z e_Z, fitted to these labels; the mean per atom if there are too few |
| other numbers of a structure | their mean |
| binary labels | the fraction of ones, as the probability of each; as a decision, the majority |
| forces, stress | zero |
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.evaluation.accuracy import Accuracy
from atomslim.evaluation.classification import ClassErrors, with_mean
from atomslim.evaluation.errors import PER_ATOM, Errors

PER_ELEMENT = 2
"""Fewest structures per element for a fit."""

_SIZE = 120


@dataclass
class Baseline:
    """Labels so far, batch by batch."""

    units: Mapping[str, str] = field(default_factory=dict)
    free_atoms_only: bool = True
    classes: Collection[str] = ()
    """Names of the binary labels."""

    def __post_init__(self) -> None:
        """Start without labels."""
        self._nothing = Accuracy(self.units, free_atoms_only=self.free_atoms_only)
        self._labels: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}

    def add(self, labels: Mapping[str, Tensor], atoms: AtomsBatch) -> None:
        """Take in the labels of a batch; missing ones are NaN."""
        zeros = {name: torch.zeros_like(label) for name, label in labels.items() if label.dim() > 1}
        self._nothing.add(zeros, labels, atoms)
        index = atoms.batch * _SIZE + atoms.numbers
        counts = torch.bincount(index, minlength=atoms.num_structures * _SIZE).reshape(-1, _SIZE)
        compositions = counts.double().cpu().numpy()
        for name, label in labels.items():
            if label.dim() == 1:
                known = torch.isfinite(label).cpu().numpy()
                values = label.double().cpu().numpy()[known]
                self._labels.setdefault(name, []).append((values, compositions[known]))

    def result(self) -> dict[str, Errors]:
        """Return the errors by target, alphabetically."""
        unit = self._nothing.unit
        found: dict[str, Errors] = {name: _errors(error, unit(name)) for name, error in self._rests().items()}
        known = {
            name: np.concatenate([np.zeros(0), *(values for values, _ in self._labels.get(name, []))])
            for name in self.classes
        }
        found |= {name: base_rate(values, float(values.mean())) for name, values in known.items() if values.size}
        if any(bool(sums[2]) for sums in self._nothing.sums.values()):
            found |= self._nothing.result()
        return with_mean(dict(sorted(found.items())))

    def by_element(self) -> dict[str, float]:
        """Return the mean absolute force in eV/Å by element, lightest first."""
        return self._nothing.by_element()

    def _rests(self) -> dict[str, NDArray[np.float64]]:
        """Return the differences between labels of structures and what is predicted."""
        rests: dict[str, NDArray[np.float64]] = {}
        for name, parts in self._labels.items():
            values, compositions = (np.concatenate(one) for one in zip(*parts, strict=True))
            if not values.size or name in self.classes:
                continue
            rests[name] = values - (_fitted(compositions, values) if name == "energy" else values.mean())
            if name == "energy":
                rests[PER_ATOM] = rests[name] / compositions.sum(axis=1)
        return rests


def base_rate(labels: NDArray[np.float64], share: float) -> ClassErrors:
    """Return the errors of giving every binary label the same probability."""
    return ClassErrors.of(np.full_like(labels, share), labels)


def _fitted(compositions: NDArray[np.float64], energies: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return energies by a least squares fit to compositions, or to numbers of atoms."""
    table = compositions[:, compositions.any(axis=0)]
    if len(np.unique(table, axis=0)) > 1 and len(energies) < PER_ELEMENT * table.shape[1]:
        table = table.sum(axis=1, keepdims=True)
    fitted: NDArray[np.float64] = table @ np.linalg.lstsq(table, energies, rcond=None)[0]
    return fitted


def _errors(rest: NDArray[np.float64], unit: str) -> Errors:
    return Errors(float(np.abs(rest).mean()), float(np.sqrt((rest**2).mean())), rest.size, unit)
