"""Pairs within a cutoff against ASE and plain enumeration; ties, overlaps, and reuse of a list."""

import os
import signal
import threading
import time
from itertools import product

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import primitive_neighbor_list
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from atomslim.atoms import (
    AtomsBatch,
    Pairs,
    find_pairs,
    from_ase,
    nearest,
    search,
    sorted_pairs,
    update_distances,
    within,
)
from atomslim.atoms.neighbours import packed_keys
from atomslim.errors import StructureError

PairName = tuple[int, ...]


def names(pairs: Pairs) -> list[PairName]:
    """Name each pair by source, target and offset."""
    columns = torch.column_stack([pairs.source, pairs.target, pairs.offset])
    return [tuple(row) for row in columns.tolist()]


def recomputed_distances(pairs: Pairs, batch: AtomsBatch) -> NDArray[np.float64]:
    """|r_target − (r_source + offset · cell)|, as the offset is defined."""
    cell = batch.cell[batch.batch[pairs.target]]
    image = batch.positions[pairs.source] + torch.einsum("pi,pij->pj", pairs.offset.double(), cell)
    return (batch.positions[pairs.target] - image).norm(dim=1).detach().numpy()


def rattled_slab(seed: int = 0) -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    atoms.rattle(0.1, seed=seed)
    return atoms


