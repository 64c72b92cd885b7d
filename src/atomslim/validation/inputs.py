"""Inputs of a validation: structures, and the end points of a path between two minima."""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator

from atomslim.atoms import Sample, from_ase, validate
from atomslim.atoms.charges import charge_or_spin
from atomslim.errors import AtomslimWarning, ConfigError
from atomslim.inference.calculator import Calculator
from atomslim.inference.inputs import naming_structure, open_inputs, read_inputs
from atomslim.models.scope import STRICT, Watch
from atomslim.validation.reference import Labels
from atomslim.validation.structures import built_in

MOST_STRUCTURES = 10
"""Most structures of a file, evenly spaced: a check can take minutes for each."""

RECORD = re.compile(r": record (\d+) \(counting from 0\)$")
"""How readers name a structure of a file."""

LABELLED_STRUCTURES = 3
"""Structures of labelled data, if none are named."""

Structures: TypeAlias = str | os.PathLike[str] | Sequence[Any] | Mapping[str, Atoms] | None
"""Files or datasets, structures, or structures by name; None: defaults."""


@dataclass(frozen=True)
class EndPoints:
    """Two structures of the same atoms, a minimum each."""

    name: str
    first: Atoms
    last: Atoms


def structures_of(
    given: Structures, calculator: AseCalculator, labels: Labels | None, *, quick: bool
) -> dict[str, Atoms]:
    """Return structures by name: those given, else some of the labelled ones, else built-in ones that the model knows.

    Raises ConfigError where there are none, StructureError for what cannot be read or what no model can take.
    """
    if given is None and labels is not None:
        return named(labels.spread(LABELLED_STRUCTURES))
    if given is None:
        found = built_in(_elements(calculator), quick=quick)
        if not found:
            raise ConfigError("the model knows no built-in structure's elements: name structures")
        return found
    found = dict(given) if isinstance(given, Mapping) else _read(given)
    if not found:
        raise ConfigError("structures: there are none: name some, or leave the argument out for built-in ones")
    for name, atoms in found.items():
        _require_sound(name, atoms)
    return found


def named(samples: Sequence[Sample]) -> dict[str, Atoms]:
    """Return samples as structures by their names, or by their indices where names are missing or not unique."""
    names = [sample.name for sample in samples]
    return {
        sample.name if sample.name and names.count(sample.name) == 1 else f"structure {index}": sample.to_ase()
        for index, sample in enumerate(samples)
    }


def end_points_of(given: str | os.PathLike[str] | tuple[Atoms, Atoms] | None) -> EndPoints | None:
    """Return the end points of a file that holds two structures, or of two structures.

    Raises ConfigError where they are not two, or not of the same atoms in the same order and cell.
    """
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        name = Path(given).name
        frames = [frame.atoms for frame in read_inputs(open_inputs([given]))]
    else:
        name, frames = "end points", list(given)
    if len(frames) != 2:
        raise ConfigError(f"{name}: holds {len(frames)} structures: end points are two, the first and the last")
    first, last = frames
    for end, atoms in (("first", first), ("last", last)):
        _require_sound(f"{name}, {end}", atoms)
    if first.numbers.tolist() != last.numbers.tolist():
        raise ConfigError(f"{name}: both end points need the same atoms in the same order")
    if (first.pbc != last.pbc).any() or not np.allclose(first.cell, last.cell):
        raise ConfigError(f"{name}: both end points need the same cell")
    return EndPoints(name, first, last)


def _read(given: str | os.PathLike[str] | Sequence[Any]) -> dict[str, Atoms]:
    found = {}
    for number, one in enumerate([given] if isinstance(given, str | os.PathLike | Atoms) else given):
        if isinstance(one, Atoms):
            found[f"structure {number}"] = one
            continue
        frames = list(read_inputs(open_inputs([str(one)])))
        step = max(1, -(-len(frames) // MOST_STRUCTURES))
        if step > 1:
            part = f"{len(frames[::step])} of {len(frames)} structures are checked, evenly spaced"
            warnings.warn(f"{one}: {part}: put others into separate files", AtomslimWarning, stacklevel=2)
        for frame in islice(frames, 0, None, step):
            name = _short(frame.name, len(frames))
            found[name if name not in found else f"{name}, structure {len(found)}"] = frame.atoms
    return found


def _require_sound(name: str, atoms: Atoms) -> None:
    """Raise StructureError for a structure that no model can take."""
    with naming_structure(str(name)):
        validate(from_ase(atoms))


def outside(calculators: Mapping[str, AseCalculator], frames: Mapping[str, Atoms], labels: Labels | None) -> list[str]:
    """Warn once each of elements that models were not trained on, and of ignored charges or spins."""
    looked = {f"the {who}": one for who, one in calculators.items() if isinstance(one, Calculator)}
    watches = [Watch.over(one.model, one.task.name, strict=False, who=who) for who, one in looked.items()]
    samples = () if labels is None else labels.samples
    found = [(name, atoms.numbers, charge_or_spin(atoms)) for name, atoms in frames.items()]
    found += [(sample.name, sample.numbers, sample.ignored) for sample in samples]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for watch in watches:
            for name, numbers, _ in found:
                watch.look(name, numbers)
    charged = next((f"{name}: {ignored}" for name, _, ignored in found if ignored), None)
    notes = [str(one.message).removesuffix(STRICT) for one in said]
    return notes + ([] if charged is None else [f"{charged}: all checks are made without charges and spins"])


def _short(name: str, count: int) -> str:
    """Return "MgO.xyz" for "MgO.xyz: record 0 (counting from 0)" of a file with one structure, else "MgO.xyz 0"."""
    return RECORD.sub("" if count == 1 else r" \1", name)


def _elements(calculator: AseCalculator) -> set[int] | None:
    """Return the elements that a model's references know; None if it has none."""
    targets = calculator.task.targets if isinstance(calculator, Calculator) else ()
    return next((set(target.references) for target in targets if target.references), None)
