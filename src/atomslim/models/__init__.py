"""The family-neutral core: the block-model interface, tasks and model files."""

from atomslim.models.block_model import BlockFeatures, BlockModel, ReadoutFeatures
from atomslim.models.tasks import Target, Task, energy_and_forces

__all__ = ["BlockFeatures", "BlockModel", "ReadoutFeatures", "Target", "Task", "energy_and_forces"]
