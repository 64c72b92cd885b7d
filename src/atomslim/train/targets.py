"""The targets of a task: what is learned by default, how it is normalised, and which references energies get.

Where per-element references come from, in words:

| `e0s` | references |
|---|---|
| empty | isolated atoms' in the data, if of all elements; else fitted to the training set (near a model that fits) |
| `fit` | fitted on the training set alone |
| `isolated` | those of isolated atoms: structures of one atom, not periodic or marked `config_type=IsolatedAtom` |
| `model` | those of the model's task |
| `mean` | none: a mean per structure, so energies are not additive |
| `H=-13.6,C=-1029.5`, a mapping, a file | as given |

Given ones, and those of isolated atoms, lack the binding of the structures; where this is more than the spread of the
energies, its mean per atom is added to all of them, because a head that starts near 0 would take long to get there.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from ase.data import atomic_numbers, chemical_symbols

from atomslim.atoms.sample import ENERGIES, HESSIAN
from atomslim.data import Dataset
from atomslim.data.in_memory import opened
from atomslim.data.info import DatasetInfo
from atomslim.data.mixing import TaskData
from atomslim.data.normalise import Compositions, Normalisation, TargetScale, compositions_of, fit
from atomslim.data.references import ISOLATED_ATOM
from atomslim.data.survey import Survey
from atomslim.errors import ConfigError, DataError
from atomslim.evaluation.classification import require_labels
from atomslim.models.block_model import BlockModel
from atomslim.models.losses import Term
from atomslim.models.tasks import PROBABILITY, Target, Task
from atomslim.train.options import ClassWeights, E0s, TargetOptions, TaskOptions

FORCE_WEIGHT = 100.0
"""Weight of forces beside energies in fine-tuning (arXiv 2310.16802)."""

STRESS = "stress"


# -- binary labels


def base_rate(train: TaskData, name: str) -> TargetScale:
    """Return the fraction of ones of a label among the training structures, as its mean.

    Raises DataError for a label that is neither 0 nor 1, and unless there are both.
    """
    values: list[float] = []
    for index in range(len(train)):
        sample = train[index]
        label = sample.label(name)
        if label is not None:
            require_labels(label.reshape(1), name, [sample.name])
            values.append(float(label))
    share = float(np.mean(values))
    if share in {0.0, 1.0}:
        raise DataError(
            f"{train.dataset.name}: {name} is {share:g} in all {len(values)} structures for training that have it: "
            "there is nothing to distinguish; choose another split, or leave it out"
        )
    return TargetScale(mean=share, count=len(values))


def class_target(name: str, options: TargetOptions, scale: TargetScale) -> Target:
    """Return the target of a label: a head of zeros gives the fraction of ones, or one half for balanced classes."""
    mean = 0.0 if options.class_weights == "balanced" else math.log(scale.mean / (1 - scale.mean))
    return Target(
        name=name, kind="binary", reduction=options.reduction, unit=PROBABILITY, mean=mean, base_rate=scale.mean
    )


def class_term(task: str, head: Target, options: TargetOptions, scale: TargetScale) -> Term:
    """Return what a label contributes to the loss."""
    weight = positive_weight(scale.mean) if options.class_weights == "balanced" else 1.0
    return Term(task, head.name, options.weight, options.loss, head.std, 1.0, head, positive_weight=weight)


def own_share(target: Target) -> TargetScale:
    """Return the fraction of ones that a model's target was trained with."""
    share = 1 / (1 + math.exp(-target.mean)) if target.base_rate is None else target.base_rate
    return TargetScale(mean=share, count=1)


def positive_weight(share: float) -> float:
    """Return the weight of positives that balances the classes, from the fraction of ones."""
    return (1 - share) / share


def class_note(name: str, scale: TargetScale, weights: ClassWeights) -> str:
    """Say how many labels are 1, and how they are weighted."""
    weight = positive_weight(scale.mean)
    text = f"{name}: 1 for {scale.mean * scale.count:.0f} of {scale.count} labels for training ({scale.mean:.1%}); "
    if weights == "balanced":
        return text + f"class_weights=balanced: 1 counts {weight:.3g} times, and probabilities are for balanced classes"
    return text + f"class_weights=none: all count equally (balanced: 1 counts {weight:.3g} times)"


# -- references of energies


RULES = ("", "fit", "isolated", "model", "mean")

EXTENSIVE = ("U0", "U", "H", "G")
"""Scalars of QM9 that are total energies of molecules."""

NEAR = 5.0
"""eV per atom: a larger residual means that a model's references are another method's."""

SAME = 1.0
"""eV per atom: with a smaller residual, a model's references are kept for elements that the data lack."""

SINGLE_ATOMS = 2000
"""Most structures of one atom that are read."""


