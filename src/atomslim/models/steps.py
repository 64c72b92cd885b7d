"""Predictions for one structure after another, as dynamics and relaxations ask for them."""

from typing import TYPE_CHECKING

from torch import Tensor

from atomslim.atoms import AtomsBatch, Pairs
from atomslim.models.precision import Precision
from atomslim.models.tasks import Task

if TYPE_CHECKING:
    from atomslim.models.block_model import BlockModel


class Steps:
    """The usual way: the graph, then `predict`. A family may know a faster one with the same numbers up to rounding.

    It may keep anything from step to step; results depend on the given structure alone.
    """

    def __init__(self, model: "BlockModel", task: Task, precision: Precision | None) -> None:
        self.model, self.task, self.precision = model, task, precision

    def __call__(self, batch: AtomsBatch, pairs: Pairs | None = None) -> tuple[dict[str, Tensor], float]:
        """Return the predictions for one structure and the largest fraction of its pairs that a cap left out.

        ``pairs`` is what `BlockModel.topology` takes. The model is in evaluation mode.
        """
        topology = self.model.topology(batch, self.task.name, pairs=pairs)
        outputs = self.model.predict(batch, self.task.name, topology, precision=self.precision)
        return outputs, float(topology.left_out().max())
