"""Steps of dynamics with a JMP model, by weights and tables made for it."""

from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from atomslim.atoms import AtomsBatch, Pairs
from atomslim.families.jmp.gemnet_oc.graphs import Topology
from atomslim.families.jmp.graph_settings import JMPGraphSettings
from atomslim.families.jmp.model import JMP, Context
from atomslim.families.jmp.steps.bases import BasisMaker
from atomslim.families.jmp.steps.blocks import features
from atomslim.families.jmp.steps.graph import StepGraph
from atomslim.families.jmp.steps.source import Source
from atomslim.families.jmp.steps.weights import StepWeights
from atomslim.models.block_model import BlockFeatures
from atomslim.models.outputs import stress_of
from atomslim.models.precision import Precision, computing, format_of
from atomslim.models.steps import Steps
from atomslim.models.tasks import Task
from atomslim.threads import fitting_threads

MOST_WEIGHTS = 2**24
"""Models with more spend their time in dense layers: they take the usual way, without a second set of weights."""

MOST_TRIPLETS = 2**22
"""Numbers in the largest table of triplets; structures with more take the usual way, whose memory is linear in edges.

Up to there, starting operations takes longer than what the usual way saves."""


class JMPSteps(Steps):
    """Predicts for one structure after another."""

    model: JMP

    def __init__(self, model: JMP, task: Task, precision: Precision | None) -> None:
        super().__init__(model, task, precision)
        self._source = Source(model)
        self._weights: StepWeights | None = None

    def __call__(self, batch: AtomsBatch, pairs: Pairs | None = None) -> tuple[dict[str, Tensor], float]:
        """Return predictions and the share that was left out, as `Steps` does."""
        topology = self.model.topology(batch, self.task.name, pairs=pairs)
        capped_fraction = float(topology.left_out().max())
        if self._suits(batch, topology):
            weights = self._current_weights()
            graph = StepGraph.of(topology, batch.num_atoms, weights.bases.centres)
            if graph.triplets.numel() * self.model.config.emb_size_cbf <= MOST_TRIPLETS:
                return self._outputs(batch, topology, graph, weights), capped_fraction
        return self.model.predict(batch, self.task.name, topology, precision=self.precision), capped_fraction

    def _suits(self, batch: AtomsBatch, topology: Topology) -> bool:
        if batch.num_structures != 1 or not topology.main.count or self._source.numel() > MOST_WEIGHTS:
            return False
        weight = self.model.embedding.weight
        return format_of(self.precision or self.model.precision, weight) in {"fp32", "fp64"}

    def _outputs(
        self, batch: AtomsBatch, topology: Topology, graph: StepGraph, weights: StepWeights
    ) -> dict[str, Tensor]:
        weight = self.model.embedding.weight
        arithmetic = computing(format_of(self.precision or self.model.precision, weight), weight.device)
        with arithmetic, fitting_threads(self.model, batch.num_atoms):
            if not self.task.conservative:
                with torch.inference_mode():
                    vectors = _vectors(batch, graph)
                    outputs, _ = self._predicted(vectors, batch, topology, graph, weights)
                return outputs
            return self._derived(batch, topology, graph, weights)

    def _derived(
        self, batch: AtomsBatch, topology: Topology, graph: StepGraph, weights: StepWeights
    ) -> dict[str, Tensor]:
        """Return outputs with the forces and stress that are derivatives by the vectors of edges."""
        vectors = _vectors(batch, graph).requires_grad_()
        with torch.enable_grad():
            outputs, energy = self._predicted(vectors, batch, topology, graph, weights)
            (slope,) = torch.autograd.grad(energy.sum(), [vectors])
        forces = torch.zeros_like(batch.positions)
        forces = forces.index_add_(0, graph.source, slope).index_add_(0, graph.target, slope, alpha=-1)
        found = {name: value.detach() for name, value in outputs.items()}
        target = self.task.of_kind("conservative_forces")
        if target is not None:
            found[target.name] = forces.to(weights.bases.centres.dtype)
        if bool(batch.pbc.any()):
            strain = vectors.detach().T @ slope
            stress = stress_of((strain + strain.T)[None] / 2, batch)
            found["stress"] = stress.to(weights.bases.centres.dtype)
        return found

    def _predicted(
        self, vectors: Tensor, batch: AtomsBatch, topology: Topology, graph: StepGraph, weights: StepWeights
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the outputs that are not derivatives, and the energy."""
        model, edges = self.model, self.task.direct and self.model.config.direct_forces
        bases = BasisMaker(model.config, weights.bases).of(vectors, graph)
        h = model.embedding.weight.detach().index_select(0, batch.numbers - 1)
        node, edge = zip(*features(h, weights, bases, graph, edges=edges), strict=True)
        context = Context(batch, topology, bases.direction)
        if model.config.repulsion:
            between_atoms = vectors[vectors.shape[0] - graph.sizes[3] :]
            context = replace(context, repulsion=model.repulsion(between_atoms, context))
        readout = model.read(BlockFeatures(node, edge if edges else (), context))
        outputs = model.physical_outputs(model.raw_outputs(readout, self.task), self.task, batch)
        energy = self.task.of_kind("energy")
        return outputs, vectors.new_zeros(()) if energy is None else outputs[energy.name]

    def _current_weights(self) -> StepWeights:
        """Return weights that are those of the model now."""
        if self._weights is None or not self._source.unchanged():
            self._source = Source(self.model)
            quadruplets = cast("JMPGraphSettings", self.task.graph).quad > 0
            self._weights = StepWeights.of(self.model.backbone, quadruplets=quadruplets)
        return self._weights


def _vectors(batch: AtomsBatch, graph: StepGraph) -> Float[Tensor, "e 3"]:
    """Return r_st = r_t − (r_s + o·cell) in Å of all edges."""
    positions = batch.positions.detach()
    vectors = positions.index_select(0, graph.target) - positions.index_select(0, graph.source)
    return vectors if graph.offset is None else vectors - graph.offset.to(vectors) @ batch.cell[0].detach()
