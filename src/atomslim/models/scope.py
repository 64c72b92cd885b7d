"""What a task was trained on; structures outside of that get one warning, or are refused.

Training notes in the model's history, for each task, which elements its structures had, and the range of their
fractions. Where nothing is noted, elements are those that the task has reference energies of. A checkpoint without
either says nothing, and then nothing is said here.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from atomslim.atoms import Sample
from atomslim.errors import AtomslimWarning, StructureError
from atomslim.models.block_model import BlockModel
from atomslim.models.tasks import Task

NOTED = "trained on"
"""Key of an entry of the history: task → symbol → [smallest share, largest share]."""

FAR = 0.25
"""A composition is far outside if this fraction of its atoms would have to be replaced."""

STRICT = " (strict refuses such structures)"
"""Ends every warning."""

_SIZE = 120

Shares = dict[str, list[float]]


def shares(structures: Iterable[NDArray[np.int64]]) -> Shares:
    """Return for each element of some structures its smallest and largest fraction of the atoms."""
    low, high = np.ones(_SIZE), np.zeros(_SIZE)
    for numbers in structures:
        share = np.bincount(numbers, minlength=_SIZE)[:_SIZE] / max(len(numbers), 1)
        low, high = np.minimum(low, share), np.maximum(high, share)
    return {chemical_symbols[z]: [round(low[z], 4), round(high[z], 4)] for z in np.flatnonzero(high).tolist()}


def noted_shares(history: Sequence[dict[str, Any]], task: str) -> Shares:
    """Return what the trainings of a task noted, taken together; empty where there is nothing."""
    found: Shares = {}
    noted = [entry[NOTED][task] for entry in history if task in entry.get(NOTED, {})]
    for symbol in dict.fromkeys(symbol for one in noted for symbol in one):
        ranges = [one.get(symbol, [0.0, 0.0]) for one in noted]
        found[symbol] = [min(low for low, _ in ranges), max(high for _, high in ranges)]
    return found


def known_elements(history: Sequence[dict[str, Any]], task: Task) -> set[int]:
    """Return the elements that a task of a model with this history was trained on; empty if unknown."""
    noted = noted_shares(history, task.name)
    if noted:
        return {atomic_numbers[symbol] for symbol in noted}
    return {number for target in task.targets for number in target.references}


class Watch:
    """Looks at every structure before it is predicted.

    Each of three things is reported once, at the first structure: elements that the task was not trained on, a
    composition far outside of training, and a charge or spin, which models ignore. With ``strict`` they are refused.
    """

    def __init__(self, history: Sequence[dict[str, Any]], task: Task, *, strict: bool, who: str = "") -> None:
        """Watch for a task of a model with this history; ``who`` names the model in messages."""
        noted, elements = noted_shares(history, task.name), known_elements(history, task)
        self.task, self.strict = f"task {task.name}{who and f' of {who}'}", strict
        self._known = np.zeros(_SIZE, dtype=bool)
        self._known[list(elements) or slice(None)] = True
        self._low, self._high = np.zeros(_SIZE), np.ones(_SIZE)
        for symbol, (low, high) in noted.items():
            self._low[atomic_numbers[symbol]], self._high[atomic_numbers[symbol]] = low, high
        self._noted = bool(noted)
        self._said: set[str] = set()

    @classmethod
    def over(cls, model: BlockModel, task: str | None, *, strict: bool, who: str = "") -> Self:
        """Watch for a task of a model."""
        return cls(getattr(model, "history", ()), model.task(task), strict=strict, who=who)

    def look(self, name: str, numbers: NDArray[np.int64], ignored: str = "") -> None:
        """Look at a structure; raises StructureError if ``strict`` and something is wrong."""
        elements = numbers[(numbers > 0) & (numbers < len(chemical_symbols))]  # others are refused elsewhere
        unknown = np.unique(elements[~self._known[elements]])
        if unknown.size:
            symbols = ", ".join(chemical_symbols[z] for z in unknown)
            self._say("elements", f"{name}: {self.task} was not trained on {symbols}: do not trust predictions there")
        elif self._noted and "composition" not in self._said:
            self._look_at_composition(name, elements)
        if ignored:
            self._say("ignored", f"{name}: {ignored}: the model ignores charges and spins")

    def samples(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield samples after looking at them."""
        for number, sample in enumerate(samples):
            self.look(sample.name or f"structure {number}", sample.numbers, sample.ignored)
            yield sample

    def _look_at_composition(self, name: str, numbers: NDArray[np.int64]) -> None:
        share = np.bincount(numbers, minlength=_SIZE)[:_SIZE] / max(len(numbers), 1)
        away = np.maximum(self._low - share, share - self._high)
        worst = int(away.argmax())
        if away[worst] > FAR:
            self._say(
                "composition",
                f"{name}: {share[worst]:.0%} of the atoms are {chemical_symbols[worst]}, and {self._low[worst]:.0%} to "
                f"{self._high[worst]:.0%} in what {self.task} was trained on: far outside, so do not trust it",
            )

    def _say(self, kind: str, message: str) -> None:
        if self.strict:
            raise StructureError(f"{message}: remove the structure, or leave strict out")
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(f"{message}{STRICT}", AtomslimWarning, stacklevel=4)
