"""Per-element reference energies of a task: which ones, and where they come from, in words.

| `e0s` | references |
|---|---|
| empty | isolated atoms' in the data, if of all elements; else fitted to the training set, near the model's that fit |
| `fit` | fitted on the training set alone |
| `isolated` | those of isolated atoms: structures of one atom, not periodic or marked `config_type=IsolatedAtom` |
| `model` | those of the model's task |
| `mean` | none: a mean per structure, so that energies do not add up |
| `H=-13.6,C=-1029.5`, a mapping, a file | as given |

Given ones, and those of isolated atoms, lack the binding of the structures; where this is more than the spread of the
energies, its mean per atom is added to all of them, because a head that starts near 0 would be long on its way there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase.data import atomic_numbers, chemical_symbols

from atomslim.data import Dataset
from atomslim.data.in_memory import opened
from atomslim.data.mixing import TaskData
from atomslim.data.normalise import Compositions, TargetScale, compositions_of
from atomslim.data.references import ISOLATED_ATOM
from atomslim.errors import ConfigError, DataError
from atomslim.models.block_model import BlockModel
from atomslim.train.options import E0s, TargetOptions

RULES = ("", "fit", "isolated", "model", "mean")

EXTENSIVE = ("U0", "U", "H", "G")
"""Scalars of QM9 that are total energies of molecules."""

NEAR = 5.0
"""eV per atom: references of a model that leave more over are another method's."""

SAME = 1.0
"""eV per atom: references of a model that leave less over are kept for elements that the data lack."""

SINGLE_ATOMS = 2000
"""Structures of one atom that are looked at, at most."""


@dataclass(frozen=True)
class Inherited:
    """What a task may take over from the model that it is learned with: reference energies by the model's tasks."""

    references: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: BlockModel, task: str | None = None) -> "Inherited":
        """Return those of one task, or of all that have some."""
        tasks = [model.task(task)] if task else list(model.tasks.values())
        energies = {one.name: one.of_kind("energy") for one in tasks}
        return cls({name: found.references for name, found in energies.items() if found and found.references})

    def nearest(self, compositions: Compositions, limit: float = NEAR) -> str | None:
        """Return the task whose references leave least over, or None where all leave more than ``limit`` per atom."""
        found = {task: compositions.left_over(references) for task, references in self.references.items()}
        best = min(found, key=lambda task: found[task], default=None)
        return best if best is not None and found[best] <= limit else None


def is_extensive(name: str, options: TargetOptions) -> bool:
    """Tell whether a target is an energy that is a sum over atoms."""
    return options.reduction == "sum" and (options.kind == "energy" or (options.kind == "scalar" and name in EXTENSIVE))


def energy_scale(data: TaskData, name: str, e0s: E0s, inherited: Inherited) -> TargetScale:
    """Return references, mean and spread of an energy, as ``e0s`` says, fitted on the training structures that have it.

    Raises:
        ConfigError: a rule, table or file that cannot be understood, or references that are not there.
        DataError: no structure has the energy, an element has no reference, or isolated atoms contradict each other.

    """
    rule = parsed_e0s(e0s)
    compositions = compositions_of((data[place] for place in range(len(data))), name)
    if isinstance(rule, dict):
        return compositions.taken(name, rule, source="as given by e0s")
    if rule == "mean":
        return compositions.mean_scale(name)
    if rule in {"", "isolated"} and (atoms := isolated_atoms(data.dataset, name)):
        if rule == "isolated" or compositions.elements <= atoms.keys():
            return compositions.taken(name, atoms, source="isolated atoms of the data")
        source = "fitted; what is left open: isolated atoms of the data, for the others an equal share per atom"
        return compositions.scale(name, atoms, source=source, lenient=True)
    if rule == "isolated":
        raise ConfigError(
            f"e0s isolated: {data.dataset.name} has no structure of one atom that is not periodic or marked "
            f"config_type={ISOLATED_ATOM}: add one for each element, or give a table"
        )
    return _fitted(compositions, name, rule, inherited)