@dataclass(frozen=True)
class Inherited:
    """What a task may inherit from the model: reference energies by the model's tasks."""

    references: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: BlockModel, task: str | None = None) -> "Inherited":
        """Return those of one task, or of all that have some."""
        tasks = [model.task(task)] if task else list(model.tasks.values())
        energies = {one.name: one.of_kind("energy") for one in tasks}
        return cls({name: found.references for name, found in energies.items() if found and found.references})

    def nearest(self, compositions: Compositions, limit: float = NEAR) -> str | None:
        """Return the task whose references have the smallest residual, or None if all exceed ``limit`` per atom."""
        found = {task: compositions.left_over(references) for task, references in self.references.items()}
        best = min(found, key=lambda task: found[task], default=None)
        return best if best is not None and found[best] <= limit else None


def is_extensive(name: str, options: TargetOptions) -> bool:
    """Say whether a target is an energy that is a sum over atoms."""
    return options.reduction == "sum" and (options.kind == "energy" or (options.kind == "scalar" and name in EXTENSIVE))


def energy_scale(data: TaskData, name: str, e0s: E0s, inherited: Inherited) -> TargetScale:
    """Return references, mean and spread of an energy, as ``e0s`` says, fitted on the training structures that have it.

    Raises:
        ConfigError: a rule, table or file that cannot be understood, or missing references.
        DataError: no structure has the energy, an element has no reference, or isolated atoms contradict each other.

    """
    rule = parsed_e0s(e0s)
    compositions = compositions_of((data[index] for index in range(len(data))), name)
    if isinstance(rule, dict):
        return compositions.taken(name, rule, source="as given by e0s")
    if rule == "mean":
        return compositions.mean_scale(name)
    if rule in {"", "isolated"} and (atoms := isolated_atoms(data.dataset, name)):
        if rule == "isolated" or compositions.elements <= atoms.keys():
            return compositions.taken(name, atoms, source="isolated atoms of the data")
        source = "fitted; where undetermined: isolated atoms of the data, for the others an equal share per atom"
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
            raise ConfigError("e0s model: no task of the model has references for all elements of the data: use fit")
        return compositions.taken(name, inherited.references[task], source=f"those of the model's task {task}")
    if task is None:
        return compositions.scale(name, source="fitted; where undetermined: an equal share per atom", lenient=True)
    own = inherited.references[task]
    source = f"fitted; where undetermined: those of the model's task {task}"
    scale = compositions.scale(name, own, source=source, lenient=True)
    others = own if compositions.left_over(own) <= SAME else {}
    return scale.model_copy(update={"references": dict(sorted({**others, **scale.references}.items()))})


def isolated_atoms(dataset: Dataset, name: str = "energy") -> dict[int, float]:
    """Return the energies of isolated atoms by element; raises DataError where two of an element contradict each other.

    These are structures of one atom that are not periodic, or marked as isolated in their file.
    """
    found: dict[int, float] = {}
    for index in np.flatnonzero(np.asarray(dataset.natoms) == 1)[:SINGLE_ATOMS]:
        sample = dataset[int(index)]
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

    Raises ConfigError for a text that is neither a rule nor a table nor a file, and for unknown elements.
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
        raise ConfigError(f"e0s {e0s}: is neither a rule ({rules}) nor a table such as H=-13.6,C=-1029.5 nor a file")
    return _of_file(path)


def _of_file(path: Path) -> dict[int, float]:
    if path.suffix.lower() in {".json", ".yaml", ".yml"}:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
        except (yaml.YAMLError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path}: is not a table of energies: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path}: is not a table of energies: write one such as {{H: -13.6, C: -1029.5}}")
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
            raise ConfigError(f"{where}: {text[:20]!r} is not an element: write symbols or atomic numbers")
        try:
            found[number] = float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {str(value)[:20]!r} of {text} is not an energy in eV") from error
        if not np.isfinite(found[number]):
            raise ConfigError(f"{where}: {value} of {text} is not an energy in eV")
    if not found:
        raise ConfigError(f"{where}: is empty: give an energy for each element")
    return found


# -- all targets of a task


@dataclass(frozen=True)
class Choice:
    """Sources of a task's per-element references: its options, other tasks, the model."""

    e0s: E0s = ""
    known: Mapping[str, Normalisation] = field(default_factory=dict)
    inherited: Inherited = field(default_factory=Inherited)


