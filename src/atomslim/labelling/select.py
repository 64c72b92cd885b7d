"""Which structures of many to keep: no duplicates, and those that are farthest from the others in feature space.

A structure's features are means and standard deviations over its atoms, element by element for distances. They do not
depend on the order of the atoms, or on the structure's position and orientation.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from ase.data import covalent_radii
from numpy.typing import NDArray

from atomslim.atoms import find_pairs
from atomslim.atoms.sample import Sample, to_batch
from atomslim.models.block_model import BlockModel

Features: TypeAlias = Callable[[Sample], NDArray[np.float64]]
"""Gives the features (f,) of a structure."""

SAME = 1e-4
"""Distance over the rms length of all features, below which two structures are the same."""

_REACH, _WIDTH, _SHELLS = 6.0, 0.35, 16
"""Å: range, width and number of shells."""


def by_distances(elements: Sequence[int]) -> Features:
    """Return features from distances alone: how many atoms of each element are how far from those of each element.

    Shells of distances overlap and end smoothly at 6 Å.
    """
    columns = {number: index for index, number in enumerate(sorted(elements))}

    def features(sample: Sample) -> NDArray[np.float64]:
        pairs = find_pairs(to_batch([sample]), _REACH)
        source, target = pairs.source.numpy(), pairs.target.numpy()
        kind = np.array([columns[number] for number in sample.numbers.tolist()], dtype=np.int64)
        shells = _shells(pairs.distance.numpy())
        found = np.zeros((len(sample), len(columns), _SHELLS))
        np.add.at(found, (target, kind[source]), shells)
        return _summary(found.reshape(len(sample), -1), kind, len(columns))

    return features


def by_model(model: BlockModel, task: str | None = None) -> Features:
    """Return the features of atoms after a model's last block."""
    chosen = task or next(iter(model.tasks))

    def features(sample: Sample) -> NDArray[np.float64]:
        batch = to_batch([sample])
        with torch.no_grad():
            found = model.features(batch, model.topology(batch, chosen), edges=False).node[-1].double().numpy()
        return np.concatenate([found.mean(axis=0), found.std(axis=0)])

    return features


def distinct(features: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of the structures (of features (n, f)) that are the same as no earlier one, ascending."""
    _, first = np.unique(np.round(_scaled(features) / SAME), axis=0, return_index=True)
    return np.sort(first)


def farthest(
    features: NDArray[np.float64], size: int, given: int = 1, moving: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose structures one after the other, each the farthest from those that are chosen.

    Args:
        features: of all structures, (n, f).
        size: most structures to choose.
        given: so many, from the first, are chosen before all others.
        moving: which ones make up half of the others (n,): frames of dynamics are what a student is for, and nearer
            to each other than copies that are rattled.

    Returns:
        Their numbers in the order of the choice, and the distance of each to those before it, over the rms length of
        all features; the first has none, which is infinite.

    """
    scaled = _scaled(features)
    indices, everything = np.arange(len(scaled)), np.ones(len(scaled), dtype=np.bool_)
    few = np.zeros_like(everything) if moving is None else moving & (indices >= given)
    half = given + min(int(few.sum()), max(size - given, 0) // 2)
    nearest = np.full(len(scaled), np.inf)
    chosen: list[int] = []
    distances: list[float] = []
    for count in range(min(size, len(scaled))):
        among = indices < given if count < given else few if count < half else everything
        number = int(np.where(among, nearest, -np.inf).argmax())
        chosen.append(number)
        distances.append(float(nearest[number]))
        nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[number], axis=1))
        nearest[number] = -np.inf
    return np.array(chosen, dtype=np.int64), np.array(distances)


def _scaled(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre features and scale them to an rms length of one."""
    scaled = features - features.mean(axis=0)
    return np.asarray(scaled / max(float(np.sqrt((scaled**2).sum(axis=1).mean())), 1e-12))


def nearest_distance(sample: Sample) -> float:
    """Return the distance of the two nearest atoms over the sum of their covalent radii; infinite for a single atom."""
    pairs = find_pairs(to_batch([sample]), _REACH)
    first, second = sample.numbers[pairs.source.numpy()], sample.numbers[pairs.target.numpy()]
    radii = covalent_radii[first] + covalent_radii[second]
    return float(np.min(pairs.distance.numpy() / radii, initial=np.inf))


def all_features(samples: Iterable[Sample], features: Features, tell: Callable[[int], None]) -> NDArray[np.float64]:
    """Compute the features of structures, (n, f); reports progress after each."""
    found = []
    for sample in samples:
        found.append(features(sample))
        tell(len(found))
    return np.stack(found)


def _shells(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Say in which shells distances (p,) lie, (p, shells), so that they leave the last one smoothly."""
    centres = np.linspace(0.8, _REACH, _SHELLS)
    smooth = 0.5 * (1 + np.cos(np.pi * np.minimum(distance / _REACH, 1)))
    return smooth[:, None] * np.exp(-(((distance[:, None] - centres) / _WIDTH) ** 2))


def _summary(rows: NDArray[np.float64], kind: NDArray[np.int64], kinds: int) -> NDArray[np.float64]:
    """Return the mean and the deviation of the atoms of each element, and the elements' fractions."""
    parts = []
    for number in range(kinds):
        own = rows[kind == number]
        share = np.array([len(own) / len(rows)])
        zero = np.zeros(rows.shape[1])
        parts += [share * own.mean(axis=0), share * own.std(axis=0), share] if len(own) else [zero, zero, share]
    return np.concatenate(parts)
