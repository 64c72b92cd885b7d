"""The factorised production path against the enumerating statement of the model, on random graphs."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atomslim.atoms import AtomsBatch, from_ase
from atomslim.families.jmp import JMP, JMPGraphSettings
from atomslim.families.jmp.gemnet_oc import Edges, Topology, build_topology
from atomslim.families.jmp.layout import Layout
from reference import Graph, Inputs, forward
from small_models import DIRECT, jmp

TOLERANCE = 1e-12  # relative to the largest value: sums of some thousand float64 terms in another order


def reference_inputs(batch: AtomsBatch, topology: Topology) -> Inputs:
    def graph(edges: Edges) -> Graph:
        return Graph(edges.source, edges.target, edges.offset)

    graphs = {
        "main": graph(topology.main),
        "a2a": graph(topology.atom),
        "a2ee2a": graph(topology.atom_edge),
        "qint": graph(topology.quad),
    }
    return Inputs(batch.positions, batch.numbers, batch.cell, batch.batch, graphs, topology.reverse)


def jmp_state_dict(model: JMP) -> dict[str, torch.Tensor]:
    names = Layout.of_tasks(list(model.tasks.values())).names(model.config, list(model.tasks))
    state = model.state_dict()
    return {name.jmp: state[name.ours].detach() for name in names if name.ours}


def relative_difference(found: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    """Largest difference over the largest value of ``scale``: what was summed, where a sum may cancel."""
    if not expected.numel() or torch.equal(found, expected):
        return 0.0
    largest = (expected if scale is None else scale).detach().abs().max()
    return float((found.detach() - expected).abs().max() / largest)


def assert_same(model: JMP, batch: AtomsBatch, topology: Topology) -> None:
    expected = forward(jmp_state_dict(model), reference_inputs(batch, topology))
    states = []
    hooks = [block.register_forward_hook(lambda *call: states.append(call[-1])) for block in model.backbone.blocks]
    features = model.features(batch, topology)
    for hook in hooks:
        hook.remove()
    for block, (h, m) in enumerate(states, start=1):
        assert relative_difference(h, expected[f"h{block}"]) < TOLERANCE
        assert relative_difference(m, expected[f"m{block}"]) < TOLERANCE
    for block, node in enumerate(features.node):
        assert relative_difference(node, expected[f"xE{block}"]) < TOLERANCE
    for block, edge in enumerate(features.edge):
        assert relative_difference(edge, expected[f"xF{block}"]) < TOLERANCE
    readout = model.read(features)
    outputs = model.raw_outputs(readout, model.tasks["direct"])
    of_atoms, of_edges = (
        model.get_submodule(f"heads.direct.{name}")(rows)
        for name, rows in (("energy", readout.node), ("forces", readout.edge))
    )
    assert relative_difference(outputs["energy"], expected["E"][:, 0], of_atoms) < TOLERANCE
    assert relative_difference(outputs["forces"], expected["F"][:, :, 0], of_edges) < TOLERANCE


@st.composite
def structures(draw: st.DrawFn) -> Atoms:
    """Random atoms in a cell that may be periodic along any axis and shorter than the cutoff."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    number = draw(st.integers(1, 7))
    cell = np.diag(rng.uniform(2.5, 6.0, 3)) + rng.uniform(-0.8, 0.8, (3, 3))
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    tags = rng.integers(0, 3, number)
    atoms = Atoms(rng.choice([1, 6, 8, 29], number), cell=cell, pbc=pbc, tags=tags)
    for index in range(number):
        while True:
            atoms.positions[index] = rng.random(3) @ cell
            near = atoms[: index + 1].get_all_distances(mic=True)[index, :index] if index else np.array([9.0])
            if near.min() > 0.3:
                break
    return atoms


neighbours = st.builds(
    JMPGraphSettings,
    cutoff=st.sampled_from([3.0, 5.0]),
    main=st.integers(1, 12),
    atom=st.integers(12, 60),
    atom_edge=st.integers(0, 10),
    quad=st.integers(0, 6),
    symmetrise=st.sampled_from(["original", "invariant"]),
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(atoms=structures(), graph=neighbours)
def test_random_graphs(atoms: Atoms, graph: JMPGraphSettings) -> None:
    batch = from_ase(atoms)
    assert_same(jmp(DIRECT), batch, build_topology(batch, graph))


@pytest.mark.parametrize("name", ["H2", "H2O", "CO2", "HCN", "C2H2", "CH3CH2OH"])
def test_molecules_with_and_without_straight_lines(name: str) -> None:
    batch = from_ase(molecule(name))
    assert_same(jmp(DIRECT), batch, build_topology(batch, JMPGraphSettings()))


def test_perfect_crystal_full_of_straight_lines_with_atoms_that_are_their_own_neighbours() -> None:
    batch = from_ase(Atoms("Po", cell=[3.3, 3.3, 3.3], pbc=True))
    graph = JMPGraphSettings(cutoff=5.0, main=18, atom=100, atom_edge=12, quad=6)
    assert_same(jmp(DIRECT), batch, build_topology(batch, graph))


def test_several_structures_with_different_graphs() -> None:
    batch = from_ase([molecule("CH3CH2OH"), Atoms("Po", cell=[3.3] * 3, pbc=True), Atoms("He"), molecule("CO2")])
    graphs = [JMPGraphSettings.from_neighbours(cutoff, k) for cutoff, k in [(4, 5), (5, 18), (6, 30), (3, 4)]]
    assert_same(jmp(DIRECT), batch, build_topology(batch, graphs))


def test_equal_widths_of_atoms_and_edges_and_unfitted_factors() -> None:
    batch = from_ase(molecule("CH3CH2OH"))
    model = jmp(DIRECT, emb_size_edge=14, sum_scale=0.0)
    assert not any(name.endswith("atom_update.dense.weight") for name in model.state_dict())
    assert_same(model, batch, build_topology(batch, JMPGraphSettings()))


def test_edges_beyond_the_basis_cutoff() -> None:
    batch = from_ase(Atoms("HeNeArKr", [[0, 0, 0], [5, 0, 0], [0, 14, 1], [3, 2, 9]]))
    assert_same(jmp(DIRECT), batch, build_topology(batch, JMPGraphSettings(cutoff=19.0)))
