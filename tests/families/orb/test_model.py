"""Small Orb models of the package beside its own calculator, and cuts of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

pytest.importorskip("families.orb.needed", exc_type=ImportError)

import atomslim
from atomslim.atoms import from_ase
from atomslim.compress.prune import keep_blocks
from atomslim.errors import ConfigError, StructureError
from atomslim.families.orb.config import OrbGraphSettings
from atomslim.families.orb.model import Orb
from atomslim.models import BlockModel
from atomslim.testing import check_block_model, sample_structures
from families.orb.package_models import calculator, edges, saved

MODELS = {
    "conservative": ("conservative", 120),
    "conservative, 20 neighbours": ("conservative", 20),
    "direct": ("direct", 120),
    "direct, 7 neighbours": ("direct", 7),
    "v2": ("v2", 20),
}
LOOSE = {"energy": 5e-6, "forces": 2e-4, "stress": 3e-6}
TIGHT = {"energy": 1e-12, "forces": 1e-11, "stress": 1e-12}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("orb")
    return {
        name: saved(folder / f"{index}-direct-{neighbours}-x.ckpt", kind, neighbours)
        for index, (name, (kind, neighbours)) in enumerate(MODELS.items())
    }


def structures() -> list[Atoms]:
    slab = fcc111("Na", (1, 1, 2), a=4.2, vacuum=6.0)
    slab.pbc = True
    slab.rattle(0.05, seed=2)
    thin = Atoms("NaCl", positions=[[0, 0, 0], [1.9, 0.1, 0]], cell=[3.9, 2.6, 3.2], pbc=True)
    outside = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    outside.positions += [31.0, -4.0, 0.3]
    boxed = molecule("H2O", cell=[9, 8, 7])  # a cell without periodicity: the package leaves its torque in
    close = molecule("H2")
    close.positions *= 0.4
    return [*sample_structures(), slab, thin, bulk("Na", "bcc", a=3.6), outside, boxed, close, Atoms("H")]


def differences(model: BlockModel, theirs: Any) -> dict[str, float]:
    """Return the largest differences of energy per atom, forces and stress, structures together in one batch."""
    whole = structures()
    ours = model.predict(from_ase(whole))
    found, start = dict.fromkeys(LOOSE, 0.0), 0
    for index, atoms in enumerate(whole):
        atoms.calc = theirs
        mine = {"energy": float(ours["energy"][index]) / len(atoms), "forces": ours["forces"][start:][: len(atoms)]}
        start += len(atoms)
        other = {"energy": atoms.get_potential_energy() / len(atoms), "forces": atoms.get_forces()}
        if atoms.pbc.all():
            mine["stress"] = ours["stress"][index]
            other["stress"] = atoms.get_stress(voigt=False)
        found |= {name: max(found[name], float(np.abs(np.asarray(mine[name]) - other[name]).max())) for name in mine}
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, LOOSE), (torch.float64, TIGHT)])
def test_numbers_are_those_of_the_package(
    name: str, dtype: torch.dtype, within: dict[str, float], files: dict[str, Path]
) -> None:
    model = atomslim.load(files[name], dtype=dtype)
    assert isinstance(model, Orb)
    found = differences(model, calculator(files[name], *MODELS[name], dtype))
    assert all(found[what] < bound for what, bound in within.items()), found


@pytest.mark.parametrize("name", ["conservative", "direct", "v2"])
def test_it_is_a_block_model(name: str, files: dict[str, Path]) -> None:
    check_block_model(atomslim.load(files[name]))


@pytest.mark.parametrize("neighbours", [5, 7, 20])
def test_equally_near_neighbours_are_those_that_the_package_keeps(neighbours: int, files: dict[str, Path]) -> None:
    model: Any = atomslim.load(files["direct"])
    graph = OrbGraphSettings(max_neighbours=neighbours)
    model.tasks = {"orb": model.task().model_copy(update={"graph": graph})}
    perfect = [bulk("NaCl", "rocksalt", a=5.6, cubic=True), molecule("C60"), bulk("Na", "bcc", a=3.6) * (2, 2, 2)]
    perfect[0].positions += [31.0, -4.0, 0.3]
    for atoms in perfect:
        batch = from_ase(atoms)
        found = model.topology(batch)
        theirs = edges(atoms, neighbours)
        vectors = batch.positions[found.source] + found.offset.double() @ batch.cell[0] - batch.positions[found.target]
        ours = torch.cat([found.target[:, None], found.source[:, None], vectors], dim=1)
        expected = torch.cat(
            [theirs.senders[:, None], theirs.receivers[:, None], theirs.edge_features["vectors"]], dim=1
        )
        assert len(ours) == len(expected)
        assert torch.cdist(ours.double(), expected.double()).min(dim=0).values.max() < 1e-4
        assert float(found.left_out()) > 0


def test_the_share_of_neighbours_left_out_is_told(files: dict[str, Path]) -> None:
    whole = from_ase([molecule("H2O"), bulk("NaCl", "rocksalt", a=5.6, cubic=True), Atoms("H")])
    assert atomslim.load(files["conservative"]).topology(whole).left_out().tolist() == [0, 0, 0]
    capped: Any = atomslim.load(files["direct, 7 neighbours"])
    kept = torch.bincount(capped.topology(whole).target)
    assert kept.tolist() == [2, 2, 2, *[7] * 8]
    assert capped.topology(whole).left_out().tolist()[1] == pytest.approx(1 - 7 / 32)


@pytest.mark.parametrize("name", ["conservative", "direct, 7 neighbours"])
def test_a_structure_periodic_in_two_directions_has_numbers(name: str, files: dict[str, Path]) -> None:
    model = atomslim.load(files[name], dtype=torch.float64)
    slab = fcc111("Na", (2, 2, 2), a=4.2, vacuum=12.0)
    slab.rattle(0.05, seed=2)
    whole = slab.copy()
    whole.pbc = True
    found, expected = model.predict(from_ase(slab)), model.predict(from_ase(whole))
    assert torch.allclose(found["forces"], expected["forces"], atol=1e-12)


def test_keeping_all_blocks_changes_no_bit(files: dict[str, Path]) -> None:
    model, batch = atomslim.load(files["direct"]), from_ase(sample_structures())
    same = model.with_blocks((1, 2, 3))
    for name, values in model.predict(batch).items():
        assert torch.equal(same.predict(batch)[name].nan_to_num(), values.nan_to_num())


@pytest.mark.parametrize(("name", "kept"), [("conservative", (1, 3)), ("direct, 7 neighbours", (2,)), ("v2", (2, 3))])
def test_a_cut_model_runs_in_the_calculator_of_the_package(
    name: str, kept: tuple[int, ...], files: dict[str, Path], tmp_path: Path
) -> None:
    cut: Any = keep_blocks(atomslim.load(files[name], dtype=torch.float64), list(kept))
    with torch.no_grad():  # as re-alignment leaves it
        cut.readout.weight.add_(0.3 * torch.randn_like(cut.readout.weight))
    atomslim.export(cut, tmp_path / "cut.ckpt")
    theirs = calculator(tmp_path / "cut.ckpt", *MODELS[name], torch.float64, num_message_passing_steps=len(kept))
    found = differences(cut, theirs)
    assert all(found[what] < 10 * bound for what, bound in TIGHT.items()), found
    again = atomslim.load(tmp_path / "cut.ckpt")
    assert again.block_ids == kept
    assert again.task() == cut.task()
    batch = from_ase(sample_structures())
    for what, values in cut.predict(batch).items():
        assert torch.allclose(again.predict(batch)[what], values, atol=1e-10, equal_nan=True)


def test_saved_cuts_come_back(files: dict[str, Path], tmp_path: Path) -> None:
    batch = from_ase(sample_structures())
    model = keep_blocks(atomslim.load(files["direct"]), [1, 3])
    atomslim.save(model, tmp_path / "cut.safetensors")
    again = atomslim.load(tmp_path / "cut.safetensors")
    assert again.block_ids == (1, 3)
    for name, values in model.predict(batch).items():
        assert torch.equal(again.predict(batch)[name].nan_to_num(), values.nan_to_num())


def test_expected_errors_are_those_of_the_bins_of_the_package(files: dict[str, Path]) -> None:
    atoms = molecule("CH3CH2OH")
    theirs = calculator(files["direct"], *MODELS["direct"])
    theirs.calculate(atoms)
    centres = 0.3 / 50 * (np.arange(50) + 0.5)
    found = atomslim.load(files["direct"]).predict(from_ase(atoms))["force_error"]
    assert found.numpy() == pytest.approx(theirs.results["confidence"] @ centres, abs=1e-6)


def test_an_unknown_element_and_another_cutoff_are_refused(files: dict[str, Path]) -> None:
    model = atomslim.load(files["direct"])
    with pytest.raises(StructureError, match="structure 1: the model does not know Og"):
        model.topology(from_ase([molecule("H2O"), Atoms("Og")]))
    with pytest.raises(ConfigError, match="that of an Orb model is part of it"):
        model.family.check_graph(model, model.task().graph.model_copy(update={"cutoff": 5.0}))  # type: ignore[union-attr]
