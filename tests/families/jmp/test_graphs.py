"""The four graphs against a plain enumeration of their rules, and their symmetries."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from pydantic import ValidationError

from atomslim.atoms import AtomsBatch, Pairs, find_pairs, from_ase
from atomslim.errors import ConfigError, StructureError
from atomslim.families.jmp import JMPGraphSettings
from atomslim.families.jmp.gemnet_oc.graphs import Edges, Topology, build_topology, reverse_index, symmetrised
from atomslim.families.jmp.graph_settings import Symmetrise

GRAPHS = ("main", "atom", "atom_edge", "quad")
SMALL = JMPGraphSettings(cutoff=5.0, main=7, atom=25, atom_edge=5, quad=3)

EdgeName = tuple[int, ...]


def names(edges: Edges) -> list[EdgeName]:
    """Name each edge by source, target and offset."""
    columns = torch.column_stack([edges.source, edges.target, edges.offset])
    return [tuple(row) for row in columns.tolist()]


def reversed_name(name: EdgeName) -> EdgeName:
    source, target, *offset = name
    return (target, source, *(-o for o in offset))


def lengths(batch: AtomsBatch, edges: Edges) -> torch.Tensor:
    image = torch.einsum("ei,eij->ej", edges.offset.to(batch.cell), batch.cell[batch.batch[edges.source]])
    return (batch.positions[edges.target] - batch.positions[edges.source] - image).norm(dim=1)


def rattled_slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    atoms.rattle(0.1, seed=3)
    atoms.set_tags([0] * 4 + [0] * 4 + [1] * 3 + [2])
    return atoms


def rattled_oxide() -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.2) * (1, 1, 2)
    atoms.rattle(0.1, seed=5)
    return atoms


def enumerated(atoms: Atoms, settings: JMPGraphSettings) -> dict[str, set[EdgeName]]:
    """Apply the rules edge by edge, in plain Python."""
    cells = [range(-3, 4) if periodic else range(1) for periodic in atoms.pbc]
    nearest: dict[str, set[EdgeName]] = {graph: set() for graph in GRAPHS}
    for target in range(len(atoms)):
        found = []
        for source, offset in product(range(len(atoms)), product(*cells)):
            distance = np.linalg.norm(atoms.positions[target] - atoms.positions[source] - offset @ atoms.cell.array)
            if 0.01 < distance <= settings.cutoff:
                found.append((distance, source, offset))
        found.sort()
        for graph in GRAPHS:
            kept = found[: settings.atom][: getattr(settings, graph)]
            nearest[graph] |= {(source, target, *offset) for _, source, offset in kept}
    tags = atoms.get_tags()
    nearest["quad"] = {name for name in nearest["quad"] if max(tags[name[0]], tags[name[1]]) > 0}
    nearest["main"] = enumerated_symmetrised(nearest["main"], settings.symmetrise)
    return nearest


def enumerated_symmetrised(kept: set[EdgeName], rule: Symmetrise) -> set[EdgeName]:
    if rule == "original":
        kept = {
            (source, target, *offset)
            for source, target, *offset in kept
            if source < target or (source == target and next(o for o in offset if o) < 0)
        }
    return kept | {reversed_name(name) for name in kept}


@pytest.mark.parametrize("rule", ["original", "invariant"])
@pytest.mark.parametrize("make", [rattled_slab, rattled_oxide])
def test_graphs_are_those_of_plain_enumeration(make: Callable[[], Atoms], rule: Symmetrise) -> None:
    atoms, settings = make(), SMALL.model_copy(update={"symmetrise": rule})
    if not atoms.get_tags().any():
        atoms.set_tags(2)
    expected = enumerated(atoms, settings)
    topology = build_topology(from_ase(atoms), settings)
    for graph in GRAPHS:
        ours = names(getattr(topology, graph))
        assert len(ours) == len(expected[graph])
        assert set(ours) == expected[graph]


@pytest.mark.parametrize(
    ("k", "caps"), [(30, (30, 1000, 20, 8)), (100, (100, 3333, 66, 26)), (10, (10, 333, 6, 2)), (5, (5, 166, 3, 1))]
)
def test_caps_follow_the_base_number(k: int, caps: tuple[int, ...]) -> None:
    settings = JMPGraphSettings.from_neighbours(7.0, k, "invariant")
    assert (settings.main, settings.atom, settings.atom_edge, settings.quad) == caps
    assert (settings.cutoff, settings.symmetrise) == (7.0, "invariant")
    assert JMPGraphSettings.from_neighbours() == JMPGraphSettings()


@pytest.mark.parametrize(
    "wrong", [{"cutoff": 0.0}, {"cutoff": float("inf")}, {"main": 0}, {"symmetrise": "no"}, {"neighbours": 30}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        JMPGraphSettings.model_validate(wrong)


@pytest.mark.parametrize("rule", ["original", "invariant"])
@pytest.mark.parametrize("main", [7, 1000])
def test_reverse_points_at_the_reverse_edge(main: int, rule: Symmetrise) -> None:
    settings = JMPGraphSettings(cutoff=5.0, main=main, symmetrise=rule)
    topology = build_topology(from_ase([rattled_slab(), bulk("Cu"), molecule("CH4")]), settings)
    ours = names(topology.main)
    assert [ours[index] for index in topology.reverse] == [reversed_name(name) for name in ours]


def test_reverse_needs_symmetric_edges() -> None:
    edges = Edges(torch.tensor([1, 2]), torch.tensor([0, 0]), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="reverse"):
        reverse_index(edges)


@pytest.mark.parametrize("graph", GRAPHS)
def test_targets_with_few_edges_come_first_then_target_distance_source_and_offset_decide(graph: str) -> None:
    batch = from_ase([bulk("Cu", cubic=True), rattled_slab(), bulk("NaCl", "rocksalt", a=5.6)])
    edges: Edges = getattr(build_topology(batch, SMALL), graph)
    degree = torch.bincount(edges.target).tolist()
    rows = [
        (degree[target], target, round(distance, 5), source, *offset)
        for (source, target, *offset), distance in zip(names(edges), lengths(batch, edges).tolist(), strict=True)
    ]
    assert rows == sorted(rows)
    assert len(rows) > 20


def test_original_rule_loses_and_gains_edges_and_the_invariant_rule_keeps_either() -> None:
    batch = from_ase(Atoms("H3", [[0, 0, 0], [1.0, 0, 0], [1.9, 0, 0]]))  # nearest: 1→0, 2→1, 1→2
    original = build_topology(batch, JMPGraphSettings(main=1, symmetrise="original"))
    invariant = build_topology(batch, JMPGraphSettings(main=1, symmetrise="invariant"))
    assert {name[:2] for name in names(original.main)} == {(1, 2), (2, 1)}
    assert {name[:2] for name in names(invariant.main)} == {(0, 1), (1, 0), (1, 2), (2, 1)}
    assert original.capped_fraction.tolist() == invariant.capped_fraction.tolist() == [0.5]


@pytest.mark.parametrize(
    ("rule", "main", "expected"),
    [*(("original", main, min(2 * main, 6)) for main in (1, 2, 3, 4, 6)), ("invariant", 1, 6), ("invariant", 6, 6)],
)
def test_an_atom_and_its_own_images(rule: Symmetrise, main: int, expected: int) -> None:
    """Of the six equal neighbours of simple cubic the lower offsets are kept and their reverses added, or all."""
    batch = from_ase(Atoms("Po", cell=[3.0] * 3, pbc=True))
    topology = build_topology(batch, JMPGraphSettings(cutoff=3.5, main=main, symmetrise=rule))
    order = [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]
    assert set(names(topology.main)) == {
        (0, 0, *(sign * o for o in offset)) for offset in order[: expected // 2] for sign in (1, -1)
    }
    assert len(topology.main) == expected


def test_original_rule_drops_self_images_kept_in_the_positive_direction_only() -> None:
    """Nearest-k cannot produce this (a tie goes to the lower offset), so the rule is asked directly."""
    zero = torch.zeros(2, dtype=torch.int64)
    pairs = Pairs(zero, zero, torch.tensor([[0, 1, 0], [0, -1, 5]]), torch.tensor([1.0, 2.0], dtype=torch.float64))
    original = symmetrised(pairs, np.array([True, True]))
    invariant = symmetrised(pairs, np.array([False, False]))
    assert original.offset.tolist() == [[0, -1, 5], [0, 1, -5]]
    assert invariant.offset.tolist() == [[0, -1, 0], [0, 1, 0], [0, -1, 5], [0, 1, -5]]


def renumbered(atoms: Atoms, new_order: Sequence[int], settings: JMPGraphSettings) -> set[EdgeName]:
    """Main edges of the permuted structure, under the atoms' numbers before the permutation."""
    edges = build_topology(from_ase(atoms[new_order]), settings).main
    return {(new_order[source], new_order[target], *offset) for source, target, *offset in names(edges)}


