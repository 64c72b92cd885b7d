"""Labels with a different reference from a model's energies: the difference, and labels corrected for it.

`atomslim.data.references` defines what counts as a different reference.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from atomslim.atoms import AtomsBatch, Sample
from atomslim.atoms.batch import LAST_ELEMENT
from atomslim.data.references import ReferenceGap, fit_references, gap_of
from atomslim.data.splits import evenly
from atomslim.errors import AtomslimWarning
from atomslim.evaluation.batches import batches
from atomslim.evaluation.errors import PER_ATOM, Errors
from atomslim.models.block_model import BlockModel
from atomslim.models.modes import evaluating
from atomslim.progress import tracked

MARK = "*"
"""Marks targets whose errors are those after the fit."""

REMEDY = "fine-tuning moves the model to the labels' reference (e0s)"

STRUCTURES = 128
"""Number of structures, evenly spaced over those given, on which a gap is looked for."""


def marked(target: str, gap: ReferenceGap | None) -> str:
    """Return a target's name, with a mark where its errors are those after the fit."""
    return f"{target}{MARK}" if gap is not None and target in {"energy", PER_ATOM} else target


@dataclass
class EnergyDifferences:
    """Label − prediction of structures, with their compositions."""

    counts: list[NDArray[np.int32]] = field(default_factory=list)
    values: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, difference: Float[Tensor, " b"], atoms: AtomsBatch) -> None:
        """Take in a batch; NaN where a structure has no label."""
        found = difference.detach().double().cpu().numpy()
        known = np.isfinite(found)
        indices = atoms.batch.cpu() * (LAST_ELEMENT + 1) + atoms.numbers.cpu()
        table = torch.bincount(indices, minlength=len(found) * (LAST_ELEMENT + 1)).view(len(found), -1).numpy()
        self.counts.append(table[known].astype(np.int32))
        self.values.append(found[known])

    def add_batch(self, predicted: Mapping[str, Tensor], labels: Mapping[str, Tensor], atoms: AtomsBatch) -> None:
        """Take in a batch's predictions and labels, if both have energies."""
        if "energy" in predicted and "energy" in labels:
            self.add(labels["energy"].double() - predicted["energy"].detach().double(), atoms)

    def errors(self, gap: ReferenceGap) -> dict[str, Errors]:
        """Return the errors of energies after the fit."""
        values, table = np.concatenate(self.values), np.concatenate(self.counts).astype(np.float64)
        fitted = table[:, list(gap.references)] @ np.array(list(gap.references.values()))
        rest, atoms = values - fitted, table.sum(axis=1)
        return {"energy": _errors(rest), PER_ATOM: _errors(rest / atoms)}

    def fit(self) -> dict[int, float]:
        """Return label − prediction by element."""
        values, table = np.concatenate(self.values), np.concatenate(self.counts).astype(np.float64)
        elements = np.flatnonzero(table.any(axis=0))
        fit = fit_references(table[:, elements], values, np.ones(len(values)), prior=np.zeros(len(elements)))
        return dict(zip(elements.tolist(), fit.values.tolist(), strict=True))

    def apart(self) -> float:
        """Return the median of |label − prediction| in eV per atom; NaN where no structure has a label."""
        values = np.concatenate([np.zeros(0), *self.values])
        if not len(values):
            return float("nan")
        return float(np.median(np.abs(values) / np.concatenate(self.counts).sum(axis=1)))

    def gap(self) -> ReferenceGap | None:
        """Return the gap where there is one."""
        if not self.values:
            return None
        return gap_of(np.concatenate(self.counts).astype(np.float64), np.concatenate(self.values))


def find_gap(
    model: BlockModel, task: str, samples: Sequence[Sample], batch_size: int = 16, limit: int = STRUCTURES
) -> ReferenceGap | None:
    """Compare a task's energies with labels on some structures; None where they have none, or agree within errors."""
    if model.task(task).of_kind("energy") is None:
        return None
    labelled = [
        sample for sample in (samples[index] for index in evenly(len(samples), limit)) if "energy" in sample.targets
    ]
    return differences(model, task, labelled, batch_size).gap()


def differences(model: BlockModel, task: str, samples: Sequence[Sample], batch_size: int) -> EnergyDifferences:
    """Return label − prediction of the energies of structures that have one; leaves the model's mode as it was."""
    found = EnergyDifferences()
    given = batches(model, task, samples, batch_size)
    with evaluating(model):
        for batch in tracked(given, f"references of energies, {task}", len(samples), size=len):
            found.add_batch(model.predict(batch.atoms, task, batch.topology), batch.targets, batch.atoms)
    return found


def without_gap(samples: Iterable[Sample], gap: ReferenceGap | None) -> list[Sample]:
    """Return structures whose energies are on the model's reference: label minus the gap of their elements."""
    return [sample if gap is None else lowered(sample, gap.references) for sample in samples]


def on_reference_of(model: BlockModel, task: str, samples: Sequence[Sample]) -> list[Sample]:
    """Return structures on the reference of a model's energies; warns if their own differs."""
    gap = find_gap(model, task, samples)
    if gap is not None:
        text = f"task {task}: {gap}; errors of energies are those after this fit, and {REMEDY}"
        warnings.warn(text, AtomslimWarning, stacklevel=2)
    return without_gap(samples, gap)


def lowered(sample: Sample, references: dict[int, float]) -> Sample:
    """Return a structure with the references of its atoms subtracted from its energy, if it has one."""
    if "energy" not in sample.targets:
        return sample
    rest = sum(references.get(number, 0.0) for number in sample.numbers.tolist())
    return replace(sample, targets={**sample.targets, "energy": sample.targets["energy"] - rest})


def _errors(values: NDArray[np.float64]) -> Errors:
    return Errors(float(np.abs(values).mean()), float(np.sqrt((values**2).mean())), len(values), "eV")
