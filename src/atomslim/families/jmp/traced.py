"""Features of one structure inside a program that is traced."""

from jaxtyping import Int
from torch import Tensor

from atomslim.atoms import AtomsBatch
from atomslim.families.jmp.gemnet_oc.matrix import matrix_topology
from atomslim.families.jmp.graph_settings import JMPGraphSettings
from atomslim.families.jmp.model import JMP
from atomslim.families.jmp.steps.matrix import TracedSteps
from atomslim.families.jmp.steps.steps import MOST_WEIGHTS
from atomslim.models.block_model import BlockFeatures
from atomslim.models.family import TracedFeatures
from atomslim.models.tasks import Task

MOST_NEIGHBOURS = 16
"""Cap of the main graph up to which sums over angles are matrices, whose size grows with its square for every atom."""


def traced_features(model: JMP, task: Task, *, edges: bool) -> TracedFeatures:
    """Return features as steps compute them, where that was found to be faster, and else as training does."""
    settings = JMPGraphSettings.of(task.graph)
    if not task.conservative and _is_small(model, settings):
        return TracedSteps(model, task, edges=edges)

    def features(batch: AtomsBatch, neighbours: Int[Tensor, "n k"], offsets: Int[Tensor, "n k 3"]) -> BlockFeatures:
        return model.features(batch, matrix_topology(batch, neighbours, offsets, settings), edges=edges)

    return features


def _is_small(model: JMP, settings: JMPGraphSettings) -> bool:
    few_weights = sum(parameter.numel() for parameter in model.parameters()) <= MOST_WEIGHTS
    return few_weights and settings.neighbours is not None and settings.neighbours <= MOST_NEIGHBOURS
