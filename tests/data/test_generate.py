"""Generating labelled structures: deterministic, resumable, and forces that are the gradient of the energy."""

import json
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii

pytest.importorskip("tblite", reason="needs the extra `labels`: tblite and RDKit")
pytest.importorskip("rdkit", reason="needs the extra `labels`: tblite and RDKit")

from atomslim.data.container import Container
from atomslim.data.generate import DOMAINS, extremes, generate, shares
from atomslim.data.generate.adsorbates import slab
from atomslim.data.generate.crystals import WIDTH, widened
from atomslim.data.generate.labels import Dropped, Labeller, Method, require_apart
from atomslim.data.generate.oxides import SOLIDS
from atomslim.data.generate.reactions import bound, fragment
from atomslim.data.generate.run import make_group
from atomslim.data.generate.smiles import HEAVY_ATOMS, molecules
from atomslim.errors import ConfigError
from data.made_samples import assert_same

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
# ASE announces another default of its nudged elastic bands, which only its interpolation is used of.

STEP = 1e-3  # Å


@pytest.mark.parametrize("name", DOMAINS)
def test_forces_are_the_gradient_of_the_energy(name: str) -> None:
    domain = DOMAINS[name]
    sample = _small_group(name)[0]
    atoms, forces = sample.to_ase(), sample.targets["forces"]
    atom = int(np.linalg.norm(forces, axis=1).argmax())
    direction = forces[atom] / np.linalg.norm(forces[atom])
    energies = []
    for sign in (1, -1):
        moved = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        moved.positions[atom] += sign * STEP * direction
        energies.append(domain.method.results(moved)["energy"])
    slope = -(energies[0] - energies[1]) / (2 * STEP)
    assert slope == pytest.approx(float(forces[atom] @ direction), rel=5e-3, abs=5e-3)


@pytest.mark.parametrize("name", DOMAINS)
def test_a_group_is_the_same_every_time(name: str) -> None:
    for one, other in zip(_small_group(name), _small_group(name, fresh=True), strict=True):
        assert_same(one, other)
        assert one.group == other.group
        assert one.group


_groups: dict[str, Any] = {}


def _small_group(name: str, *, fresh: bool = False) -> Any:
    """Two structures of the quickest group of a domain."""
    number = {"molecules": 3, "reactions": 2, "adsorbates": 0, "oxides": 5, "dynamics": 0}[name]
    if fresh or name not in _groups:
        _groups[name], made = make_group(DOMAINS[name], 0, number, 2)
        assert made.written == 2
    return _groups[name]


def test_another_seed_gives_other_structures() -> None:
    one, _ = make_group(DOMAINS["adsorbates"], 1, 0, 1)
    assert not np.array_equal(one[0].positions[-1:], _small_group("adsorbates")[0].positions[-1:])


def test_processes_and_interruptions_change_nothing(tmp_path: Path) -> None:
    domain = "reactions"
    whole = generate(tmp_path / "whole", {domain: 42}, processes=1)
    program = (
        "import sys, warnings; warnings.simplefilter('ignore');from pathlib import Path;"
        "from atomslim.data.generate import generate;"
        f"generate(Path(sys.argv[1]), {{{domain!r}: 42}}, processes=1, resume=True)"
    )
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)])
    staging = folder / f"{domain}.samples.partial"
    while not list(staging.glob("*.json"))[1:] and process.poll() is None:  # the plan, and a finished group
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / f"{domain}.samples").exists()
    with pytest.raises(ConfigError, match="--resume"):
        generate(folder, {domain: 42})
    resumed = generate(folder, {domain: 42}, resume=True)
    assert (folder / f"{domain}.samples").read_bytes() == (tmp_path / "whole" / f"{domain}.samples").read_bytes()
    assert resumed.domains[domain].written == whole.domains[domain].written == len(whole.container(domain)) == 42
    summary = json.loads((folder / "generated.json").read_text())
    assert summary["domains"][domain]["level_of_theory"].startswith("GFN2-xTB")


def test_what_is_there_is_not_overwritten_by_another(tmp_path: Path) -> None:
    generate(tmp_path, {"reactions": 1})
    with pytest.raises(ConfigError, match="remove it"):
        generate(tmp_path, {"reactions": 1})
    with pytest.raises(ConfigError, match="another seed, count or version"):
        generate(tmp_path, {"reactions": 1}, seed=1, resume=True)
    assert len(Container(tmp_path / "reactions.samples")) == 1


def test_extremes_come_after_the_others_and_change_none_of_them(tmp_path: Path) -> None:
    generate(tmp_path / "without", {"reactions": 1})
    made = generate(tmp_path / "with", {"reactions": 9}, extremes=8 / 9)
    with_them, without = made.container("reactions"), Container(tmp_path / "without" / "reactions.samples")
    assert_same(with_them[0], without[0])
    names = [str(with_them[number].to_ase().symbols) for number in range(1, 9)]
    assert names[:4] == list(DOMAINS["reactions"].elements)
    assert [len(with_them[number]) for number in range(1, 9)] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert with_them.metadata["generated"]["extremes"] == 8
    with pytest.raises(ConfigError, match="another seed, count or version"):
        generate(tmp_path / "with", {"reactions": 9}, extremes=0.5, resume=True)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_of_extremes_that_is_none_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match="from 0 to below 1"):
        generate(tmp_path / "new", {"molecules": 4}, extremes=share)
    assert not (tmp_path / "new").exists()


