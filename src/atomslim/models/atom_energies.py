"""Energies of single atoms, where a model's energy is a sum over them.

    E = Σ_i e_i,   e_i = s x_i + μ/n + E_Z(i)

with x_i the head's value for atom i (divided by n if the head averages), s, μ and E_Z the scale, mean and
references of the target. How an energy is partitioned is up to the model: only the sum can be observed.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.errors import ConfigError
from atomslim.models.outputs import physical
from atomslim.models.tasks import Task

if TYPE_CHECKING:
    from atomslim.models.block_model import BlockModel, ReadoutFeatures


def energies_of_atoms(model: "BlockModel", readout: "ReadoutFeatures", task: Task) -> Float[Tensor, " n"]:
    """Return the energies of atoms in eV, float64; raises ConfigError for a task without an energy."""
    energy = task.of_kind("energy")
    if energy is None:
        raise ConfigError(f"task {task.name}: has no energy, so no atomic energies")
    batch: AtomsBatch = readout.context.batch
    alone = replace(readout, context=replace(readout.context, batch=_each_alone(batch)))
    raw = model.raw_outputs(alone, task.model_copy(update={"targets": (energy,)}))[energy.name].double()
    share = 1 / batch.natoms[batch.batch].double()
    scaled = raw * energy.std * (share if energy.reduction == "mean" else 1.0) + energy.mean * share
    references = energy.model_copy(update={"mean": 0.0, "std": 1.0})
    return scaled + physical(torch.zeros_like(scaled), references, _each_alone(batch))


def _each_alone(batch: AtomsBatch) -> AtomsBatch:
    """Return the batch with every atom as a separate structure."""
    cell, pbc = batch.cell[batch.batch], batch.pbc[batch.batch]
    return replace(batch, cell=cell, pbc=pbc, batch=torch.arange(batch.num_atoms, device=batch.device))