def default_targets(
    found: Survey,
    forces: Literal["direct", "conservative"] | None,
    info: DatasetInfo | None = None,
    class_weights: ClassWeights = "none",
) -> dict[str, TargetOptions]:
    """Choose targets among the labels of any structure: energy and forces, or else scalars; stress only if asked.

    ``info`` says which of them are labels of 0 and 1.

    Raises DataError where forces are asked for and no structure has them.
    """
    names = [name for name, count in found.counts.items() if count and name not in {STRESS, ENERGIES, HESSIAN}]
    if forces is not None:
        found.require(["forces"])
    if "forces" in names and ("energy" in names or forces == "direct"):
        kind: Literal["direct_forces", "conservative_forces"] = (
            "direct_forces" if forces == "direct" else "conservative_forces"
        )
        energy = {"energy": TargetOptions(kind="energy")} if "energy" in names else {}
        return {**energy, "forces": TargetOptions(kind=kind, loss="l2", weight=FORCE_WEIGHT if energy else 1.0)}
    labels = {name for name in names if info is not None and info.is_label(name)}
    return {
        name: TargetOptions(kind="binary", class_weights=class_weights)
        if name in labels
        else TargetOptions(kind="energy" if name == "energy" else "scalar")
        for name in names
        if name != "forces"
    }


def normalise(train: TaskData, targets: Mapping[str, TargetOptions], choice: Choice) -> Normalisation:
    """Fit each target's mean, spread and references on the training structures that have it.

    Raises DataError for a target that none of them has, or that is the same in all: there would be nothing to learn;
    ConfigError for references of a task that is not known or has none.
    """
    return Normalisation(targets={name: _scale(train, name, options, choice) for name, options in targets.items()})


def _scale(train: TaskData, name: str, options: TargetOptions, choice: Choice) -> TargetScale:
    replace(train, targets=(name,)).require_targets()
    if options.kind == "binary":
        return base_rate(train, name)
    changes = {key: value for key in ("mean", "std") if (value := getattr(options, key)) is not None}
    if options.references is None and options.mean is None and is_extensive(name, options):
        return energy_scale(train, name, choice.e0s, choice.inherited).model_copy(update=changes)
    samples = (train[index] for index in range(len(train)))
    labelled = (sample for sample in samples if sample.label(name) is not None)
    if isinstance(options.references, str):
        found = fit(labelled, [name], given={name: _references_of(options.references, train.name, name, choice.known)})
    else:
        found = fit(labelled, [name], [name] if options.references else [])
    return found.targets[name].model_copy(update=changes)


def _references_of(other: str, task: str, name: str, known: Mapping[str, Normalisation]) -> TargetScale:
    there = {task: scales.targets[name] for task, scales in known.items() if name in scales.targets}
    if other in there and there[other].references:
        return there[other]
    names = ", ".join(task for task, scale in there.items() if scale.references) or "none"
    raise ConfigError(
        f"task {task}: {name}: references of {other!r}: no other task of this name has its own "
        f"(there are: {names}); fit them with references: true"
    )


def require_classes(targets: Mapping[str, TargetOptions], options: TaskOptions, name: str) -> None:
    """Refuse class weights if nothing is classified."""
    if options.class_weights != "none" and all(target.kind != "binary" for target in targets.values()):
        raise ConfigError(
            f"{name}: class_weights: none of {', '.join(targets)} is a label of 0 and 1: name labels with classify"
        )


def require_energy(targets: dict[str, TargetOptions], found: Survey) -> None:
    """Require targets, and add the energy of which conservative forces and stress are derivatives."""
    if not targets:
        found.require(["energy"])
    kinds = {options.kind for options in targets.values()}
    if kinds >= {"direct_forces", "conservative_forces"}:
        raise ConfigError("forces are either direct or conservative: choose one")
    if "stress" in kinds and "conservative_forces" not in kinds:
        raise ConfigError("stress comes from conservative forces: choose forces conservative")
    if "conservative_forces" in kinds and "energy" not in kinds:
        found.require(["energy"])  # of which forces are derivatives
        targets["energy"] = TargetOptions(kind="energy", weight=0.0)


def own_targets(task: Task, given: Mapping[str, TargetOptions]) -> dict[str, TargetOptions]:
    """Return how the model's own targets are validated and, with labels, learned; ``given`` options come first."""
    forces = {"direct_forces", "conservative_forces"}
    own = {
        target.name: TargetOptions(kind=target.kind, loss="l2", weight=FORCE_WEIGHT)
        if target.kind in forces
        else TargetOptions(kind=target.kind, reduction=target.reduction)
        for target in task.targets
    }
    return {name: given.get(name, options).model_copy(update={"kind": options.kind}) for name, options in own.items()}


def own_scales(task: Task) -> Normalisation:
    """Return the model's own scales; eV/Å for conservative forces, which have none, and fractions for binary labels."""
    return Normalisation(
        targets={
            target.name: own_share(target)
            if target.kind == "binary"
            else TargetScale(mean=target.mean, std=target.std, count=1, references=target.references)
            for target in task.targets
        }
    )
