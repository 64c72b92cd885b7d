"""Models: the block-model interface and its implementations."""

from atomslim.models.block_model import BlockFeatures, BlockModel, ReadoutFeatures
from atomslim.models.gemnet_oc import GemNetOCConfig, GraphSettings, jmp_l, jmp_s
from atomslim.models.jmp import JMP
from atomslim.models.tasks import Target, Task, energy_and_forces

__all__ = [
    "JMP",
    "BlockFeatures",
    "BlockModel",
    "GemNetOCConfig",
    "GraphSettings",
    "ReadoutFeatures",
    "Target",
    "Task",
    "energy_and_forces",
    "jmp_l",
    "jmp_s",
]
