"""Training, validation and test sets: the original's, published ones, by group or scaffold, and random ones.

JMP's splits (arXiv 2310.16802) shuffle 0, 1, … with numpy's `RandomState(42)` and cut the result in the order training,
validation, test. `original` knows the sizes for each dataset:

| dataset | training | validation | test |
|---|---|---|---|
| rMD17, MD17 | 950 | 50 | rest |
| MD22 | 95 % of 600 to 8000, by molecule | 5 % of them | rest |
| QM9 | rest | 10 000 | 10 000 |
| SPICE, QMOF | 80 % | 10 % | rest |
| MatBench | its fold's training set, shuffled, without its last 10 % | those | the fold |
| ANI-1x | whole groups: 80 % | 10 % | rest |

A split is saved as JSON beside the run that used it, so that the test set stays the same.
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atomslim.errors import ConfigError, DataError
from atomslim.files import atomic_write
from atomslim.words import number_of

SEED = 42
"""Seed of the original's splits."""

MD22_TRAINING = {
    "Ac-Ala3-NHMe": 6000,
    "DHA": 8000,
    "stachyose": 8000,
    "AT-AT": 3000,
    "AT-AT-CG-CG": 2000,
    "buckyball-catcher": 600,
    "double-walled_nanotube": 800,
}
"""Frames for training and validation of each molecule of MD22."""

MATBENCH_SEED = 18012019
"""MatBench's own seed for its five folds."""

Size = int | float
"""A number of structures, or a fraction of all."""

Indices = NDArray[np.int64]


