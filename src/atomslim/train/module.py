"""The Lightning module: a block model, its loss, its optimiser."""

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from atomslim.data.loader import Batch
from atomslim.models.block_model import BlockModel
from atomslim.models.losses import Term, loss_sums, weighted_mean
from atomslim.train.optimiser import make_optimiser
from atomslim.train.options import OptimiserOptions


class TrainingModule(lightning.LightningModule):
    """Computes the loss of a batch; with several processes, exactly that of the whole batch on one.

    Every task's heads run on every batch, so that each weight has a gradient (zero where a task is absent) and all
    processes agree on which weights take part.
    """

    def __init__(self, model: BlockModel, terms: Sequence[Term], optimiser: OptimiserOptions) -> None:
        super().__init__()
        self.model = model
        self.terms = list(terms)
        self.options = optimiser

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW with a group for every trainable part."""
        return make_optimiser(self.model, self.options)

    def training_step(self, batch: Batch, _batch_index: int) -> Tensor:
        """Return the loss of this process's part, so scaled that the mean over processes is the batch's loss."""
        names = dict.fromkeys(term.task for term in self.terms)
        outputs = self.model(batch.atoms, batch.topology, names, normalised=True)
        sums = loss_sums(self.terms, outputs, batch)
        counts = self.summed(torch.stack([part.count for part in sums]))
        return weighted_mean(self.terms, sums, counts) * self.trainer.world_size

    def summed(self, values: Tensor) -> Tensor:
        """Add up numbers over all processes; they carry no gradient."""
        if self.trainer.world_size == 1:
            return values.detach()
        total: Any = self.trainer.strategy.reduce(values.detach().clone(), reduce_op="sum")
        return total