def test_invariant_rule_does_not_see_the_numbering() -> None:
    atoms = rattled_slab()
    new_order = np.random.default_rng(1).permutation(len(atoms)).tolist()
    same = list(range(len(atoms)))
    for rule, equal in (("invariant", True), ("original", False)):
        settings = SMALL.model_copy(update={"symmetrise": rule})
        assert (renumbered(atoms, new_order, settings) == renumbered(atoms, same, settings)) is equal


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("ideal", [True, False])
def test_moving_and_wrapping_change_no_distance(graph: str, *, ideal: bool) -> None:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0) if ideal else rattled_slab()
    settings = SMALL.model_copy(update={"symmetrise": "invariant"})
    moved = atoms.copy()
    moved.positions += [3.3, -1.234, 0.777]
    moved.positions[::2] += 2 * atoms.cell[0] - atoms.cell[1]
    wrapped = moved.copy()
    wrapped.wrap()
    expected, *others = (
        lengths(batch, getattr(build_topology(batch, settings), graph)).sort().values
        for batch in map(from_ase, (atoms, moved, wrapped))
    )
    for other in others:
        torch.testing.assert_close(other, expected, rtol=0, atol=1e-9)


def test_quad_edges_touch_a_surface_or_adsorbate_atom() -> None:
    atoms = rattled_slab()
    some = build_topology(from_ase(atoms), SMALL).quad
    atoms.set_tags(2)
    all_ = build_topology(from_ase(atoms), SMALL).quad
    touching = [name for name in names(all_) if name[0] >= 8 or name[1] >= 8]
    assert 0 < len(touching) < len(all_)
    assert names(some) == touching


