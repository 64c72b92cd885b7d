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


def traced_features(model: JMP, task: Task, *, edges: bool) -> TracedFeatures:
    """Return features as steps compute them; of large models, and for derivatives, as training does."""
    if not task.conservative and sum(parameter.numel() for parameter in model.parameters()) <= MOST_WEIGHTS:
        return TracedSteps(model, task, edges=edges)

    def features(batch: AtomsBatch, neighbours: Int[Tensor, "n k"], offsets: Int[Tensor, "n k 3"]) -> BlockFeatures:
        topology = matrix_topology(batch, neighbours, offsets, JMPGraphSettings.of(task.graph))
        return model.features(batch, topology, edges=edges)

    return features
