"""Structures that break naive implementations, and physics that every result must obey."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from atomslim.atoms import AtomsBatch, from_ase
from atomslim.errors import StructureError
from atomslim.families.jmp import JMP, JMPGraphSettings
from atomslim.families.jmp.gemnet_oc import build_topology
from atomslim.models import energy_and_forces
from small_models import CONSERVATIVE, DIRECT, all_neighbours, jmp

ODD = {
    "single atom": Atoms("H"),
    "H2": molecule("H2"),
    "H2O": molecule("H2O"),
    "CO2": molecule("CO2"),
    "HCN": molecule("HCN"),
    "C2H2": molecule("C2H2"),
    "far apart": Atoms("HeNeAr", [[0, 0, 0], [100, 0, 0], [0, 200, 0]]),
    "beyond the basis": Atoms("HeNe", [[0, 0, 0], [0, 0, 12.0]]),
    "one-atom cell": bulk("Cu"),
    "simple cubic": bulk("Po", "sc", 3.3),
    "slab without tags": Atoms(fcc111("Pt", (2, 2, 3), vacuum=8), tags=0),
    "slab with tags": fcc111("Pt", (2, 2, 3), vacuum=8),
    "slab, no vacuum vector": fcc111("Pt", (2, 2, 3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ODD)
def test_odd_structures_run_and_train(name: str, dtype: torch.dtype) -> None:
    model = jmp(DIRECT, CONSERVATIVE).to(dtype).train()
    batch = from_ase(ODD[name])
    outputs = model(batch, model.topology(batch, "direct"))
    if name == "slab, no vacuum vector":  # an area, no volume
        assert outputs["conservative"].pop("stress").isnan().all()
    for task in outputs.values():
        assert all(bool(torch.isfinite(values).all()) for values in task.values())
    net = outputs["conservative"]["forces"].sum(dim=0)
    assert net.abs().max() < (1e-3 if dtype == torch.float32 else 1e-10)
    sum(v.square().sum() for task in outputs.values() for v in task.values()).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_atoms_far_apart_do_not_feel_each_other() -> None:
    model = jmp(CONSERVATIVE)
    together = model.predict(from_ase(ODD["far apart"]))
    alone = [model.predict(from_ase(Atoms(symbol)))["energy"] for symbol in ("He", "Ne", "Ar")]
    assert together["energy"].item() == pytest.approx(sum(e.item() for e in alone), rel=1e-12)
    assert not together["forces"].any()


def test_an_edge_fades_out_at_the_basis_cutoff() -> None:
    def energy(distance: float) -> float:
        return model.predict(from_ase(Atoms("HeNe", [[0, 0, 0], [0, 0, distance]])))["energy"].item()

    model = jmp(energy_and_forces("t", forces="conservative", graph=JMPGraphSettings(cutoff=13.0)))
    assert energy(11.999) == pytest.approx(energy(12.001), abs=1e-9)
    assert energy(12.5) == pytest.approx(energy(14.0), abs=1e-12)
    assert energy(6.0) != pytest.approx(energy(12.5), abs=1e-6)


def test_a_cell_is_half_of_its_doubled_supercell() -> None:
    model = jmp(CONSERVATIVE, DIRECT)
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    crystal.rattle(0.1, seed=3)
    for repeat in ((2, 1, 1), (1, 2, 2)):
        small, large = from_ase(crystal), from_ase(crystal.repeat(repeat))
        factor = int(np.prod(repeat))
        one, many = (_predict_all(model, batch) for batch in (small, large))
        for name in ("conservative", "direct"):
            assert many[name]["energy"].item() == pytest.approx(factor * one[name]["energy"].item(), rel=1e-10)
            assert torch.allclose(many[name]["forces"], one[name]["forces"].repeat(factor, 1), atol=1e-10)
        assert torch.allclose(many["conservative"]["stress"], one["conservative"]["stress"], rtol=1e-9, atol=1e-12)


def test_renumbering_changes_nothing_under_the_invariant_rule_and_something_under_the_original() -> None:
    slab = fcc111("Pt", (2, 2, 3), vacuum=8)
    slab.rattle(0.2, seed=0)
    order = np.random.default_rng(1).permutation(len(slab))
    model = jmp(DIRECT)
    energies = {}
    for rule in ("invariant", "original"):
        graph = JMPGraphSettings.from_neighbours(6.0, 9, rule)
        energies[rule] = [
            model(batch, build_topology(batch, graph))["direct"]["energy"].item()
            for batch in (from_ase(slab), from_ase(slab[order]))
        ]
    assert energies["invariant"][0] == pytest.approx(energies["invariant"][1], rel=1e-10)
    assert energies["original"][0] != pytest.approx(energies["original"][1], rel=1e-4)


@pytest.mark.parametrize(
    "atoms",
    [fcc111("Pt", (2, 2, 3), vacuum=8), bulk("MgO", "rocksalt", a=4.2, cubic=True), molecule("C6H6")],
    ids=["slab", "crystal", "ring"],
)
def test_renumbering_changes_nothing_where_neighbours_are_equally_far(atoms: Atoms) -> None:
    """Caps within a shell of neighbours: by the invariant rule the whole shell stays."""
    order = np.random.default_rng(1).permutation(len(atoms))
    model = jmp(DIRECT)
    graph = JMPGraphSettings(cutoff=5.0, main=8, atom=16, atom_edge=5, quad=2, symmetrise="invariant")
    one, other = (
        model.predict(batch, "direct", build_topology(batch, graph)) for batch in map(from_ase, (atoms, atoms[order]))
    )
    torch.testing.assert_close(other["energy"], one["energy"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other["forces"], one["forces"][order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("HH", [[0, 0, 0], [0, 0, np.nan]]), "structure 0, atom 1: position .* is not finite"),
        (Atoms("HHe", [[0, 0, 0], [0, 0, 0.001]]), "structure 0.*atoms 0 and 1"),
        (Atoms(numbers=[0], positions=[[0, 0, 0]]), "atomic number 0 is not an element"),
        (Atoms("H", cell=[3, 3, 0], pbc=True), "no volume along its periodic directions"),
    ],
)
def test_impossible_structures_are_refused_in_one_line(atoms: Atoms, message: str) -> None:
    with pytest.raises(StructureError, match=message) as error:
        jmp(CONSERVATIVE).predict(from_ase(atoms))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_five_thousand_atoms() -> None:
    model = jmp(CONSERVATIVE).float()
    crystal = bulk("Cu", cubic=True).repeat((11, 11, 11))
    crystal.rattle(0.05, seed=0)
    assert len(crystal) > 5000
    outputs = model.predict(from_ase(crystal))
    assert all(bool(torch.isfinite(values).all()) for values in outputs.values())
    assert outputs["forces"].sum(dim=0).abs().max() < 1e-2 * outputs["forces"].abs().max()


def _predict_all(model: JMP, batch: AtomsBatch) -> dict[str, dict[str, torch.Tensor]]:
    topology = build_topology(batch, all_neighbours(5.0))
    return {name: model.predict(batch, name, topology) for name in model.tasks}


def test_bfloat16_autocast_stays_close_and_trains() -> None:
    """Dense layers in bfloat16 (8 bits of mantissa), sums over edges in float32: a few per cent on random weights."""
    model = jmp(CONSERVATIVE).float().train()
    batch = from_ase([molecule("CH3CH2OH"), molecule("CO2")])
    topology = model.topology(batch)
    expected = model(batch, topology)["conservative"]["forces"]
    with torch.autocast("cpu", torch.bfloat16):
        forces = model(batch, topology, create_graph=True)["conservative"]["forces"]
    assert (forces - expected).norm() < 0.05 * expected.norm()
    forces.square().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
