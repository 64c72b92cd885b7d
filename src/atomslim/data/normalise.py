"""Mean, spread and per-element references of targets, computed from the training split.

| symbol | variable | meaning |
|---|---|---|
| y_s | value | a target of structure s, in its physical unit |
| n_sZ | composition | atoms of element Z in structure s |
| E_Z | references | contribution of one atom of element Z |
| μ, σ | mean, std | of the rest y_s − Σ_Z n_sZ E_Z; σ with the number of structures as denominator |

Normalised: (y_s − Σ_Z n_sZ E_Z − μ) / σ. Forces have no references, and mean 0 by definition: their σ is the root mean
square of all components of all free atoms (those of held atoms are artefacts of holding them).

References are the least squares solution of Σ_Z n_sZ E_Z ≈ y_s without an intercept, in float64. Structures of equal
composition are one weighted row, which changes nothing in the solution. Where the compositions leave it open (a single
molecule fixes one number, not one for every element), the solution of least norm is taken: sums over these compositions
are right, the values of single elements, and sums for other compositions, mean nothing; `undetermined` says so.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomslim.atoms.sample import Sample
from atomslim.errors import DataError
from atomslim.files import atomic_write

SMALLEST_STD = 1e-12
"""Relative to the magnitude of the values: a smaller spread is rounding."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TargetScale(_Frozen):
    """How one target is normalised."""

    mean: float = Field(default=0.0, description="of the target minus its references, in its unit")
    std: float = Field(default=1.0, gt=0, description="of the same")
    count: int = Field(ge=1, description="number of values (of force components, for forces)")
    references: dict[int, float] = Field(default_factory=dict, description="contribution of one atom of each element")
    undetermined: int = Field(
        default=0, ge=0, description="elements in excess of what the compositions can tell apart (0: all is determined)"
    )

    def reference(self, numbers: NDArray[np.int64]) -> float:
        """Sum of the references of a structure's atoms; raises DataError for an element that has none."""
        if not self.references:
            return 0.0
        missing = sorted(set(numbers.tolist()) - self.references.keys())
        if missing:
            elements = ", ".join(chemical_symbols[number] for number in missing)
            raise DataError(
                f"there is no reference for {elements}: not in the training set that references were fitted on; choose "
                "another split, or the references of a dataset that has it"
            )
        return float(sum(self.references[number] for number in numbers.tolist()))


class Normalisation(_Frozen):
    """Scales of all targets of a dataset, as stored with a model trained on it."""

    targets: dict[str, TargetScale]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Normalisation":
        """Read what `save` wrote; raises DataError for anything else."""
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise DataError(f"{path}: holds no normalisation: {reason}; make it again") from error


def fit(
    samples: Iterable[Sample],
    targets: Sequence[str],
    references: Sequence[str] = (),
    given: Mapping[str, TargetScale] | None = None,
) -> Normalisation:
    """Compute the scales of some targets from the training structures, in one pass.

    Args:
        samples: the training structures only.
        targets: names of the targets, such as ("energy", "forces").
        references: those of them that get per-element references (sums over atoms: energies).
        given: scales fitted elsewhere whose references these targets take.

    Raises:
        DataError: there are no structures; a target is missing in one of them, not finite, or the same everywhere; an
            element has no given reference.

    """
    given = given or {}
    moments = {name: Moments() for name in targets if name not in references}
    compositions = {name: Compositions() for name in references}
    count = 0
    for sample in samples:
        for name, moment in moments.items():
            values = _values(sample, name)
            moment.add(values - given[name].reference(sample.numbers) if name in given else values)
        for name, composition in compositions.items():
            composition.add(sample.numbers, float(_values(sample, name)))
        count += 1
    if not count:
        raise DataError("there are no structures to compute mean and spread from: check the training split")
    scales = {name: moment.scale(name) for name, moment in moments.items()}
    for name, other in given.items():
        scales[name] = scales[name].model_copy(update={"references": other.references})
    scales |= {name: composition.scale(name) for name, composition in compositions.items()}
    return Normalisation(targets={name: scales[name] for name in targets})