@st.composite
def structures(draw: st.DrawFn) -> Atoms:
    """Draw a skewed, possibly thin cell of any periodicity, with atoms inside and outside it."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pbc = draw(st.tuples(*[st.booleans()] * 3))
    cell = np.diag(random.uniform(2.0, 7.0, 3)) + random.uniform(-1.0, 1.0, (3, 3))
    count = draw(st.integers(1, 7))
    positions = random.uniform(-1.0, 2.0, (count, 3)) @ cell
    return Atoms("C" * count, positions, cell=cell, pbc=pbc)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    atoms=structures(), cutoff=st.sampled_from([1.5, 4.0, 7.5]), vacuum=st.sampled_from(["kept", "zero", "parallel"])
)
def test_pairs_are_those_of_ase(atoms: Atoms, cutoff: float, vacuum: str) -> None:
    i, j, shift, distance = primitive_neighbor_list("ijSd", atoms.pbc, atoms.cell, atoms.positions, cutoff)
    assume(len(distance) == 0 or distance.min() > 0.02)
    expected = dict(zip(zip(j, i, *shift.T, strict=True), distance, strict=True))
    if vacuum != "kept":
        atoms.cell[~atoms.pbc] = 0.0 if vacuum == "zero" or not atoms.pbc.any() else atoms.cell[atoms.pbc][0]
    batch = from_ase(atoms)
    pairs = find_pairs(batch, cutoff)
    assert len(pairs) == len(expected)
    np.testing.assert_allclose([expected[name] for name in names(pairs)], pairs.distance, rtol=0, atol=1e-10)
    np.testing.assert_allclose(recomputed_distances(pairs, batch), pairs.distance, rtol=0, atol=1e-10)


def test_cell_much_thinner_than_the_cutoff() -> None:
    cell = np.diag([2.15, 3.7, 5.0])
    pairs = find_pairs(from_ase(Atoms("Cu", cell=cell, pbc=True)), 12.0)
    offsets = [o for o in product(range(-6, 7), repeat=3) if 0 < np.linalg.norm(o @ cell) <= 12.0]
    assert sorted(names(pairs)) == sorted((0, 0, *o) for o in offsets)


def test_offset_belongs_to_the_source() -> None:
    atoms = Atoms("HC", [[0.5, 0, 0], [9.5, 0, 0]], cell=[10, 10, 10], pbc=True)
    pairs = find_pairs(from_ase(atoms), 2.0)
    assert names(pairs) == [(1, 0, -1, 0, 0), (0, 1, 1, 0, 0)]
    assert pairs.distance.tolist() == pytest.approx([1.0, 1.0])


def test_a_single_atom_has_no_pairs() -> None:
    pairs = find_pairs(from_ase(Atoms("He")), 12.0)
    assert len(pairs) == 0
    assert pairs.offset.shape == (0, 3)
    assert pairs.source.dtype == torch.int64
    assert pairs.distance.dtype == torch.float64


def test_pairs_at_the_cutoff_are_inside_wherever_the_atoms_are() -> None:
    """12 Å is three lattice constants, so that rounding would decide about the third shell otherwise."""
    expected = sum(0 < np.dot(o, o) <= 9 for o in product(range(-3, 4), repeat=3))
    for shift in (0.0, 0.1, -1.7, 1e3 + 0.3):
        atoms = Atoms("Po", [[shift, shift / 3, -shift]], cell=[4.0] * 3, pbc=True)
        assert len(find_pairs(from_ase(atoms), 12.0)) == expected
    dimer = from_ase(Atoms("H2", [[0.1, 0, 0], [0.1 + 0.7, 0, 0]]))
    assert len(find_pairs(dimer, 0.7)) == 2
    assert len(find_pairs(dimer, 0.7 - 1e-6)) == 0


def scattered(pbc: tuple[bool, bool, bool], reach: float) -> Atoms:
    """Place four hydrogen molecules `reach` apart along every non-periodic direction."""
    positions = np.repeat(np.arange(4.0), 2)[:, None] * np.where(pbc, 0.5, reach) + np.tile(
        [[0.0] * 3, [0.3] * 3], (4, 1)
    )
    return Atoms("H8", positions, cell=np.diag(np.where(pbc, 5.0, 0.0)), pbc=pbc)


@pytest.mark.parametrize("pbc", list(product([False, True], repeat=3))[:-1])
@pytest.mark.parametrize("reach", [13.0, 1e4, 1e8])
def test_atoms_that_flew_off_are_no_neighbours(pbc: tuple[bool, bool, bool], reach: float) -> None:
    """vesin alone takes minutes or ends the process for the largest of these."""
    apart, near = (find_pairs(from_ase(scattered(pbc, far)), 6.0) for far in (reach, 12.0))
    assert names(apart) == names(near)
    np.testing.assert_allclose(apart.distance, near.distance, rtol=0, atol=1e-15 * max(reach, 1e3))
    assert len(near) > 0


@pytest.mark.parametrize("lengths", [(5e3, 5e3, 10.0), (10.0, 3e4, 1e5), (1e3, 1e3, 1e3)])
def test_long_thin_periodic_cells_can_be_searched(lengths: tuple[float, float, float]) -> None:
    """vesin alone divides by zero for the first two."""
    atoms = Atoms("H2", [[1.0, 0, 0], [-1.5, 0, 0]], cell=lengths, pbc=True)
    atoms.wrap()
    short = Atoms("H2", [[1.0, 0, 0], [-1.5, 0, 0]], cell=np.minimum(lengths, 40.0), pbc=True)
    short.wrap()
    long_pairs, short_pairs = find_pairs(from_ase(atoms), 12.0), find_pairs(from_ase(short), 12.0)
    assert names(long_pairs) == names(short_pairs)
    np.testing.assert_allclose(long_pairs.distance, short_pairs.distance, rtol=0, atol=1e-8)


def test_both_directions_share_their_distance_bit_for_bit() -> None:
    batch = from_ase(rattled_slab())
    found = find_pairs(batch, 6.0)
    for pairs in (found, update_distances(found, batch)):
        distance = dict(zip(names(pairs), pairs.distance.tolist(), strict=True))
        assert all(distance[(t, s, -x, -y, -z)] == d for (s, t, x, y, z), d in distance.items())


def test_order_is_target_distance_source_offset() -> None:
    pairs = find_pairs(from_ase(bulk("Cu", cubic=True)), 6.0)
    rows = [
        (target, round(distance, 5), source, *offset)
        for (source, target, *offset), distance in zip(names(pairs), pairs.distance.tolist(), strict=True)
    ]
    assert rows == sorted(rows)


def test_order_is_untouched_by_rounding() -> None:
    """Moving an ideal crystal changes every distance in its last digits, but no order."""
    atoms = bulk("Cu", cubic=True)
    expected = names(find_pairs(from_ase(atoms), 6.0))
    atoms.positions += [0.123456789, 17.3, -5.1]
    assert names(find_pairs(from_ase(atoms), 6.0)) == expected


def test_a_batch_has_the_pairs_of_its_structures_each_with_its_cutoff() -> None:
    structures = [molecule("CH3CH2OH"), rattled_slab(), Atoms("He"), bulk("NaCl", "rocksalt", a=5.6)]
    cutoffs = [2.0, 5.0, 12.0, 6.5]
    first, expected = 0, []
    for atoms, cutoff in zip(structures, cutoffs, strict=True):
        single = find_pairs(from_ase(atoms), cutoff)
        expected += [(s + first, t + first, *offset) for s, t, *offset in names(single)]
        first += len(atoms)
    assert names(find_pairs(from_ase(structures), cutoffs)) == expected


def test_the_number_of_cutoffs_must_be_the_number_of_structures() -> None:
    with pytest.raises(StructureError, match="2 cutoffs for 1 structures"):
        find_pairs(from_ase(Atoms("He")), [1.0, 2.0])


def test_pairs_are_detached_and_float64() -> None:
    batch = from_ase(molecule("H2O")).to(dtype=torch.float32)
    batch.positions.requires_grad_(True)
    pairs = find_pairs(batch, 5.0)
    assert pairs.distance.dtype == torch.float64
    assert not pairs.distance.requires_grad


@pytest.mark.parametrize("gap", [0.0, 0.005])
def test_overlapping_atoms_are_refused_by_name(gap: float) -> None:
    bad = Atoms("H3", [[0, 0, 0], [3, 0, 0], [3 + gap, 0, 0]])
    with pytest.raises(StructureError, match=r"structure 1: atoms 1 and 2 are 0\.00.* Å apart") as error:
        find_pairs(from_ase([molecule("H2O"), bad]), 5.0)
    assert "\n" not in str(error.value)


def test_overlap_across_the_cell_boundary_is_refused() -> None:
    bad = Atoms("H2", [[0.001, 0, 0], [9.999, 0, 0]], cell=[10] * 3, pbc=True)
    with pytest.raises(StructureError, match=r"atoms 0 and 1 \(periodic image\)"):
        find_pairs(from_ase(bad), 5.0)


def test_atoms_that_moved_onto_each_other_are_refused() -> None:
    batch = from_ase(Atoms("H2", [[0, 0, 0], [3, 0, 0]]))
    pairs = find_pairs(batch, 5.0)
    batch.positions[1, 0] = 0.001
    with pytest.raises(StructureError, match="atoms 0 and 1"):
        update_distances(pairs, batch)


def test_invalid_structures_are_refused() -> None:
    with pytest.raises(StructureError, match="not finite"):
        find_pairs(from_ase(Atoms("H", [[np.nan, 0, 0]])), 5.0)


def test_a_list_with_a_skin_gives_the_pairs_of_moved_atoms() -> None:
    structures = [rattled_slab(), molecule("CH3CH2OH"), bulk("Cu")]
    cutoffs = [4.0, 3.0, 5.0]
    pairs = find_pairs(from_ase(structures), [cutoff + 1.0 for cutoff in cutoffs])
    for seed, atoms in enumerate(structures):
        atoms.positions += np.random.default_rng(seed).uniform(-0.25, 0.25, atoms.positions.shape)
    structures[0].set_cell(structures[0].cell.array * 1.01)
    moved = from_ase(structures)
    reused = within(update_distances(pairs, moved), moved, cutoffs)
    fresh = find_pairs(moved, cutoffs)
    assert names(reused) == names(fresh)
    np.testing.assert_allclose(reused.distance, fresh.distance, rtol=0, atol=1e-12)


def star(*lengths: float) -> AtomsBatch:
    """Build an atom 0 with one neighbour along each axis direction, at the given distances."""
    directions = np.vstack([np.eye(3), -np.eye(3)])[: len(lengths)]
    return from_ase(Atoms("C" * (1 + len(lengths)), np.vstack([np.zeros(3), directions * np.array(lengths)[:, None]])))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((2.0, 2.0, 2.0, 2.0), [1, 2]),
        ((2.0, 2.0, 2.0 - 1e-8, 2.0 + 1e-8), [1, 2]),
        ((2.0, 2.0, 2.0 - 1e-4, 2.0 - 2e-4), [4, 3]),
        ((2.0, 1.5, 2.0 - 1e-8, 2.0), [2, 1]),
    ],
    ids=["equal", "equal but for rounding", "different", "one nearer, three equal"],
)
def test_ties_go_to_the_lower_source(lengths: tuple[float, ...], expected: list[int]) -> None:
    pairs = find_pairs(star(*lengths), 2.5)
    kept = pairs.select(nearest(pairs, torch.tensor([2, 0, 0, 0, 0])))
    assert kept.source.tolist() == expected
    assert kept.target.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((2.0, 2.0, 2.0, 2.0), [1, 2, 3, 4]),
        ((2.0, 1.5, 2.0 - 1e-8, 2.0), [2, 1, 3, 4]),
        ((2.0, 1.5, 1.6, 2.0), [2, 3]),
        ((2.0, 1.5, 1.6, 1.6 + 1e-4), [2, 3]),
    ],
    ids=["equal", "one nearer, three equal", "ties behind the last", "nearly equal"],
)
def test_ties_may_all_stay(lengths: tuple[float, ...], expected: list[int]) -> None:
    pairs = find_pairs(star(*lengths), 2.5)
    ties = torch.tensor([True, False, False, False, False])
    kept = pairs.select(nearest(pairs, torch.tensor([2, 0, 0, 0, 0]), ties))
    assert kept.source.tolist() == expected
    assert kept.target.tolist() == [0] * len(expected)


def test_ties_of_one_source_go_to_the_lower_offset() -> None:
    pairs = find_pairs(from_ase(Atoms("Po", cell=[3.0] * 3, pbc=True)), 3.5)
    kept = pairs.select(nearest(pairs, torch.tensor([4])))
    assert kept.offset.tolist() == [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, 1]]


def test_each_target_keeps_its_own_number() -> None:
    atoms = rattled_slab()
    pairs = find_pairs(from_ase(atoms), 5.0)
    available = np.bincount(pairs.target, minlength=len(atoms))
    wanted = np.arange(len(atoms)) * 5
    assert (wanted > available).any()
    kept = pairs.select(nearest(pairs, torch.from_numpy(wanted)))
    np.testing.assert_array_equal(np.bincount(kept.target, minlength=len(atoms)), np.minimum(wanted, available))
    for atom in range(len(atoms)):
        every = np.sort(pairs.distance[pairs.target == atom])
        np.testing.assert_array_equal(np.sort(kept.distance[kept.target == atom]), every[: wanted[atom]])


def test_sorting_does_not_depend_on_the_order_given() -> None:
    pairs = find_pairs(from_ase(bulk("Cu", cubic=True)), 5.0)
    shuffle = np.random.default_rng(0).permutation(len(pairs))
    columns = (pairs.source, pairs.target, pairs.offset, pairs.distance)
    again = sorted_pairs(*(column.numpy()[shuffle] for column in columns))
    assert names(again) == names(pairs)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(*[st.integers(-2, 2) | st.integers(-(2**61), 2**61)] * 4), min_size=1, max_size=12),
)
def test_packed_keys_compare_as_rows_do(rows: list[tuple[int, ...]]) -> None:
    keys = packed_keys(*np.array(rows, dtype=np.int64).T)
    for key, row in zip(keys, rows, strict=True):
        assert (keys < key).tolist() == [other < row for other in rows]
        assert (keys == key).tolist() == [other == row for other in rows]


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (True, False, False)])
def test_a_search_that_memory_cannot_hold_is_refused_before_it_begins(pbc: tuple[bool, bool, bool]) -> None:
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    atoms.pbc = pbc
    with pytest.raises(StructureError, match=r"cutoff 1e\+12 Å: about .* choose a shorter cutoff"):
        find_pairs(from_ase(atoms), 1e12)


@pytest.mark.parametrize(
    ("pbc", "cutoff"), [((True, True, True), 15.0), ((True, True, False), 9.0), ((False,) * 3, 40.0)]
)
def test_the_expected_number_of_pairs_is_about_right(pbc: tuple[bool, bool, bool], cutoff: float) -> None:
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.pbc = pbc
    batch = from_ase(atoms)
    box = search.search_box(batch.cell[0].numpy(), batch.pbc[0].numpy())
    expected = search.expected_pairs(batch.positions.numpy(), box, batch.pbc[0].numpy(), cutoff)
    assert expected == pytest.approx(len(find_pairs(batch, cutoff)), rel=0.6)


def test_a_long_search_hears_ctrl_c() -> None:
    def interrupt() -> None:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        search.interruptible(lambda: time.sleep(20))
    assert time.monotonic() - begun < 15


def test_an_error_of_a_long_search_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        search.interruptible(lambda: 1 / 0)
    assert search.interruptible(lambda: 3) == 3


def test_positions_beyond_any_structure_are_refused() -> None:
    atoms = Atoms("H2", [[0, 0, 0], [1e18, 0, 0]])
    with pytest.raises(StructureError, match=r"structure 0, atom 1: position .* is farther than 1e\+09 Å"):
        find_pairs(from_ase(atoms), 6.0)
