from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

from atomslim.atoms import Pairs, find_pairs, from_ase, update_distances, within
from atomslim.families.jmp import JMP
from atomslim.inference.calculator import Calculator, CandidatePairs
from samples import CAPPED, ethanol, moving, sheared_crystal, slab, small_model, strained

pytestmark = pytest.mark.filterwarnings("ignore::atomslim.errors.AtomslimWarning")


def steps(atoms: Atoms, size: float, number: int) -> list[Atoms]:
    random = np.random.default_rng(7)
    frames = [atoms]
    for _ in range(number):
        frames.append(frames[-1].copy())
        frames[-1].positions += random.normal(scale=size, size=(len(atoms), 3))
    return frames


def assert_same(frames: list[Atoms], given: JMP, *skins: float) -> list[int]:
    """Check that results equal those of a fresh search in every frame; return numbers of searches."""
    calculators = [Calculator(given, skin=skin) for skin in skins]
    for atoms in frames:
        predicted = given.predict(from_ase(atoms))
        for calculator in calculators:
            calculator.calculate(atoms)
            assert calculator.results["energy"] == pytest.approx(predicted["energy"].item(), rel=1e-12)
            forces = predicted["forces"].numpy()
            np.testing.assert_allclose(calculator.results["forces"], forces, rtol=1e-9, atol=1e-12)
    return [calculator.neighbour_searches for calculator in calculators]


@pytest.mark.parametrize("structure", [ethanol, sheared_crystal, slab])
def test_results_do_not_depend_on_the_skin(structure: Callable[[], Atoms]) -> None:
    frames = steps(structure(), size=0.04, number=6)
    never, sometimes, once = assert_same(frames, small_model(CAPPED), 0.0, 0.3, 3.0)
    assert (never, once) == (7, 1)
    assert 1 < sometimes < 6


@pytest.mark.parametrize(("structure", "skin"), [(ethanol, 0.3), (slab, 0.05)])
def test_results_do_not_depend_on_the_skin_along_a_trajectory(structure: Callable[[], Atoms], skin: float) -> None:
    given, atoms = small_model(CAPPED), moving(structure(), 600.0)
    atoms.calc = Calculator(given, skin=skin)
    frames: list[Atoms] = []
    dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
    dynamics.attach(lambda: frames.append(atoms.copy()))
    dynamics.run(12)
    assert 1 < atoms.calc.neighbour_searches < 7
    assert assert_same(frames, given, skin) == [atoms.calc.neighbour_searches]


def test_jumps_wrapping_and_other_structures_are_noticed() -> None:
    crystal, shuffled = sheared_crystal(), sheared_crystal()
    far, wrapped, molecule_like, heavier = (crystal.copy() for _ in range(4))
    far.positions[1] += [3.0, -40.0, 7.0]
    wrapped.positions += 0.6 * crystal.cell.array.sum(axis=0)
    wrapped.wrap()
    molecule_like.pbc = False
    heavier.numbers[0] = 49
    shuffled.positions = shuffled.positions[::-1]
    frames = [crystal, far, crystal, wrapped, crystal, molecule_like, crystal, heavier, ethanol(), crystal, shuffled]
    assert assert_same(frames, small_model(CAPPED), 0.5) == [len(frames)]


@pytest.mark.parametrize("structure", [sheared_crystal, slab])
def test_pairs_are_reused_while_the_cell_breathes(structure: Callable[[], Atoms]) -> None:
    frames = steps(structure(), size=0.005, number=5)
    for number, atoms in enumerate(frames):
        strained(0.01 * np.sin(number) * np.array([[1.0, 0.5, 0.0], [0.5, -1.0, 0.2], [0.0, 0.2, 0.3]]))(atoms)
    (searches,) = assert_same(frames, small_model(CAPPED), 0.5)
    assert searches < 4


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False), (False, False, False)])
def test_no_pair_is_ever_missing(pbc: tuple[bool, bool, bool]) -> None:
    """After the largest moves and strains that still allow reuse, and larger ones."""
    random = np.random.default_rng(8)
    searches = 0
    for _ in range(60):
        atoms = bulk("NaCl", "rocksalt", a=4.4) * (3, 2, 2)
        atoms.pbc = pbc
        atoms.positions += random.normal(scale=0.2, size=(len(atoms), 3))
        candidates = CandidatePairs(cutoff=4.0, skin=0.6)
        candidates.of(from_ase(atoms))
        strain = random.choice([0.0, 0.05, 0.15]) * random.uniform(-1, 1, size=(3, 3))
        if random.integers(2):
            strained(strain)(atoms)
        else:
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain))  # atoms stay where they are
        directions = random.normal(size=(len(atoms), 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        atoms.positions += random.uniform(0, 0.4) * directions
        batch = from_ase(atoms)
        assert edges(within_now(candidates.of(batch), atoms, 4.0)) == edges(find_pairs(batch, 4.0))
        searches += candidates.searches - 1
    assert 10 < searches < 50


def within_now(pairs: Pairs, atoms: Atoms, cutoff: float) -> Pairs:
    batch = from_ase(atoms)
    return within(update_distances(pairs, batch), batch, cutoff)


def edges(pairs: Pairs) -> list[tuple[int, ...]]:
    return torch.column_stack([pairs.target, pairs.source, pairs.offset]).tolist()