class Moments:
    """Count, mean and sum of squared deviations of a stream of numbers (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares, self.square_sum = 0, 0.0, 0.0, 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in an array of any shape."""
        size = values.size
        if not size:
            return
        mean = float(values.mean())
        delta = mean - self.mean
        total = self.count + size
        self.squares += float(((values - mean) ** 2).sum()) + delta**2 * self.count * size / total
        self.square_sum += float((values**2).sum())
        self.mean += delta * size / total
        self.count = total

    @property
    def std(self) -> float:
        """Standard deviation, with the count as denominator."""
        return float(np.sqrt(self.squares / self.count))

    def scale(self, name: str) -> TargetScale:
        """Mean and spread; of forces and stress only the root mean square. Raises DataError where there is none."""
        if not self.count:
            raise DataError(f"{name}: no values to compute its spread from: check the training split")
        if name in {"forces", "stress"}:
            std = float(np.sqrt(self.square_sum / self.count))
            return TargetScale(std=_require_spread(std, 0.0, name), count=self.count)
        return TargetScale(mean=self.mean, std=_require_spread(self.std, self.mean, name), count=self.count)


class Compositions:
    """Moments of a target by composition: all that a linear fit needs to know of any number of structures."""

    def __init__(self) -> None:
        self._moments: dict[bytes, Moments] = {}

    def add(self, numbers: NDArray[np.int64], value: float) -> None:
        """Take in one structure."""
        key = np.bincount(numbers, minlength=1).tobytes()
        self._moments.setdefault(key, Moments()).add(np.array(value))

    def scale(self, name: str) -> TargetScale:
        """Fit the references, and give mean and spread of what they leave over."""
        rows = [np.frombuffer(key, dtype=np.int64) for key in self._moments]
        table = np.zeros((len(rows), max(map(len, rows))))
        for row, counts in zip(table, rows, strict=True):
            row[: len(counts)] = counts
        moments = list(self._moments.values())
        weights = np.array([moment.count for moment in moments], dtype=np.float64)
        means = np.array([moment.mean for moment in moments])
        elements = np.flatnonzero(table.any(axis=0))
        values, rank = weighted_least_squares(table[:, elements], means, weights)
        rest = means - table[:, elements] @ values
        mean = float((weights * rest).sum() / weights.sum())
        within = sum(moment.squares for moment in moments)
        std = float(np.sqrt((within + (weights * (rest - mean) ** 2).sum()) / weights.sum()))
        return TargetScale(
            mean=mean,
            std=_require_rest(std, float(np.abs(means).max()), name),
            count=int(weights.sum()),
            references=dict(zip(elements.tolist(), values.tolist(), strict=True)),
            undetermined=len(elements) - rank,
        )


def weighted_least_squares(
    table: NDArray[np.float64], values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int]:
    """Minimise Σ_s w_s (Σ_Z n_sZ E_Z − y_s)²: the solution of least norm, shape (elements,), and the rank.

    One step of refinement takes out most of the rounding that total energies of 10⁵ eV bring with them.
    """
    root = np.sqrt(weights / weights.sum())
    matrix = table * root[:, None]
    solution, _, rank, _ = np.linalg.lstsq(matrix, values * root, rcond=None)
    correction = np.linalg.lstsq(matrix, (values - table @ solution) * root, rcond=None)[0]
    return solution + correction, int(rank)


def explain(name: str, scale: TargetScale) -> str:
    """Say in one line what a scale is, including what is wrong with its references."""
    text = f"{name}: mean {scale.mean:.6g}, std {scale.std:.6g} from {scale.count} values"
    if scale.references:
        text += f", after references for {len(scale.references)} elements"
    if scale.undetermined:
        text += (
            f"; {scale.undetermined} of these numbers cannot be told from the training set's compositions (least norm "
            "taken): right for these compositions, meaningless for others"
        )
    return text


def values_by_name(samples: Iterable[Sample], names: Sequence[str]) -> Mapping[str, Moments]:
    """Moments of several targets where they are present, without any requirement; for statistics."""
    moments = {name: Moments() for name in names}
    for sample in samples:
        for name in moments.keys() & sample.targets.keys():
            moments[name].add(sample.targets[name])
    return moments


def _values(sample: Sample, name: str) -> NDArray[np.float64]:
    values = sample.targets.get(name)
    if values is None:
        there = ", ".join(sample.targets) or "none"
        raise DataError(f"{sample.name or 'structure'}: has no target {name} (there are {there}): check the key")
    if not np.isfinite(values).all():
        raise DataError(f"{sample.name or 'structure'}: {name} is not finite: remove the record")
    return values[~sample.fixed] if name == "forces" else values


def _require_spread(std: float, mean: float, name: str) -> float:
    if std > SMALLEST_STD * max(abs(mean), 1.0):
        return std
    raise DataError(
        f"{name}: {mean:g} in all training structures, so there is nothing to learn: check the key and the split"
    )


def _require_rest(std: float, magnitude: float, name: str) -> float:
    if std > SMALLEST_STD * max(magnitude, 1.0):
        return std
    raise DataError(
        f"{name}: the references alone give every value of the training structures: take more structures, or none"
    )