def evenly(count: int, most: int) -> list[int]:
    """Return at most so many of the numbers from 0 to ``count`` − 1, evenly spaced, with the first and the last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64).tolist()


class Split(BaseModel):
    """Numbers of the structures of each set, of `count` structures; no structure is in two sets, or twice in one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field(description="how it was made, in words")
    count: int = Field(ge=1, description="number of structures it was made for")
    train: tuple[int, ...] = Field(min_length=1)
    validation: tuple[int, ...] = ()
    test: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _disjoint(self) -> "Split":
        numbers = np.array([*self.train, *self.validation, *self.test])
        if numbers.min() < 0 or numbers.max() >= self.count:
            raise ValueError(f"numbers outside 0 to {self.count - 1}: the split is for a larger dataset")
        values, times = np.unique(numbers, return_counts=True)
        if (times > 1).any():
            raise ValueError(
                f"structure {values[times > 1][0]} is in two sets, or twice in one: train and test overlap"
            )
        return self

    def __repr__(self) -> str:
        train, validation, test = self.sizes
        parts = f"{train} train, {validation} validation, {test} test"
        return f"Split of {number_of(self.count, 'structure')}: {parts}; {self.recipe}"

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of structures for training, validation, test."""
        return len(self.train), len(self.validation), len(self.test)

    def limited(self, count: int | None) -> "Split":
        """Return the same with at most so many structures for training, evenly spaced."""
        if count is None or count >= len(self.train):
            return self
        chosen = evenly(len(self.train), count)
        recipe = f"{self.recipe}; {count} of {len(self.train)} for training, evenly spaced"
        return self.model_copy(update={"recipe": recipe, "train": tuple(self.train[index] for index in chosen)})

    def require(self, count: int, name: str) -> None:
        """Raise ConfigError unless the dataset `name` has as many structures as the split was made for."""
        if count != self.count:
            raise ConfigError(
                f"{name}: has {count} structures, the split was made for {self.count}: use the data it was made for, "
                "or make a new split"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.model_dump_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Split":
        """Read what `save` wrote, or the only split in a run's folder; raises DataError for anything else."""
        file = _only_split(Path(path)) if Path(path).is_dir() else Path(path)
        try:
            return cls.model_validate_json(file.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: is not a saved split: {_reason(error)}; make it again") from error


def _only_split(folder: Path) -> Path:
    there = sorted(folder.glob("split.*.json"))
    if len(there) != 1:
        names = ", ".join(path.name for path in there) or "none"
        raise DataError(f"{folder}: splits there: {names}; name the file of one")
    return there[0]


def original(
    dataset: str,
    variant: str,
    count: int,
    groups: Sequence[str] | None = None,
    labels: ArrayLike | None = None,
) -> Split:
    """Split a dataset as JMP did.

    Args:
        dataset: its short name, such as "rmd17".
        variant: its variant (MD22's molecule); of MatBench this gives fold 0, `matbench` the others.
        count: number of its structures.
        groups: molecule of every structure, where the split keeps them together (ANI-1x).
        labels: class of every structure, where each fold has the same share of them (MatBench's classification).

    Raises:
        ConfigError: no such rule is known, or the dataset is too small for it.

    """
    if dataset in {"rmd17", "md17"}:
        return random(count, 950, 50, recipe=f"JMP's for {dataset}")
    if dataset == "md22":
        return _md22(variant, count)
    if dataset == "qm9":
        return random(count, count - 20_000, 10_000, 10_000, recipe="JMP's for qm9")
    if dataset in {"spice", "qmof"}:
        return random(count, 0.8, 0.1, recipe=f"JMP's for {dataset}")
    if dataset == "matbench":
        return matbench(count, fold=0, labels=labels)
    if dataset == "ani1x" and groups is not None:
        return by_group(groups, 0.8, 0.1)
    raise ConfigError(f"{dataset}: there is no original split: choose random, by group, or index files")


def random(
    count: int, train: Size, validation: Size, test: Size | None = None, *, seed: int = SEED, recipe: str = "random"
) -> Split:
    """Shuffle 0 … count - 1 with `RandomState(seed)` and cut: training, validation, test, and nothing of the rest.

    Sizes are numbers of structures, or fractions of all, rounded down; `test` None means the rest.

    Raises:
        ConfigError: the sets together are larger than the data, or the training set is empty.

    """
    sizes = [_size(size, count) for size in (train, validation)]
    rest = count - sum(sizes)
    sizes.append(rest if test is None else _size(test, count))
    _require_fits(sizes, count)
    order = np.random.RandomState(seed).permutation(count)
    first, second, third, _ = np.split(order, np.cumsum(sizes))
    return _split(f"{recipe}, seed {seed}", count, first, second, third)


def by_group(groups: Sequence[str], train: float, validation: float, *, seed: int = SEED) -> Split:
    """Split so that all structures of a group (molecule, system, reaction) are in the same set; the rest is for test.

    The groups, in order of first appearance, are shuffled with `RandomState(seed)`; they fill the training set up to
    the fraction `train` of all structures, then the validation set up to `train + validation`. A group goes where its
    middle falls.

    Raises:
        ConfigError: fewer groups than sets, or fractions larger than one together.

    """
    names, member = _numbered(groups)
    if names < 2 + (0 < validation < 1 - train):
        raise ConfigError(f"{names} groups cannot be split by group: use a random split")
    _require_fits([_size(train, len(groups)), _size(validation, len(groups))], len(groups))
    order = np.random.RandomState(seed).permutation(names)
    sizes = np.bincount(member)[order]
    middle = (np.cumsum(sizes) - sizes / 2) / len(groups)
    kind = np.empty(names, dtype=np.int64)
    kind[order] = np.searchsorted([train, train + validation], middle, side="right")
    sets = [np.flatnonzero(kind[member] == number) for number in range(3)]
    return _split(f"by group, {train:g}/{validation:g} of the structures, seed {seed}", len(groups), *sets)


def by_scaffold(groups: Sequence[str], train: float, validation: float) -> Split:
    """Split so that rare groups (scaffolds of molecules) are for validation and test, as is usual for BBBP.

    The groups go, the largest first (of equal ones the one that appears last), into the training set as long as it
    stays within the fraction `train` of all structures, then into the validation set, then into the test set: no
    random numbers are used.

    Raises:
        ConfigError: structures without groups, or fractions larger than one together.

    """
    names, member = _numbered(groups)
    if not any(groups) or names < 3:
        raise ConfigError(f"{names} groups cannot be split by scaffold: use a random split, or a dataset that has them")
    sizes = [_size(train, len(groups)), _size(validation, len(groups))]
    _require_fits(sizes, len(groups))
    members = [np.flatnonzero(member == group) for group in range(names)]
    sets: list[list[Indices]] = [[], [], []]
    filled = [0, 0, 0]
    for group in sorted(members, key=lambda one: (len(one), one[0]), reverse=True):
        index = next((index for index in (0, 1) if sum(filled[: index + 1]) + len(group) <= sum(sizes[: index + 1])), 2)
        sets[index].append(group)
        filled[index] += len(group)
    found = [np.concatenate([np.empty(0, dtype=np.int64), *parts]) for parts in sets]
    if not filled[0]:
        raise ConfigError("every scaffold has more structures than the training set may have: use a random split")
    return _split(f"by scaffold, {train:g}/{validation:g} of the structures", len(groups), *found)


def matbench(count: int, fold: int, labels: ArrayLike | None = None) -> Split:
    """One of MatBench's five folds; validation is the last tenth of its shuffled training set.

    With labels (count,) of classes, the folds are those of classification: scikit-learn's `StratifiedKFold` with the
    same arguments, in which every fold has the same share of each class.

    The folds are those of scikit-learn's `KFold(5, shuffle=True, random_state=18012019)`: a shuffled order cut into
    five, the first count mod 5 of which have one structure more; training and test sets are in ascending order.
    """
    if fold not in range(5):
        raise ConfigError(f"fold {fold}: MatBench has the folds 0 to 4")
    test = _kfold(count, fold) if labels is None else _stratified(np.asarray(labels), fold)
    rest = np.setdiff1d(np.arange(count), test)
    np.random.RandomState(SEED).shuffle(rest)
    cut = len(rest) - len(rest) // 10
    _require_fits([cut], count)
    return _split(
        f"MatBench fold {fold}{'' if labels is None else ', stratified'}, seed {SEED} for validation",
        count,
        rest[:cut],
        rest[cut:],
        test,
    )


def _kfold(count: int, fold: int) -> Indices:
    order = np.arange(count)
    np.random.RandomState(MATBENCH_SEED).shuffle(order)
    test: Indices = np.sort(np.array_split(order, 5)[fold])
    return test


def _stratified(labels: NDArray[Any], fold: int) -> Indices:
    """Deal the structures of each class, classes by first appearance, out to five folds in a shuffled order."""
    _, first, member = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[member]
    ordered, random = np.sort(rank), np.random.RandomState(MATBENCH_SEED)
    share = np.array([np.bincount(ordered[start::5], minlength=len(first)) for start in range(5)])
    folds = np.empty(len(labels), dtype=np.int64)
    for one in range(len(first)):
        dealt = np.arange(5).repeat(share[:, one])
        random.shuffle(dealt)
        folds[rank == one] = dealt
    return np.flatnonzero(folds == fold)


def from_files(
    count: int,
    train: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    *,
    validation: Size = 0,
    seed: int = SEED,
) -> Split:
    """Use published index files (rMD17's `index_train_01.csv`): one number, counted from 0, in each line.

    The validation set is taken from the training file: it is shuffled with `RandomState(seed)`, and the last ones go.

    Raises:
        DataError: a file that holds something else than numbers.
        ConfigError: the numbers do not fit the data.

    """
    numbers = _read_indices(Path(train))
    order = np.random.RandomState(seed).permutation(numbers)
    cut = len(order) - _size(validation, len(order))
    _require_fits([cut], len(order))
    rest = _read_indices(Path(test)) if test is not None else np.empty(0, dtype=np.int64)
    names = " and ".join(Path(path).name for path in (train, test) if path is not None)
    return _split(f"from {names}, seed {seed} for validation", count, order[:cut], order[cut:], rest)


def _md22(variant: str, count: int) -> Split:
    known = {name.lower(): size for name, size in MD22_TRAINING.items()}
    if variant.lower() not in known:
        raise ConfigError(f"md22:{variant}: no original split is known (only of {', '.join(MD22_TRAINING)})")
    size = known[variant.lower()]
    validation = size // 20
    return random(count, size - validation, validation, recipe=f"JMP's for md22:{variant}")


def _size(size: Size, count: int) -> int:
    if isinstance(size, float) and not 0 <= size <= 1:
        raise ConfigError(f"a set of {size} of the structures: give a fraction between 0 and 1, or a whole number")
    return int(size * count + 1e-9) if isinstance(size, float) else size


def _require_fits(sizes: Sequence[int], count: int) -> None:
    if sum(sizes) > count or min(sizes) < 0:
        wanted = " + ".join(str(size) for size in sizes if size > 0)
        raise ConfigError(f"a split into {wanted} structures is larger than the data, which has {count}: ask for fewer")
    if sizes[0] == 0:
        raise ConfigError(f"no structure of {count} is left for training: ask for fewer in the other sets")


def _split(recipe: str, count: int, *sets: Indices) -> Split:
    names = ("train", "validation", "test")
    numbers: Mapping[str, Any] = {name: tuple(part.tolist()) for name, part in zip(names, sets, strict=True)}
    try:
        return Split(recipe=recipe, count=count, **numbers)
    except ValidationError as error:
        raise ConfigError(f"split {recipe}: {_reason(error)}") from error


def _numbered(groups: Sequence[str]) -> tuple[int, Indices]:
    """Number the groups in order of first appearance."""
    numbers: dict[str, int] = {}
    member = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)
    return len(numbers), member


def _read_indices(path: Path) -> Indices:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
        return np.array([int(row[-1]) for row in rows], dtype=np.int64)
    except (ValueError, OverflowError, csv.Error) as error:  # of its letters, too
        raise DataError(f"{path}: expected one number in each line: {error}; check that it is an index file") from error


def _reason(error: ValidationError | UnicodeDecodeError | json.JSONDecodeError) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    return str(error)