def test_pairs_go_through_all_elements_and_reach_into_the_wall() -> None:
    elements = ("H", "C", "O")
    drawn: dict[tuple[int, ...], list[float]] = {}
    for number in range(5):
        label = Labeller(Method("GFN2-xTB"))
        samples = islice(extremes.pairs(elements, 9)(number, np.random.default_rng(number), label), 9)
        for sample in samples:
            key = tuple(sorted(sample.numbers.tolist()))
            drawn.setdefault(key, []).append(_slope_in_radii(sample) if len(key) == 2 else 0.0)
    assert {key: len(found) for key, found in drawn.items() if len(key) == 1} == {(1,): 1, (6,): 1, (8,): 1}
    assert set(drawn) == {(1,), (6,), (8,), (1, 1), (1, 6), (1, 8), (6, 6), (6, 8), (8, 8)}
    assert sum(force > extremes.LARGEST_FORCE / 4 for found in drawn.values() for force in found) > 3


def _slope_in_radii(sample: Any) -> float:
    """Force (eV/Å) that drives the two atoms of a pair apart."""
    vector = sample.positions[1] - sample.positions[0]
    return float(sample.targets["forces"][1] @ vector / np.linalg.norm(vector))


def test_two_atoms_are_pushed_together_and_fixed_ones_stay() -> None:
    squeezed, _ = make_group(DOMAINS["adsorbates"].extreme(), 0, 1, 2)
    for sample in squeezed:
        atoms = sample.to_ase()
        radii = covalent_radii[atoms.numbers]
        near = atoms.get_all_distances(mic=True) / (radii[:, None] + radii) + 9 * np.eye(len(atoms))
        assert 0.5 < near.min() < extremes.SQUEEZED[1]
        assert sample.fixed.sum() == 9
        assert np.ptp(sample.positions[sample.fixed, 2]) < 1e-9


def test_two_atoms_without_a_bond_meet_anywhere_on_the_way() -> None:
    shares = []
    for number in range(6):
        contacts, _ = make_group(DOMAINS["molecules"].extreme(), 0, 3 * number + 2, 4)
        for sample in contacts:
            atoms = sample.to_ase()
            radii = covalent_radii[atoms.numbers]
            share = atoms.get_all_distances() / (radii[:, None] + radii) + 9 * np.eye(len(atoms))
            hydrogen = (atoms.numbers[:, None] == 1) & (atoms.numbers == 1)
            shares.append(share[hydrogen].min(initial=9.0))
    assert min(shares) < 1.5  # two hydrogen atoms of one carbon atom are 2.9 apart
    assert sum(1.0 < share < 2.5 for share in shares) > 3


def test_stress_of_strained_cells_is_the_derivative_of_the_energy_by_strain() -> None:
    number = 4 * [solid.name for solid in extremes.CELLS].index("KBr") + 3
    (sample,), made = make_group(DOMAINS["oxides"].extreme(), 0, number, 1)
    assert made.written == 1
    atoms, strain = sample.to_ase(), np.diag([1.0, 0.4, -0.2])
    energies = []
    for sign in (1, -1):
        deformed = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        deformed.set_cell(atoms.cell.array @ (np.eye(3) + sign * 1e-3 * strain), scale_atoms=True)
        energies.append(DOMAINS["oxides"].method.results(deformed)["energy"])
    slope = (energies[0] - energies[1]) / 2e-3 / atoms.get_volume()
    assert slope == pytest.approx(float((sample.targets["stress"] * strain).sum()), rel=1e-2, abs=1e-5)


def test_shares_add_up() -> None:
    assert sum(shares(20_000).values()) == 20_000
    assert set(shares(20_000)) == set(DOMAINS) - {"dynamics"}
    with pytest.raises(ConfigError, match="ask for more"):
        shares(3)
    with pytest.raises(ConfigError, match="there are molecules"):
        shares(10, ["proteins"])


def test_molecules_are_many_small_and_different() -> None:
    known = molecules()
    assert len(known) == len(set(known)) > 800
    from rdkit import Chem

    assert max(Chem.MolFromSmiles(text).GetNumHeavyAtoms() for text in known) <= HEAVY_ATOMS


@pytest.mark.parametrize("solid", SOLIDS, ids=lambda solid: solid.name)
def test_cells_of_solids_are_wide_enough_for_one_wave_vector(solid: Any) -> None:
    atoms = widened(solid)
    require_apart(atoms)
    steps = range(-2, 3)
    vectors = np.array([(i, j, k) for i in steps for j in steps for k in steps if (i, j, k) != (0, 0, 0)])
    assert np.linalg.norm(vectors @ atoms.cell.array, axis=1).min() > min(WIDTH, 8.25) - 1e-9


def test_slabs_have_tags_and_a_fixed_layer() -> None:
    atoms, name = slab(np.random.default_rng(0))
    assert set(atoms.get_tags()) == {0, 1}
    assert len(atoms.constraints[0].index) == 9
    assert min(atoms.cell.lengths()) > 8
    assert "(" in name


def test_a_bond_divides_a_molecule() -> None:
    water = Atoms("OHH", [(0, 0, 0), (0.96, 0, 0), (-0.24, 0.93, 0)])
    bonds = bound(water)
    assert bonds.tolist() == [[False, True, True], [True, False, False], [True, False, False]]
    assert fragment(bonds, 0, 1).tolist() == [False, True, False]


def test_what_cannot_be_labelled_is_dropped_and_counted() -> None:
    label = Labeller(Method("GFN2-xTB"), limit=2)
    assert label(Atoms("HH", [(0, 0, 0), (0.1, 0, 0)])) is None
    assert dict(label.dropped) == {"atoms too close": 1}
    with pytest.raises(Dropped, match="given up"):
        label(Atoms("HH", [(0, 0, 0), (0.1, 0, 0)]))
    tight = Labeller(Method("GFN2-xTB"))
    assert tight(Atoms("NN", [(0, 0, 0), (0.75, 0, 0)])) is None
    assert dict(tight.dropped) == {"force above 25 eV/Å": 1}
