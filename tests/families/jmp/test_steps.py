"""Steps for one structure after another give the numbers of the usual way, on structures of every kind."""

from typing import cast

import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from atomslim.atoms import from_ase
from atomslim.families.jmp import JMPGraphSettings
from atomslim.families.jmp.gemnet_oc.block import InteractionBlock
from atomslim.families.jmp.steps import JMPSteps
from atomslim.models import Task, energy_and_forces
from small_models import jmp

CAPPED = JMPGraphSettings(cutoff=5.0, main=7, atom=60, atom_edge=4, quad=3)
MAIN_ALONE = CAPPED.model_copy(update={"atom_edge": 0, "quad": 0})
SMOOTH = JMPGraphSettings(cutoff=6.0, smooth=6.0, symmetrise="invariant")
SMOOTH_WITHOUT_QUADRUPLETS = SMOOTH.model_copy(update={"quad": 0})


def _rattled(atoms: Atoms) -> Atoms:
    atoms.rattle(0.1, seed=3)
    return atoms


STRUCTURES = {
    "molecule": molecule("CH3CH2OH"),
    "straight lines": molecule("C2H2"),
    "one atom": Atoms("He"),
    "one atom and its images": bulk("Cu"),
    "thin cell": _rattled(bulk("NaCl", "rocksalt", a=5.6)),
    "crystal": _rattled(bulk("MgO", "rocksalt", a=4.2, cubic=True)),
    "slab": _rattled(fcc111("Pt", (2, 2, 3), vacuum=8)),
    "slab without a third vector": fcc111("Pt", (2, 1, 2)),
}


def _task(name: str) -> Task:
    smooth = {"smooth": SMOOTH, "no quadruplets": SMOOTH_WITHOUT_QUADRUPLETS}
    graphs = {"capped": CAPPED, "main alone": MAIN_ALONE, **smooth}
    graph, forces = name.split(", ")
    return energy_and_forces(name, forces="direct" if forces == "direct" else "conservative", graph=graphs[graph])


@pytest.mark.parametrize(
    "name",
    [
        "capped, direct",
        "main alone, direct",
        "capped, conservative",
        "smooth, conservative",
        "no quadruplets, conservative",
    ],
)
def test_steps_give_the_numbers_of_the_usual_way(name: str) -> None:
    model = jmp(_task(name), emb_size_quad_in=9)
    steps = model.steps()
    assert isinstance(steps, JMPSteps)
    for kind, atoms in STRUCTURES.items():
        batch = from_ase(atoms)
        topology = model.topology(batch)
        expected = model.predict(batch, topology=topology)
        found, capped_fraction = steps(batch)
        assert set(found) == set(expected), kind
        assert capped_fraction == float(topology.left_out().max()), kind
        for key, values in expected.items():
            assert found[key].dtype == values.dtype
            assert torch.allclose(found[key], values, rtol=1e-9, atol=1e-11, equal_nan=True), (kind, key)


def test_steps_notice_that_weights_changed() -> None:
    model, batch = jmp(_task("capped, direct")), from_ase(STRUCTURES["molecule"])
    steps = model.steps()
    before = steps(batch)[0]["energy"].item()
    first, block = (cast("InteractionBlock", block) for block in model.backbone.blocks)

    def changed() -> float:
        energy = steps(batch)[0]["energy"].item()
        assert energy == pytest.approx(model.predict(batch)["energy"].item(), rel=1e-12)
        return energy

    with torch.no_grad():
        block.skip.weight.mul_(2)
    energies = [before, changed()]
    block.skip.weight.data = 3 * block.skip.weight.data
    energies.append(changed())
    block.concat = first.concat
    energies.append(changed())
    block.atom_update.scale.factor.fill_(0)
    energies.append(changed())
    assert len(set(energies)) == 5


def test_large_models_and_large_tables_take_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = jmp(_task("capped, direct")), from_ase(STRUCTURES["molecule"])
    expected = model.predict(batch)["forces"]
    for name in ("MOST_WEIGHTS", "MOST_TRIPLETS"):
        with monkeypatch.context() as patch:
            patch.setattr(f"atomslim.families.jmp.steps.steps.{name}", 10)
            assert torch.equal(model.steps()(batch)[0]["forces"], expected)
    assert not torch.equal(model.steps()(batch)[0]["forces"], expected)  # other sums, other rounding
