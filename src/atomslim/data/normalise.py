"""Mean, spread and per-element references of targets, computed from the training split.

| symbol | variable | meaning |
|---|---|---|
| y_s | value | a target of structure s, in its physical unit |
| n_sZ | composition | atoms of element Z in structure s |
| E_Z | references | contribution of one atom of element Z |
| μ, σ | mean, std | of the rest y_s − Σ_Z n_sZ E_Z; σ with the number of structures as denominator |

Normalised: (y_s − Σ_Z n_sZ E_Z − μ) / σ. Forces have no references, and mean 0 by definition: their σ is the root mean
square of all components of all free atoms (those of fixed atoms are artefacts of the constraints).

References are a linear fit Σ_Z n_sZ E_Z ≈ y_s without an intercept, in float64 (`atomslim.data.references`), so that
energies add up: with them μ = 0, and σ is the root mean square of the rest. Structures of equal composition are one
weighted row, which changes nothing in the solution. Where the compositions leave it open (a single molecule fixes one
number, not one for every element), the prior decides: given references, or an equal share per atom; then sums
over these compositions are right, and sums for others only as right as the prior; `undetermined` says so.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomslim.atoms.sample import Sample
from atomslim.data.references import ASSUMED_NOISE, fit_references, per_atom
from atomslim.errors import DataError
from atomslim.files import atomic_write
from atomslim.words import number_of

SMALLEST_STD = 1e-12
"""Relative to the magnitude of the values: a smaller spread is rounding."""

BINDING = 5.0
"""In units of the spread: above this, the mean residual of given references is added to them."""

ROUNDING = 1e-9
"""The same for the residual of a fit."""

LISTED = 10
"""Most references listed in a line; all are in the run's file."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TargetScale(_Frozen):
    """How one target is normalised."""

    mean: float = Field(default=0.0, description="of the target minus its references, in its unit")
    std: float = Field(default=1.0, gt=0, description="of the same")
    count: int = Field(ge=1, description="number of values (of force components, for forces)")
    references: dict[int, float] = Field(default_factory=dict, description="contribution of one atom of each element")
    undetermined: int = Field(
        default=0, ge=0, description="number of undetermined combinations of elements (0: all are determined)"
    )
    source: str = Field(default="", description="where the references come from, in words")

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
        given: scales fitted elsewhere, whose references are the prior.

    Raises:
        DataError: there are no structures; a target is missing in one of them, not finite, or the same everywhere; an
            element has no given reference.

    """
    given = given or {}
    moments = {name: Moments() for name in targets if name not in {*references, *given}}
    compositions = {name: Compositions() for name in {*references, *given}}
    count = 0
    for sample in samples:
        for name, moment in moments.items():
            moment.add(_values(sample, name))
        for name, composition in compositions.items():
            if name in given:
                given[name].reference(sample.numbers)
            composition.add(sample.numbers, float(_values(sample, name)))
        count += 1
    if not count:
        raise DataError("there are no structures to compute mean and spread from: check the training split")
    scales = {name: moment.scale(name) for name, moment in moments.items()}
    for name, composition in compositions.items():
        scales[name] = composition.scale(name, given[name].references if name in given else None)
    return Normalisation(targets={name: scales[name] for name in targets})


def compositions_of(samples: Iterable[Sample], name: str) -> "Compositions":
    """Gather a target of the structures that have it; raises DataError if none has, or one is not finite."""
    found = Compositions()
    for sample in samples:
        if name in sample.targets:
            found.add(sample.numbers, float(_values(sample, name)))
    if not found:
        raise DataError(f"{name}: no training structure has it: check the key and the split")
    return found


class Moments:
    """Count, mean and sum of squared deviations of a stream of numbers (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares, self.square_sum = 0, 0.0, 0.0, 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Add an array of any shape."""
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
        """Add one structure."""
        key = np.bincount(numbers, minlength=1).tobytes()
        self._moments.setdefault(key, Moments()).add(np.array(value))

    def __len__(self) -> int:
        """Count the compositions."""
        return len(self._moments)

    @property
    def elements(self) -> set[int]:
        """Atomic numbers of the elements there are."""
        return set(self._rows().elements) if self._moments else set()

    def scale(
        self, name: str, prior: Mapping[int, float] | None = None, *, source: str = "", lenient: bool = False
    ) -> TargetScale:
        """Fit the references, close to those expected (``prior``), and give the spread of the residual.

        Raises DataError if there is no residual; ``lenient``: a spread is assumed then, if there are values at all.
        """
        rows = self._rows()
        expected = None if prior is None else np.array([prior.get(number, np.nan) for number in rows.elements])
        fit = fit_references(rows.table, rows.means, rows.weights, rows.within, expected)
        if not lenient and rows.weights.sum() <= fit.rank:
            raise _nothing_left(name)
        found = dict(zip(rows.elements, fit.values.tolist(), strict=True))
        open_numbers = len(rows.elements) - fit.rank
        return self._scale(name, rows, found, lenient=lenient).model_copy(
            update={"undetermined": open_numbers, "source": source}
        )

    def taken(self, name: str, references: Mapping[int, float], *, source: str) -> TargetScale:
        """Take given references; if the mean residual exceeds its spread, add one number for every atom.

        Raises DataError for an element that has none.
        """
        rows = self._rows()
        TargetScale(count=1, references=dict(references)).reference(np.array(rows.elements))
        scale = self._scale(name, rows, dict(references), lenient=True)
        rest = rows.means - rows.table @ np.array([references[number] for number in rows.elements])
        share = per_atom(rows.table.sum(axis=1), rest, rows.weights)
        moved = {number: value + share for number, value in references.items()}
        other = self._scale(name, rows, moved, lenient=True)
        if scale.std < BINDING * other.std:
            return scale.model_copy(update={"source": source})
        return other.model_copy(update={"source": f"{source}, all of them moved by {share:+.4g} eV, the mean binding"})

    def left_over(self, references: Mapping[int, float]) -> float:
        """Return the rms residual of references, per atom; infinite if an element has none."""
        rows = self._rows()
        if not set(rows.elements) <= references.keys():
            return np.inf
        rest = rows.means - rows.table @ np.array([references[number] for number in rows.elements])
        squares = (rest / rows.table.sum(axis=1)) ** 2
        return float(np.sqrt((rows.weights * squares).sum() / rows.weights.sum()))

    def mean_scale(self, name: str) -> TargetScale:
        """Return mean and spread by structure, without references: such energies are not additive."""
        rows = self._rows()
        mean = float((rows.weights * rows.means).sum() / rows.weights.sum())
        squares = rows.within + float((rows.weights * (rows.means - mean) ** 2).sum())
        std = float(np.sqrt(squares / rows.weights.sum()))
        return TargetScale(mean=mean, std=_require_spread(std, mean, name), count=int(rows.weights.sum()))

    def _rows(self) -> "_Rows":
        counts = [np.frombuffer(key, dtype=np.int64) for key in self._moments]
        table = np.zeros((len(counts), max(map(len, counts))))
        for row, count in zip(table, counts, strict=True):
            row[: len(count)] = count
        elements = np.flatnonzero(table.any(axis=0))
        moments = list(self._moments.values())
        return _Rows(
            elements.tolist(),
            table[:, elements],
            np.array([moment.mean for moment in moments]),
            np.array([moment.count for moment in moments], dtype=np.float64),
            sum(moment.squares for moment in moments),
        )

    @staticmethod
    def _scale(name: str, rows: "_Rows", references: dict[int, float], *, lenient: bool) -> TargetScale:
        rest = rows.means - rows.table @ np.array([references[number] for number in rows.elements])
        count = rows.weights.sum()
        std = float(np.sqrt((rows.within + (rows.weights * rest**2).sum()) / count))
        magnitude = float(np.abs(rows.means).max())
        if lenient and len(rows.weights) > 1 and std <= ROUNDING * max(magnitude, 1.0):
            std = ASSUMED_NOISE * float((rows.weights * rows.table.sum(axis=1)).sum() / count)
        std = _require_rest(std, magnitude, name, alone=len(rows.weights) == 1)
        return TargetScale(std=std, count=int(count), references=references)


@dataclass(frozen=True)
class _Rows:
    """Compositions as a table: atomic numbers of its columns, mean values, numbers of structures, squares inside."""

    elements: list[int]
    table: NDArray[np.float64]
    means: NDArray[np.float64]
    weights: NDArray[np.float64]
    within: float


def explain(name: str, scale: TargetScale) -> str:
    """Describe a scale in one line, including problems of its references."""
    text = f"{name}: mean {scale.mean:.6g}, std {scale.std:.6g} from {scale.count} values"
    if scale.references:
        text += f", after references for {number_of(len(scale.references), 'element')} ({scale.source or 'fitted'})"
        if len(scale.references) <= LISTED:
            text += ": " + ", ".join(f"{chemical_symbols[one]} {value:.6g}" for one, value in scale.references.items())
    if scale.undetermined:
        text += (
            f"; {scale.undetermined} of these numbers are not determined by the training set's compositions: sums are "
            "right for these, for others only as far as the prior"
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


def _require_rest(std: float, magnitude: float, name: str, *, alone: bool) -> float:
    if std > SMALLEST_STD * max(magnitude, 1.0):
        return std
    if alone:
        raise DataError(
            f"{name}: {magnitude:g} in size in all training structures, of one composition, so there is nothing to "
            "learn: check the key and the split"
        )
    raise _nothing_left(name)


def _nothing_left(name: str) -> DataError:
    return DataError(
        f"{name}: the references alone give every value of the training structures: take more structures, or none"
    )