def test_a_structure_without_quadruplets_has_an_empty_graph() -> None:
    batch = from_ase(rattled_slab())
    batch.tags[:] = 0
    topology = build_topology(batch, SMALL)
    assert len(topology.quad) == 0
    assert topology.quad.offset.shape == (0, 3)
    assert len(build_topology(from_ase(rattled_slab()), JMPGraphSettings(main=1, atom_edge=0, quad=0)).atom_edge) == 0


def test_only_main_keeps_edges_beyond_the_basis() -> None:
    batch = from_ase(Atoms("H3", [[0, 0, 0], [13.0, 0, 0], [0, 1.0, 0]]))
    settings = JMPGraphSettings(cutoff=13.01, main=1, atom=1, atom_edge=1, quad=1)
    topology = build_topology(batch, settings)
    assert {(0, 1), (1, 0)} <= {name[:2] for name in names(topology.main)}
    for graph in ("atom", "atom_edge", "quad"):
        assert {name[:2] for name in names(getattr(topology, graph))} == {(0, 2), (2, 0)}
    longer = build_topology(batch, settings, basis_cutoff=14.0)
    assert {name[:2] for name in names(longer.quad)} == {(0, 2), (2, 0), (0, 1)}


def test_an_edge_at_the_basis_cutoff_is_dropped() -> None:
    topology = build_topology(from_ase(Atoms("H2", [[0, 0, 0], [12.0, 0, 0]])), JMPGraphSettings())
    assert (len(topology.main), len(topology.atom)) == (2, 0)


