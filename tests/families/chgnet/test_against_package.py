"""Numbers of the adapter beside those of the package's own calculator, in float32 as both compute."""

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, graphene, molecule

import atomslim
from atomslim.atoms import from_ase
from chgnet_models import SIZES, package_model, package_results, saved, shipped_model

TOLERANCES = {"energy": 5e-6, "forces": 2e-4, "stress": 3e-6, "magmoms": 1e-5}
"""eV/atom, eV/Å, eV/Å³, μB: twice what the package's own positions in float32 cost."""


def rattled(atoms: Atoms, amount: float = 0.08) -> Atoms:
    atoms.rattle(amount, seed=3)
    return atoms


def boxed(name: str) -> Atoms:
    atoms = molecule(name, vacuum=6.0)
    atoms.pbc = True
    return rattled(atoms, 0.03)


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    add_adsorbate(atoms, "O", 1.2, "fcc")
    return rattled(atoms, 0.05)


def sheared() -> Atoms:
    atoms = bulk("LiFePO4".replace("FePO4", "F"), "rocksalt", a=4.03) * (1, 2, 2)
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.1 * np.arange(9).reshape(3, 3) / 9), scale_atoms=True)
    return rattled(atoms)


STRUCTURES = {
    "one atom": bulk("Fe", "bcc", a=2.83),
    "one atom, few neighbours": bulk("Na", "sc", a=5.0),
    "thin cell": rattled(bulk("NaCl", "rocksalt", a=5.64)),
    "crystal": rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True)),
    "sheared crystal": sheared(),
    "heavy elements": rattled(bulk("UN", "rocksalt", a=4.89, cubic=True)),
    "graphene": rattled(graphene(size=(2, 2, 1), vacuum=7.0), 0.02),
    "slab": slab(),
    "water": boxed("H2O"),
    "straight molecule": Atoms("CO2", [[6, 6, 6], [6, 6, 7.2], [6, 6, 4.8]], cell=[12, 12, 12], pbc=True),
    "bond without angles": Atoms("HF", [[6, 6, 6], [6, 6, 6.95]], cell=[12, 12, 12], pbc=True),
    "benzene": boxed("C6H6"),
}


def compare(ours: dict[str, torch.Tensor], theirs: dict[str, Any], atoms: Atoms) -> None:
    arrays = {name: value.double().numpy() for name, value in ours.items()}
    assert abs(arrays["energy"][0] - theirs["energy"]) / len(atoms) <= TOLERANCES["energy"]
    for name in ("forces", "magmoms"):
        np.testing.assert_allclose(arrays[name], theirs[name], rtol=0, atol=TOLERANCES[name], err_msg=name)
    np.testing.assert_allclose(arrays["stress"][0], theirs["stress"], rtol=0, atol=TOLERANCES["stress"])


@pytest.mark.parametrize("name", STRUCTURES)
def test_numbers_of_the_shipped_model_are_those_of_its_calculator(name: str) -> None:
    atoms = STRUCTURES[name]
    compare(atomslim.load("chgnet:0.3.0").predict(from_ase(atoms)), package_results(shipped_model(), atoms), atoms)


@pytest.mark.parametrize("version", ["0.2.0", "r2scan"])
def test_other_shipped_versions_agree_as_well(version: str) -> None:
    model, theirs = atomslim.load(f"chgnet:{version}"), shipped_model(version)
    for name in ("crystal", "slab", "water", "bond without angles"):
        atoms = STRUCTURES[name]
        compare(model.predict(from_ase(atoms)), package_results(theirs, atoms), atoms)


def test_a_batch_of_unlike_structures_has_the_numbers_of_each() -> None:
    structures = list(STRUCTURES.values())
    outputs = atomslim.load("chgnet:0.3.0").predict(from_ase(structures))
    theirs, start = shipped_model(), 0
    for index, atoms in enumerate(structures):
        rows = slice(start, start + len(atoms))
        own = {"energy": outputs["energy"][index : index + 1], "stress": outputs["stress"][index : index + 1]}
        own |= {name: outputs[name][rows] for name in ("forces", "magmoms")}
        compare(own, package_results(theirs, atoms), atoms)
        start = rows.stop


