"""The family-neutral core: the block-model interface, tasks and model files."""

from atomslim.models.block_model import BlockFeatures, BlockModel, ReadoutFeatures
from atomslim.models.family import Family
from atomslim.models.graph_settings import GraphSettings
from atomslim.models.readout import ReadoutMap
from atomslim.models.tasks import Target, Task, energy_and_forces

__all__ = [
    "BlockFeatures",
    "BlockModel",
    "Family",
    "GraphSettings",
    "ReadoutFeatures",
    "ReadoutMap",
    "Target",
    "Task",
    "energy_and_forces",
]
