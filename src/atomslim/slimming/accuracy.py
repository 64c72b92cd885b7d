"""How far a student is from its teacher on structures that it did not learn from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from atomslim.atoms.sample import Sample
from atomslim.evaluation.batches import batches
from atomslim.models.block_model import BlockModel
from atomslim.report.page import number
from atomslim.words import number_of


@dataclass(frozen=True)
class Accuracy:
    """Errors against labels."""

    structures: int
    forces: float
    """meV/Å: mean absolute error of components."""
    rms: float
    """meV/Å: root mean square of the labels' components."""
    energy: float
    """meV/atom: mean absolute error."""

    @property
    def share(self) -> float:
        """The error of forces in % of the rms force."""
        return 100 * self.forces / max(self.rms, 1e-9)

    def keeps_to(self, force_bar: float, energy_bar: float) -> bool:
        """Say whether both are within their bars (% of the rms force, meV/atom)."""
        return self.share <= force_bar and self.energy <= energy_bar

    def __str__(self) -> str:
        """Summarise both in one line."""
        forces = f"forces {number(self.forces)} meV/Å ({number(self.share, 2)} % of their rms)"
        return f"{forces}, energy {number(self.energy)} meV/atom on {number_of(self.structures, 'structure')}"

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers."""
        return {**asdict(self), "share": self.share}


def accuracy(model: BlockModel, samples: Sequence[Sample], batch_size: int = 8) -> Accuracy:
    """Compare a model of one task with labels: energies (eV) and forces (n, 3) (eV/Å) of structures."""
    task = model.task().name
    forces, energies = [], []
    for start in range(0, len(samples), batch_size):
        some = samples[start : start + batch_size]
        batch = next(batches(model, task, some, batch_size))
        found = {name: values.double().cpu().numpy() for name, values in _predicted(model, batch, task).items()}
        forces.append(found["forces"] - np.concatenate([sample.targets["forces"] for sample in some]))
        labels = np.array([float(sample.targets["energy"]) for sample in some])
        energies.append((found["energy"] - labels) / np.array([len(sample) for sample in some]))
    labelled = np.concatenate([sample.targets["forces"] for sample in samples])
    return Accuracy(
        structures=len(samples),
        forces=1000 * float(np.abs(np.concatenate(forces)).mean()),
        rms=1000 * float(np.sqrt((labelled**2).mean())),
        energy=1000 * float(np.abs(np.concatenate(energies)).mean()),
    )


def _predicted(model: BlockModel, batch: Any, task: str) -> dict[str, Any]:
    return model.predict(batch.atoms, task, batch.topology)
