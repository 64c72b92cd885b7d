"""Nuclei that repel each other: the energy of pairs by hand, every way to predict, and what is refused."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii

from atomslim.atoms import find_pairs, from_ase
from atomslim.errors import ConfigError
from atomslim.evaluation.describe import describe
from atomslim.families.jmp import JMP, JMPGraphSettings
from atomslim.families.jmp.gemnet_oc.matrix import matrix_topology
from atomslim.inference.program import Program, inputs_of, traced
from atomslim.models import energy_and_forces
from atomslim.models.model_file import export, load, save
from atomslim.models.modes import without_parameter_gradients
from families.jmp.test_reach import neighbour_matrix
from small_models import DIRECT, jmp

SHARE = 0.8


def crowded() -> Atoms:
    """Atoms of which several come nearer than their radii allow."""
    crystal = bulk("MgO", "rocksalt", a=3.4, cubic=True)
    crystal.rattle(0.1, seed=1)
    return crystal


def squeezed_water() -> Atoms:
    return Atoms("OHH", [[0, 0, 0], [0.5, 0.2, 0.0], [-0.2, 0.4, 0.3]])


STRUCTURES = {"crystal": crowded(), "molecule": squeezed_water()}


def model_of(repulsion: float, graph: JMPGraphSettings | None = None, num_blocks: int = 2) -> JMP:
    graph = graph or JMPGraphSettings(cutoff=6.0, smooth=6.0, quad=0)
    task = energy_and_forces("both", forces="conservative", graph=graph, energy_std=3.0)
    return jmp(task, basis_cutoff=6.0, direct_forces=False, repulsion=repulsion, num_blocks=num_blocks)


def by_hand(atoms: Atoms, share: float) -> float:
    """Add up all pairs (eV)."""
    wide = atoms.repeat([3 if periodic else 1 for periodic in atoms.pbc])
    wide.pbc = False
    middle = len(atoms) * (len(wide) // len(atoms) // 2)
    total = 0.0
    for i in range(middle, middle + len(atoms)):
        for j in set(range(len(wide))) - {i}:
            (zi, zj), d = wide.numbers[[i, j]].astype(float), wide.get_distance(i, j)
            end = share * covalent_radii[wide.numbers[[i, j]]].sum()
            if d < end:
                y, x = d * (zi**0.23 + zj**0.23) / 0.46850, d / end
                screened = 0.18175 * np.exp(-3.1998 * y) + 0.50986 * np.exp(-0.94229 * y)
                screened += 0.28022 * np.exp(-0.4029 * y) + 0.02817 * np.exp(-0.20162 * y)
                total += 14.399645 * zi * zj / d * screened * (1 - 28 * x**6 + 48 * x**7 - 21 * x**8) / 2
    return total


@pytest.mark.parametrize(
    "graph", [None, JMPGraphSettings.from_neighbours(6.0, 8, "invariant")], ids=["smooth", "capped"]
)
@pytest.mark.parametrize("name", STRUCTURES)
def test_the_energy_is_that_of_all_pairs(name: str, graph: JMPGraphSettings | None) -> None:
    atoms = STRUCTURES[name]
    with_it, without = (model_of(share, graph).predict(from_ase(atoms), energies=True) for share in (SHARE, 0.0))
    expected = by_hand(atoms, SHARE)
    assert expected > 1.0
    assert (with_it["energy"] - without["energy"]).item() == pytest.approx(expected, rel=1e-6)
    assert (with_it["energies"] - without["energies"]).sum().item() == pytest.approx(expected, rel=1e-6)
    assert (with_it["energies"] - without["energies"]).min() >= 0


def test_nothing_changes_beyond_its_end() -> None:
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    with_it, without = (model_of(share).predict(from_ase(atoms)) for share in (SHARE, 0.0))
    assert torch.equal(with_it["energy"], without["energy"])
    assert torch.equal(with_it["forces"], without["forces"])


def test_a_pair_is_repelled_everywhere_and_smoothly() -> None:
    model, end = model_of(SHARE), SHARE * 2 * covalent_radii[8]

    def energy(distance: float) -> float:
        batch = from_ase(Atoms("O2", [[0, 0, 0], [0, 0, distance]]))
        topology = model.topology(batch)
        return sum(model.features(batch, topology).context.repulsion.tolist())

    energies = [energy(share * end) for share in np.linspace(0.1, 1.1, 41)]
    assert all(far <= near for near, far in pairwise(energies))
    assert energies[0] > 1000
    assert energy(end - 1e-3) < 1e-6  # vanishes as the third power


@pytest.mark.parametrize("name", STRUCTURES)
def test_forces_and_stress_are_its_slopes(name: str) -> None:
    model, batch = model_of(SHARE), from_ase(STRUCTURES[name])
    torch.manual_seed(0)
    move = 1e-5 * torch.randn_like(batch.positions)
    ahead, behind = (
        model.predict(replace(batch, positions=batch.positions + sign * move))["energy"].item() for sign in (1, -1)
    )
    forces = model.predict(batch)["forces"]
    assert -(forces * move).sum().item() == pytest.approx((ahead - behind) / 2, rel=1e-6)
    if batch.pbc.any():
        strain = 1e-5 * torch.tensor([[1.0, 0.3, 0.0], [0.3, -0.5, 0.2], [0.0, 0.2, 0.4]]).double()
        energies = []
        for sign in (1, -1):
            change = torch.eye(3).double() + sign * strain
            deformed = replace(batch, positions=batch.positions @ change, cell=batch.cell @ change)
            energies.append(model.predict(deformed)["energy"].item())
        work = (model.predict(batch)["stress"][0] * strain).sum() * batch.cell[0].det()
        assert work.item() == pytest.approx((energies[0] - energies[1]) / 2, rel=1e-6)


@pytest.mark.parametrize("name", STRUCTURES)
def test_steps_and_matrices_of_neighbours_have_it_too(name: str) -> None:
    model, batch = model_of(SHARE), from_ase(STRUCTURES[name])
    expected = model.predict(batch)
    steps, _ = model.steps()(batch)
    graph = JMPGraphSettings.of(model.task().graph)
    traced = model.predict(batch, None, matrix_topology(batch, *neighbour_matrix(batch), graph))
    for found in (steps, traced):
        for key, values in expected.items():
            assert torch.allclose(found[key], values, rtol=1e-9, atol=1e-9, equal_nan=True), key


@pytest.mark.slow
def test_a_program_that_is_traced_has_it_too() -> None:
    model = model_of(SHARE, num_blocks=1)
    with without_parameter_gradients(model):
        program = traced(Program(model, model.task())).module()
    for atoms in STRUCTURES.values():
        batch, expected = from_ase(atoms), model.predict(from_ase(atoms))
        energy, forces, *_ = program(*inputs_of(batch, find_pairs(batch, 6.3)))
        assert energy.item() == pytest.approx(expected["energy"].item(), rel=1e-9)
        assert torch.allclose(forces, expected["forces"], rtol=1e-9, atol=1e-9)


def test_training_differentiates_through_it() -> None:
    model, batch = model_of(SHARE), from_ase(squeezed_water())
    outputs = model(batch, create_graph=True)["both"]
    outputs["forces"].square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_cuts_and_files_keep_it(tmp_path: Path) -> None:
    model, batch = model_of(SHARE), from_ase(squeezed_water())
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert torch.allclose(again.predict(batch)["energy"], model.predict(batch)["energy"], rtol=1e-12)
    assert model.with_blocks([1]).config.repulsion == SHARE
    assert SHARE in describe(again).details.values()
    assert SHARE not in describe(model_of(0.0)).details.values()


def test_what_cannot_have_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="direct forces know nothing of the model's repulsion"):
        jmp(DIRECT, repulsion=SHARE)
    task = energy_and_forces("both", forces="conservative", graph=JMPGraphSettings())
    with pytest.raises(ConfigError, match="repulsion of nuclei"):
        export(jmp(task, direct_forces=False, repulsion=SHARE), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
