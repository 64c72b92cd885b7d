"""The graphs made by tensor operations are those that numpy makes, and give the same numbers."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from atomslim.atoms import AtomsBatch, find_pairs, from_ase
from atomslim.families.jmp import JMP, JMPGraphSettings, traced
from atomslim.families.jmp.gemnet_oc import reach
from atomslim.families.jmp.gemnet_oc.bases import _in_slices
from atomslim.families.jmp.gemnet_oc.graphs import Edges
from atomslim.families.jmp.gemnet_oc.matrix import matrix_graphs, matrix_topology
from atomslim.families.jmp.steps.matrix import TracedSteps
from atomslim.families.jmp.traced import traced_features
from atomslim.inference.program import _one_structure, neighbour_matrix
from atomslim.models import energy_and_forces
from samples import ethanol, sheared_crystal, slab
from small_models import jmp

GRAPHS = {
    "capped": JMPGraphSettings(cutoff=5.0, main=10, atom=333, atom_edge=6, quad=3),
    "invariant": JMPGraphSettings(cutoff=5.0, main=7, atom=70, atom_edge=6, quad=3, symmetrise="invariant"),
    "whole": JMPGraphSettings(cutoff=4.0, main=1000, atom=1000, atom_edge=1000, quad=1000),
    "few atoms": JMPGraphSettings(cutoff=5.0, main=12, atom=9, atom_edge=8, quad=3),
    "main alone": JMPGraphSettings(cutoff=5.0, main=12, atom=40, atom_edge=0, quad=0),
    "smooth": JMPGraphSettings(cutoff=5.0, smooth=8),
}


def copper() -> Atoms:
    """One atom that neighbours only its own images, many of them equally far away."""
    return bulk("Cu")


def tagged_slab() -> Atoms:
    atoms = fcc111("Pt", (2, 2, 3), vacuum=4.0)
    atoms.rattle(0.05, seed=1)
    atoms.set_tags([0] * 8 + [1] * 4)
    return atoms


STRUCTURES = [ethanol, copper, sheared_crystal, slab, tagged_slab]


def model(settings: JMPGraphSettings) -> JMP:
    tasks = [energy_and_forces(forces, forces=forces, graph=settings) for forces in ("direct", "conservative")]
    return jmp(*tasks, num_blocks=1, num_spherical=3)


def shuffled(batch: AtomsBatch, cutoff: float) -> tuple[Tensor, Tensor]:
    """A matrix in no order, with some neighbours from beyond the cutoff."""
    neighbours, offsets = neighbour_matrix(find_pairs(batch, cutoff + 0.6), batch.num_atoms)
    columns = torch.randperm(neighbours.shape[1])
    return neighbours[:, columns], offsets[:, columns]


def rows(edges: Edges) -> list[list[int]]:
    return torch.column_stack([edges.target, edges.source, edges.offset]).tolist()


@pytest.mark.parametrize("settings", GRAPHS.values(), ids=GRAPHS.keys())
@pytest.mark.parametrize("structure", STRUCTURES)
def test_main_edges_are_the_same(structure: Callable[[], Atoms], settings: JMPGraphSettings) -> None:
    batch = from_ase(structure())
    expected = model(settings).topology(batch, "direct").main
    found = matrix_topology(batch, *shuffled(batch, settings.cutoff), settings)
    assert sorted(rows(found.main)) == sorted(rows(expected))
    assert torch.equal(found.main.target, found.main.target.sort().values)
    assert torch.equal(found.main.source[found.reverse], found.main.target)
    assert torch.equal(found.main.offset[found.reverse], -found.main.offset)
    assert torch.equal(found.reverse[found.reverse], torch.arange(len(found.main)))


@pytest.mark.parametrize("settings", GRAPHS.values(), ids=GRAPHS.keys())
@pytest.mark.parametrize("structure", STRUCTURES)
def test_predictions_are_the_same(structure: Callable[[], Atoms], settings: JMPGraphSettings) -> None:
    batch, given = from_ase(structure()), model(settings)
    topology = matrix_topology(batch, *shuffled(batch, settings.cutoff), settings)
    for task in ("direct", "conservative"):
        expected, found = given.predict(batch, task), given.predict(batch, task, topology)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, rtol=1e-10, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("settings", GRAPHS.values(), ids=GRAPHS.keys())
def test_a_program_has_the_features_of_the_model_in_both_forms(settings: JMPGraphSettings) -> None:
    given = model(settings).eval()
    steps = TracedSteps(given, given.task("direct"), edges=True)
    for structure in STRUCTURES:
        batch = from_ase(structure())
        matrix = shuffled(batch, settings.cutoff)
        found, expected = steps(batch, *matrix), given.features(batch, matrix_topology(batch, *matrix, settings))
        assert len(found.node) == len(found.edge) == 2
        for one, other in zip((*found.node, *found.edge), (*expected.node, *expected.edge), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_only_small_models_with_direct_forces_are_traced_as_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    given = model(GRAPHS["capped"])
    many = given.task("direct").model_copy(update={"graph": GRAPHS["whole"]})
    smooth = given.task("direct").model_copy(update={"graph": GRAPHS["smooth"]})
    tasks = [given.task("direct"), given.task("conservative"), many, smooth]
    forms = [isinstance(traced_features(given, task, edges=True), TracedSteps) for task in tasks]
    assert forms == [True, False, False, False]
    monkeypatch.setattr(traced, "MOST_WEIGHTS", 0)
    assert not isinstance(traced_features(given, tasks[0], edges=True), TracedSteps)


def test_columns_that_nobody_needs_are_left_out() -> None:
    """Caps leave columns for ties; all of them would be computed with."""
    batch = from_ase(ethanol())
    graphs = matrix_graphs(batch, *shuffled(batch, 5.0), GRAPHS["invariant"], narrow=True)
    for matrix, most in ((graphs.atom, 8), (graphs.atom_edge, 6), (graphs.quad, 3)):
        assert matrix is not None
        assert matrix.source.shape == matrix.real.shape == (9, most)
        assert matrix.real[:, -1].any()


def test_a_program_of_smooth_graphs_can_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "TRACED_STEPS", 2)  # tracing takes time for each
    settings = JMPGraphSettings(cutoff=5.0, smooth=8)
    inputs: list[tuple[Tensor, ...]] = []
    for atoms in (ethanol(), sheared_crystal()):
        batch = from_ase(atoms)
        inputs.append((batch.positions, batch.numbers, batch.cell[0], *shuffled(batch, settings.cutoff)))

    def program(positions: Tensor, numbers: Tensor, cell: Tensor, neighbours: Tensor, offsets: Tensor) -> Tensor:
        topology = matrix_topology(_one_structure(positions, numbers, 0 * numbers, cell), neighbours, offsets, settings)
        slices = _in_slices(lambda rows: topology.main.source[rows], topology.main, 1)
        assert topology.reach is not None
        return topology.reach.radius + torch.stack([sources.sum() for _, sources in slices]).sum()

    made = make_fx(program, tracing_mode="symbolic")(*inputs[0])
    torch.testing.assert_close(made(*inputs[1]), program(*inputs[1]), rtol=0, atol=1e-12)