def _fitted(compositions: Compositions, name: str, rule: str, inherited: Inherited) -> TargetScale:
    task = None if rule == "fit" else inherited.nearest(compositions, np.inf if rule == "model" else NEAR)
    if rule == "model":
        if task is None:
            raise ConfigError("e0s model: no task of the model has references for all elements of the data: say fit")
        return compositions.taken(name, inherited.references[task], source=f"those of the model's task {task}")
    if task is None:
        return compositions.scale(name, source="fitted; what is left open: an equal share per atom", lenient=True)
    own = inherited.references[task]
    source = f"fitted; what is left open: those of the model's task {task}"
    scale = compositions.scale(name, own, source=source, lenient=True)
    others = own if compositions.left_over(own) <= SAME else {}
    return scale.model_copy(update={"references": dict(sorted({**others, **scale.references}.items()))})


def isolated_atoms(dataset: Dataset, name: str = "energy") -> dict[int, float]:
    """Return the energies of isolated atoms by element; raises DataError where two of an element contradict each other.

    These are structures of one atom that are not periodic, or marked as isolated in their file.
    """
    found: dict[int, float] = {}
    for place in np.flatnonzero(np.asarray(dataset.natoms) == 1)[:SINGLE_ATOMS]:
        sample = dataset[int(place)]
        if name not in sample.targets or (sample.pbc.any() and sample.group != ISOLATED_ATOM):
            continue
        number, energy = int(sample.numbers[0]), float(sample.targets[name])
        if not np.isclose(found.setdefault(number, energy), energy, rtol=0, atol=1e-3):
            raise DataError(
                f"{sample.name}: isolated {chemical_symbols[number]} has {energy:.6g} eV here and {found[number]:.6g} "
                "eV elsewhere: leave one out, or give e0s"
            )
    return found


def parsed_e0s(e0s: E0s) -> str | dict[int, float]:
    """Return a rule, or reference energies by atomic number.

    Raises ConfigError for a text that is neither a rule nor a table nor a file, and for elements that there are not.
    """
    if isinstance(e0s, Mapping):
        return _numbered(e0s, "e0s")
    if e0s in RULES:
        return e0s
    if "=" in e0s and not Path(e0s).exists():
        pairs = [pair.partition("=") for pair in e0s.replace(",", " ").split()]
        return _numbered({element: value for element, _, value in pairs}, f"e0s {e0s}")
    path = Path(e0s)
    if not path.is_file():
        rules = ", ".join(filter(None, RULES))
        raise ConfigError(f"e0s {e0s}: is no rule ({rules}), no table such as H=-13.6,C=-1029.5, and no file")
    return _of_file(path)


def _of_file(path: Path) -> dict[int, float]:
    if path.suffix.lower() in {".json", ".yaml", ".yml"}:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
        except (yaml.YAMLError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path}: is no table of energies: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path}: is no table of energies: write one such as {{H: -13.6, C: -1029.5}}")
        return _numbered(content, str(path))
    found = isolated_atoms(opened(str(path)))
    if not found:
        raise ConfigError(f"{path}: has no structure of one atom with an energy: give one for each element")
    return found


def _numbered(table: Mapping[Any, Any], where: str) -> dict[int, float]:
    found: dict[int, float] = {}
    for element, value in table.items():
        text = str(element).strip()
        number = int(text) if text.isdecimal() else atomic_numbers.get(text.capitalize(), 0)
        if not 0 < number < len(chemical_symbols):
            raise ConfigError(f"{where}: {text[:20]!r} is no element: write symbols or atomic numbers")
        try:
            found[number] = float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {str(value)[:20]!r} of {text} is no energy in eV") from error
        if not np.isfinite(found[number]):
            raise ConfigError(f"{where}: {value} of {text} is no energy in eV")
    if not found:
        raise ConfigError(f"{where}: is empty: give an energy for each element")
    return found
