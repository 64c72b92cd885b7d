"""How far predictions are from labels, gathered batch by batch: mean absolute and root mean square errors.

For binary labels, probabilities and labels are gathered, see `atomslim.evaluation.classification`.

| name | errors of | unit |
|---|---|---|
| energy | each structure's energy | eV |
| energy per atom | the same divided by its number of atoms | eV |
| forces | each component of each atom, free atoms only where some are fixed | eV/Å |
| stress | each component | eV/Å³ |
| any other | each structure's number | the dataset's |

Missing labels (NaN) are left out.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.errors import DataError
from atomslim.evaluation.classification import ClassErrors, require_labels, with_mean
from atomslim.evaluation.errors import PER_ATOM, Errors

_INTERNAL = {"energy": "eV", PER_ATOM: "eV", "forces": "eV/Å", "stress": "eV/Å³"}


@dataclass
class Accuracy:
    """Sums of errors by target, to which batches are added."""

    units: Mapping[str, str] = field(default_factory=dict)
    """Of targets that are not energy, forces or stress."""
    free_atoms_only: bool = True
    labels: Collection[str] = ()
    """Names of the binary targets, for which probabilities are predicted."""
    sums: dict[str, Float[Tensor, "3"]] = field(default_factory=dict)
    """Σ |error|, Σ error², and the number of errors, on the CPU in float64."""
    classes: dict[str, list[Float[Tensor, "k 2"]]] = field(default_factory=dict)
    """Probabilities and labels of binary targets, on the CPU in float64."""
    elements: Float[Tensor, "Z 2"] = field(default_factory=lambda: torch.zeros(120, 2, dtype=torch.float64))
    """Σ |error| and the number of errors of forces, by atomic number."""

    def add(
        self,
        predicted: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        atoms: AtomsBatch,
        locations: Sequence[str] = (),
    ) -> None:
        """Compare the predictions of one batch, in physical units, with its labels, for the targets that both have.

        Labels that are missing (NaN) are left out; a prediction that is not finite makes the error infinite or NaN.
        Raises DataError, with the structure's name in ``locations``, for a binary label that is neither 0 nor 1.
        """
        for name in predicted.keys() & labels.keys():
            if name in self.labels:
                self._add_class(name, predicted[name], labels[name], locations)
                continue
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

    def _add_class(self, name: str, predicted: Tensor, label: Tensor, locations: Sequence[str]) -> None:
        wanted = label.double().cpu()
        require_labels(wanted.numpy(), name, locations)
        known = torch.isfinite(wanted)
        pairs = torch.stack([predicted.detach().double().cpu(), wanted], dim=-1)[known]
        self.classes.setdefault(name, []).append(pairs)

    def share(self, names: Collection[str], rank: int, size: int, summed: Callable[[Tensor], Tensor]) -> None:
        """Combine the sums of several processes, all of which call it, for the targets they may have."""
        for name in names:
            if name in self.labels:
                own = torch.cat([torch.zeros(0, 2, dtype=torch.float64), *self.classes.get(name, [])])
                self.classes[name] = [_gathered(own, rank, size, summed)]
            else:
                self.sums[name] = summed(self.sums.get(name, torch.zeros(3, dtype=torch.float64)))

    def _add_elements(self, error: Float[Tensor, "n 3"], numbers: Int[Tensor, " n"]) -> None:
        sums = torch.stack([error.abs().sum(-1), torch.full_like(error[:, 0], 3.0)], dim=-1)
        self.elements.index_add_(0, numbers.cpu(), sums.cpu())

    @property
    def compared(self) -> bool:
        """Whether any prediction had a label."""
        pairs = (part for parts in self.classes.values() for part in parts)
        return any(bool(sums[2]) for sums in self.sums.values()) or any(map(len, pairs))

    def by_element(self) -> dict[str, float]:
        """Return the mean absolute error of forces in eV/Å by element, lightest first."""
        return {
            chemical_symbols[number]: total / count
            for number, (total, count) in enumerate(self.elements.tolist())
            if count
        }

    def result(self) -> dict[str, Errors]:
        """Return the errors by target, the mean over labels last; raises DataError if nothing was compared."""
        found: dict[str, Errors] = {
            name: Errors(total / count, (squares / count) ** 0.5, int(count), self.unit(name))
            for name, (total, squares, count) in ((name, sums.tolist()) for name, sums in self.sums.items())
            if count
        }
        pairs = {name: torch.cat(parts) for name, parts in self.classes.items() if sum(map(len, parts))}
        found |= {name: ClassErrors.of(*pair.T.numpy()) for name, pair in pairs.items()}
        if not found:
            raise DataError("no prediction has a label to compare with: check the dataset's targets and the task")
        return with_mean(dict(sorted(found.items())))

    def unit(self, name: str) -> str:
        """Return the unit of a target's errors."""
        return _INTERNAL.get(name) or self.units.get(name, "eV")


def _gathered(
    own: Float[Tensor, "k 2"], rank: int, size: int, summed: Callable[[Tensor], Tensor]
) -> Float[Tensor, "K 2"]:
    """Return the rows of all processes, in their order, using sums only."""
    counts = torch.zeros(size, dtype=torch.float64)
    counts[rank] = len(own)
    ends = summed(counts).cumsum(0).long()
    rows = torch.zeros(int(ends[-1]), 2, dtype=torch.float64)
    rows[int(ends[rank]) - len(own) : int(ends[rank])] = own
    return summed(rows)
