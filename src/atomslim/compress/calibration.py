"""Fits a pruned model to the full one on calibration structures, without labels."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.compress.force_fit import Start, fit_forces, parts
from atomslim.compress.force_rows import Rows, Weights, collect, require_conservative
from atomslim.compress.hand_over import hand_over as fit_hand_over
from atomslim.compress.realign import HELD_OUT, fit, summed
from atomslim.data import Dataset
from atomslim.evaluation.batches import TaskedData, batches, datasets, spread_out
from atomslim.models.block_model import BlockModel
from atomslim.progress import tracked

Structures: TypeAlias = Callable[[], Iterator[tuple[AtomsBatch, Any, str]]]
"""Gives batches, their graphs and tasks again on each call."""


@dataclass(frozen=True)
class Calibration:
    """How calibration structures are read and fitted, see `atomslim.compress.prune.keep_blocks`."""

    limit: int
    batch_size: int
    ridge: float | None
    seed: int | None
    directions: int
    weights: Weights

    def align(
        self, small: BlockModel, full: BlockModel, data: TaskedData, *, fitted: str, hand_over: bool
    ) -> dict[str, Any]:
        """Fit a pruned model in place, in the way that ``fitted`` names; return the entries for its history."""
        opened = datasets(full, data, labelled=False)
        entry: dict[str, Any] = {"calibration": {task: dataset.name for task, dataset in opened.items()}}
        if fitted == "least-squares-forces":
            require_conservative(full, opened)
        structures = partial(calibration_structures, full, opened, self.limit, self.batch_size)
        if hand_over:
            entry["hand-over"] = self._hand_over(small, full, structures)
        if fitted in {"least-squares", "least-squares-forces"}:
            entry |= self._fit(small, full, structures, forces=fitted == "least-squares-forces")
        return entry

    def _hand_over(self, small: BlockModel, full: BlockModel, structures: Structures) -> list[dict[str, Any]]:
        given = {"directions": self.directions, "seed": self.seed or 0}
        return [one.as_dict() for one in fit_hand_over(small, full, lambda: _unnamed(structures()), **given)]

    def _fit(self, small: BlockModel, full: BlockModel, structures: Structures, *, forces: bool) -> dict[str, Any]:
        sliced = _atom_map(small)
        if forces and not _reads_alike(small, full):
            return self._fit_forces(small, {"sliced": Start(sliced)}, self._rows(small, full, structures))
        sums = summed(small, full, _unnamed(structures()))
        fits = fit(small, sums, ridge=self.ridge)
        entry: dict[str, Any] = {"fit": {branch: one.as_dict() for branch, one in fits.items()}}
        if not forces:
            return entry
        rows = self._rows(small, full, structures)
        unseen = sums.maps_without("node", sliced, fits["node"].ridge, parts(len(rows)))
        starts = {"sliced": Start(sliced), "least-squares": Start(_atom_map(small), tuple(unseen))}
        return entry | self._fit_forces(small, starts, rows)

    def _rows(self, small: BlockModel, full: BlockModel, structures: Structures) -> list[Rows]:
        return collect(small, full, structures(), self.weights, directions=self.directions, seed=self.seed or 0)

    def _fit_forces(self, small: BlockModel, starts: dict[str, Start], rows: list[Rows]) -> dict[str, Any]:
        return {"force fit": fit_forces(small, starts, rows).as_dict(), "weights": asdict(self.weights)}


def calibration_structures(
    model: BlockModel, calibration: dict[str, Dataset], limit: int, batch_size: int
) -> Iterator[tuple[AtomsBatch, Any, str]]:
    """Give batches of the structures of each task, their graphs and the task; at least one can be held out."""
    for task, dataset in calibration.items():
        samples = spread_out(dataset, limit)
        size = min(batch_size, max(1, len(samples) // HELD_OUT))  # so that there is a batch to hold out
        given = batches(model, task, samples, size)
        for batch in tracked(given, f"re-alignment, {task}", len(samples), size=len):
            yield batch.atoms, batch.topology, task


def _unnamed(structures: Iterator[tuple[AtomsBatch, Any, str]]) -> Iterator[tuple[AtomsBatch, Any]]:
    return ((batch, topology) for batch, topology, _ in structures)


def _reads_alike(small: BlockModel, full: BlockModel) -> bool:
    """Whether both readouts have the same pre-activations: a narrower one has others."""
    ours, theirs = ([one.out_features for one in model.readout_maps().values()] for model in (small, full))
    return ours == theirs


def _atom_map(model: BlockModel) -> Tensor:
    return model.readout_maps()["node"].weight().detach().clone()
