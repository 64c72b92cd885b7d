"""The graphs of the original implementation, as recorded in the golden data."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atomslim.atoms import AtomsBatch
from atomslim.families.jmp import JMPGraphSettings
from atomslim.families.jmp.gemnet_oc.graphs import Edges, Topology, build_topology

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("ATOMSLIM_GOLDEN", REPOSITORY.parent / "shared" / "golden"))
FILES = sorted(
    path
    for config in GOLDEN.glob("*_config.json")
    for path in GOLDEN.glob(f"{config.name.removesuffix('_config.json')}_*.npz")
)
GRAPHS = {"main_sym": "main", "a2a": "atom", "a2ee2a": "atom_edge", "qint": "quad"}

pytestmark = pytest.mark.skipif(not FILES, reason=f"no golden data in {GOLDEN} (set ATOMSLIM_GOLDEN)")

Golden = dict[str, NDArray[Any]]
EdgeName = tuple[int, ...]


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    with np.load(request.param) as arrays:
        return {key: arrays[key] for key in arrays.files if not key.startswith(("h", "m0", "f64_", "x"))}


@pytest.fixture(scope="module")
def topology(golden: Golden) -> Topology:
    return build_topology(golden_batch(golden, periodic=True), golden_settings(golden), basis_cutoff=float("inf"))


def golden_batch(golden: Golden, *, periodic: bool) -> AtomsBatch:
    return AtomsBatch(
        positions=torch.from_numpy(golden["pos"]).double(),
        numbers=torch.from_numpy(golden["Z"]).long(),
        cell=torch.from_numpy(golden["cell"]).double(),
        pbc=torch.full((len(golden["cell"]), 3), periodic),
        tags=torch.from_numpy(golden["tags"]).long(),
        fixed=torch.from_numpy(golden["fixed"]).bool(),
        batch=torch.from_numpy(golden["batch"]).long(),
    )


def golden_settings(golden: Golden) -> list[JMPGraphSettings]:
    return [
        JMPGraphSettings(cutoff=main[0], main=main[1], atom=atom[1], atom_edge=atom_edge[1], quad=quad[1])
        for main, atom, atom_edge, quad in golden["graph_settings"].tolist()
    ]


def names(edges: Edges) -> list[EdgeName]:
    """Name each edge by source, target and offset."""
    columns = torch.column_stack([edges.source, edges.target, edges.offset])
    return [tuple(row) for row in columns.tolist()]


def golden_names(golden: Golden, graph: str) -> list[EdgeName]:
    columns = np.column_stack([golden[f"{graph}_edge_index"].T, golden[f"{graph}_cell_offset"]])
    return [tuple(row) for row in columns.astype(np.int64).tolist()]


@pytest.mark.parametrize("graph", GRAPHS)
def test_edges_are_those_of_the_original(golden: Golden, topology: Topology, graph: str) -> None:
    ours = names(getattr(topology, GRAPHS[graph]))
    assert len(set(ours)) == len(ours)
    assert set(ours) == set(golden_names(golden, graph))


def test_reverse_is_the_original_id_swap(golden: Golden, topology: Topology) -> None:
    theirs = golden_names(golden, "main_sym")
    expected = {name: theirs[swap] for name, swap in zip(theirs, golden["id_swap"], strict=True)}
    ours = names(topology.main)
    assert {name: ours[swap] for name, swap in zip(ours, topology.reverse, strict=True)} == expected


@pytest.mark.parametrize("graph", GRAPHS)
def test_distances_are_those_of_the_original(golden: Golden, topology: Topology, graph: str) -> None:
    edges: Edges = getattr(topology, GRAPHS[graph])
    positions, cell = torch.from_numpy(golden["pos"]).double(), torch.from_numpy(golden["cell"]).double()
    structure = torch.from_numpy(golden["batch"]).long()[edges.source]
    image = torch.einsum("ei,eij->ej", edges.offset.double(), cell[structure])
    ours = (positions[edges.target] - positions[edges.source] - image).norm(dim=1)
    theirs = dict(zip(golden_names(golden, graph), golden[f"{graph}_distance"], strict=True))
    expected = np.array([theirs[name] for name in names(edges)])
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6, atol=1e-6)  # the original's are float32


def test_share_of_capped_pairs(golden: Golden, topology: Topology) -> None:
    targets = {graph: golden[f"{graph}_edge_index"][1] for graph in ("a2a", "main")}
    if np.bincount(targets["a2a"]).max() >= golden["graph_settings"][:, 1, 1].min():
        pytest.skip("the recorded a2a graph is capped too: the number of pairs within the cutoff is unknown")
    counts = {graph: np.bincount(golden["batch"][target]) for graph, target in targets.items()}
    np.testing.assert_allclose(topology.capped_fraction.numpy(), 1 - counts["main"] / counts["a2a"], atol=1e-12)


def test_molecules_have_the_same_graphs_in_a_large_periodic_cell(golden: Golden, topology: Topology) -> None:
    if golden["cell"].diagonal(axis1=1, axis2=2).min() < 100:
        pytest.skip("not a molecule in a large cell")
    free = build_topology(golden_batch(golden, periodic=False), golden_settings(golden), basis_cutoff=float("inf"))
    for graph in ("main", "atom", "atom_edge", "quad"):
        assert names(getattr(free, graph)) == names(getattr(topology, graph))
    assert torch.equal(free.reverse, topology.reverse)
