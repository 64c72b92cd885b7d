"""The models that come with the package, against its own calculator."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

pytest.importorskip("sevenn", reason="needs the extra sevennet")

import atomslim
from atomslim.atoms import from_ase
from atomslim.errors import ConfigError
from atomslim.inference.calculator import Calculator
from families.sevennet.package_models import calculator
from families.sevennet.test_checkpoint import require_same


def oxide(repeats: int) -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True) * (repeats, repeats, repeats)
    atoms.rattle(0.05, seed=repeats)
    return atoms


def structures() -> list[Atoms]:
    slab = fcc111("Pt", (2, 2, 3), vacuum=8.0)
    slab.rattle(0.05, seed=1)
    open_slab = slab.copy()
    open_slab.pbc = (True, True, False)
    return [molecule("CH3CH2OH"), Atoms("O"), slab, open_slab, bulk("Cu"), bulk("NaCl", "rocksalt", a=5.6), oxide(1)]


def test_sevennet_0_gives_the_packages_numbers() -> None:
    model = atomslim.load("sevennet:7net-0")
    made = structures()
    require_same(Calculator(model), calculator("7net-0"), made)
    together = model.predict(from_ase(made))
    energies = [atoms.get_potential_energy() for atoms in made]  # of the package's calculator, which came last
    assert np.allclose(together["energy"], energies, atol=2e-5)
    forces = np.concatenate([atoms.get_forces() for atoms in made])
    assert np.abs(together["forces"].numpy() - forces).max() < 2e-4


@pytest.mark.slow
def test_a_thousand_atoms() -> None:
    require_same(Calculator("sevennet:7net-0"), calculator("7net-0"), [oxide(5)])


@pytest.mark.parametrize("level", ["PBE", "R2SCAN"])
def test_the_multi_fidelity_model_has_a_task_for_each_level(level: str) -> None:
    require_same(
        Calculator("sevennet:7net-mf-0", task=level), calculator("7net-mf-0", level), [*structures()[:2], oxide(1)]
    )


@pytest.mark.parametrize("name", ["7net-l3i5", "7net-0_22may2024"])
def test_the_other_models(name: str) -> None:
    require_same(Calculator(f"sevennet:{name}"), calculator(name), structures()[:3])


def test_float64_leaves_float32_rounding_only() -> None:
    batch = from_ase(oxide(1))
    single, double = (atomslim.load("sevennet:7net-0", dtype=dtype).predict(batch) for dtype in (None, torch.float64))
    assert float((single["energy"] - double["energy"]).abs()) / 8 < 2e-6
    assert float((single["forces"] - double["forces"]).abs().max()) < 2e-5


def test_names_are_looked_up_and_nothing_is_downloaded() -> None:
    with pytest.raises(ConfigError, match="knows 7net-0-11jul2024, 7net-0-22may2024, 7net-l3i5"):
        atomslim.load("sevennet:nonsense")
    with pytest.raises(ConfigError, match=r"do not come with the package: download https://.*omni\.pth"):
        atomslim.load("sevennet:7net-omni")