@pytest.mark.parametrize("atoms", [Atoms("He"), Atoms("He2", [[0, 0, 0], [20, 0, 0]])], ids=["one", "two far apart"])
def test_atoms_without_neighbours(atoms: Atoms) -> None:
    topology = build_topology(from_ase(atoms), JMPGraphSettings())
    assert [len(getattr(topology, graph)) for graph in GRAPHS] == [0] * 4
    assert topology.reverse.shape == (0,)
    assert topology.reverse.dtype == topology.main.source.dtype == torch.int64
    assert topology.capped_fraction.tolist() == [0.0]


def test_a_batch_has_the_graphs_of_its_structures_each_with_its_settings() -> None:
    structures = [rattled_slab(), Atoms("He"), rattled_oxide(), molecule("CH3CH2OH")]
    settings = [
        SMALL,
        JMPGraphSettings(),
        JMPGraphSettings(cutoff=6.0, main=9, atom=30, atom_edge=3, quad=4, symmetrise="invariant"),
        JMPGraphSettings.from_neighbours(7.0, 100),
    ]
    topology = build_topology(from_ase(structures), settings)
    first = 0
    expected: dict[str, list[EdgeName]] = {graph: [] for graph in GRAPHS}
    capped_fraction = []
    for atoms, one in zip(structures, settings, strict=True):
        single = build_topology(from_ase(atoms), one)
        capped_fraction += single.capped_fraction.tolist()
        for graph in GRAPHS:
            expected[graph] += [(s + first, t + first, *o) for s, t, *o in names(getattr(single, graph))]
        first += len(atoms)
    for graph in GRAPHS:
        assert sorted(names(getattr(topology, graph))) == sorted(expected[graph])
    assert topology.capped_fraction.tolist() == capped_fraction
    assert capped_fraction[0] > 0
    assert capped_fraction[1] == capped_fraction[3] == 0


def test_capped_is_the_share_of_pairs_that_main_dropped() -> None:
    batch = from_ase(rattled_slab())
    available = len(find_pairs(batch, SMALL.cutoff))
    kept = SMALL.main * batch.num_atoms
    assert build_topology(batch, SMALL).capped_fraction.tolist() == pytest.approx([1 - kept / available], abs=1e-12)


def test_the_number_of_settings_must_be_the_number_of_structures() -> None:
    with pytest.raises(ConfigError, match="2 graph settings for 1 structures"):
        build_topology(from_ase(Atoms("He")), [SMALL, SMALL])


def same(one: Topology, other: Topology) -> bool:
    graphs = all(names(getattr(one, graph)) == names(getattr(other, graph)) for graph in GRAPHS)
    return (
        graphs and torch.equal(one.reverse, other.reverse) and torch.equal(one.capped_fraction, other.capped_fraction)
    )


def test_reused_pairs_give_the_graphs_of_the_moved_atoms() -> None:
    structures = [rattled_slab(), molecule("CH3CH2OH")]
    batch = from_ase(structures)
    pairs = find_pairs(batch, SMALL.cutoff + 1.0)
    moved = from_ase(structures)
    moved.positions.add_(torch.from_numpy(np.random.default_rng(2).uniform(-0.25, 0.25, moved.positions.shape)))
    fresh = build_topology(moved, SMALL)
    assert same(build_topology(moved, SMALL, pairs=pairs), fresh)
    assert not same(build_topology(batch, SMALL), fresh)


def test_overlapping_atoms_are_refused() -> None:
    with pytest.raises(StructureError, match="atoms 0 and 1"):
        build_topology(from_ase(Atoms("H2")), JMPGraphSettings())


def test_positions_that_require_gradients_build_the_same_graphs() -> None:
    batch = from_ase(rattled_slab())
    expected = build_topology(batch, SMALL)
    batch.positions.requires_grad_(True)
    assert same(build_topology(batch, SMALL), expected)


def test_topology_moves_to_a_device() -> None:
    topology = build_topology(from_ase(rattled_slab()), SMALL)
    moved = topology.to("meta")
    assert {moved.reverse.device.type, moved.capped_fraction.device.type, moved.quad.offset.device.type} == {"meta"}
    assert same(topology.to("cpu"), topology)