@pytest.mark.slow
def test_numbers_of_a_thousand_atoms_agree() -> None:
    """The package takes 20 GB for so many: its numbers of a cell of eight stand for those of the cell repeated."""
    cell = rattled(bulk("MgO", "rocksalt", a=4.21, cubic=True))
    atoms = cell * (5, 5, 5)
    found = atomslim.load("chgnet:0.3.0").predict(from_ase(atoms))
    expected = package_results(shipped_model(), cell)
    tiled = {
        name: np.tile(expected[name], (125, *[1] * (np.ndim(expected[name]) - 1))) for name in ("forces", "magmoms")
    }
    compare(found, {**expected, **tiled, "energy": 125 * expected["energy"]}, atoms)


def test_isolated_atoms_have_their_element_s_energy_and_no_forces() -> None:
    model = atomslim.load("chgnet:0.3.0")
    alone = model.predict(from_ase(Atoms("Na", cell=[20, 20, 20], pbc=True)))
    apart = model.predict(from_ase(Atoms("Na2", [[0, 0, 0], [9, 0, 0]])))
    assert torch.isfinite(alone["energy"]).all()
    torch.testing.assert_close(apart["energy"], 2 * alone["energy"])
    assert not apart["forces"].any()


KINDS: dict[str, dict[str, Any]] = {
    "other widths": {},
    "no norms": {"gMLP_norm": None, "readout_norm": None},
    "norm after updates": {"conv_norm": "layer"},
    "biased updates": {"mlp_out_bias": True},
    "no angle updates": {"update_angle": False},
    "no bond updates": {"update_bond": False},
    "one block": {"n_conv": 1},
    "deep networks": {"atom_conv_hidden_dim": [8, 6], "bond_conv_hidden_dim": [6, 7], "angle_layer_hidden_dim": 6},
    "average before the head": {"mlp_first": False},
    "attention before the head": {"mlp_first": False, "read_out": "attn"},
    "gated head": {"final_mlp": "gated"},
    "energies of structures": {"is_intensive": False, "composition_model": None},
    "no composition model": {"composition_model": None},
    "fixed frequencies": {"learnable_rbf": False},
    "another activation": {"non_linearity": "gelu"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_of_other_configurations_agree(kind: str, tmp_path: Any) -> None:
    theirs = package_model(**KINDS[kind])
    model = atomslim.load(saved(theirs, tmp_path / "model.pth.tar"))
    for name in ("crystal", "bond without angles"):
        atoms, ours = STRUCTURES[name], model.predict(from_ase(STRUCTURES[name]))
        expected = package_results(theirs, atoms)
        if KINDS[kind].get("n_conv", SIZES["n_conv"]) == 1:
            assert "magmoms" not in ours
            ours, expected = ours | {"magmoms": torch.zeros(1)}, expected | {"magmoms": np.zeros(1)}
        compare(ours, expected, atoms)


def test_numbers_in_float64_are_nearer_to_one_another_than_rounding_in_float32() -> None:
    atoms = STRUCTURES["crystal"]
    model = atomslim.load("chgnet:0.3.0", dtype=torch.float64)
    batch, turn = from_ase(atoms), torch.linalg.qr(torch.randn(3, 3).double())[0]
    turned = from_ase(Atoms(atoms.numbers, atoms.positions @ turn.numpy(), cell=atoms.cell @ turn.numpy(), pbc=True))
    one, other = model.predict(batch), model.predict(turned)
    torch.testing.assert_close(other["energy"], one["energy"], rtol=0, atol=1e-11)
    torch.testing.assert_close(other["forces"], one["forces"] @ turn, rtol=0, atol=1e-10)
