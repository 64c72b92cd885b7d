"""Times of steps of dynamics with anything that gives forces: models, and other calculators."""

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms

from atomslim.benchmarking.turns import Rounds

MOVED = 1e-3
"""Å: standard deviation of the displacement of each coordinate per step."""


class Steps:
    """Steps on several structures, one each in a pass; a case for `atomslim.benchmarking.turns.take_turns`."""

    def __init__(self, seconds: Callable[[Atoms], float], structures: Sequence[Atoms]) -> None:
        """Take functions that return the seconds of a step to given positions; the first of each is not counted."""
        self._seconds, self._random = seconds, np.random.default_rng(0)
        self._structures = [atoms.copy() for atoms in structures]
        self._rounds = Rounds.of(*self._names())
        self._once()
        self.estimate = sum(self._once().values())

    def fill(self, seconds: float) -> None:
        """Step on all structures once, or for so many seconds, and note the shortest time of each."""
        self._rounds.fill(self._once, seconds)

    @property
    def times(self) -> tuple[float, ...]:
        """Seconds of a step in each round, the mean of the structures."""
        rounds = zip(*self._rounds.parts.values(), strict=True)
        return tuple(sum(times) / len(self._structures) for times in rounds)

    def _names(self) -> list[str]:
        return [str(number) for number in range(len(self._structures))]

    def _once(self) -> dict[str, float]:
        return {name: self._step(atoms) for name, atoms in zip(self._names(), self._structures, strict=True)}

    def _step(self, atoms: Atoms) -> float:
        """Time a step that follows another one of the same structure: calculators keep pairs from step to step."""
        for _ in self._structures[1:2]:
            self._moved(atoms)
        return self._moved(atoms)

    def _moved(self, atoms: Atoms) -> float:
        atoms.positions += MOVED * self._random.standard_normal(atoms.positions.shape)
        return self._seconds(atoms)


def of_different_sizes(structures: Sequence[Atoms], count: int) -> list[Atoms]:
    """Return at most so many structures, evenly spaced in their numbers of atoms; a single one from the middle."""
    sizes = {len(atoms): atoms for atoms in sorted(structures, key=len)}
    ordered = list(sizes.values())
    ranks = np.linspace(0, len(ordered) - 1, 2 * min(count, len(ordered)) + 1)[1::2]
    return [ordered[round(float(rank))] for rank in ranks]
