"""Smooth graphs: no ranks, no steps, and the same numbers whatever the numbering."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from torch import Tensor

from atomslim.atoms import AtomsBatch, find_pairs, from_ase
from atomslim.errors import ConfigError
from atomslim.families.jmp import JMP
from atomslim.families.jmp.family import FAMILY
from atomslim.families.jmp.gemnet_oc import build_topology
from atomslim.families.jmp.gemnet_oc.matrix import matrix_topology
from atomslim.families.jmp.gemnet_oc.reach import COUNT, WALL, _counted, _equation, envelope, solve_reach
from atomslim.families.jmp.graph_settings import JMPGraphSettings
from atomslim.models import energy_and_forces
from atomslim.train.finetune import finetune
from small_models import jmp
from train.water import waters

SMOOTH = JMPGraphSettings(cutoff=6.0, smooth=10.0)


def model_of(graph: JMPGraphSettings = SMOOTH) -> JMP:
    tasks = (
        energy_and_forces("conservative", forces="conservative", graph=graph),
        energy_and_forces("direct", forces="direct", graph=graph),
    )
    return jmp(*tasks, basis_cutoff=6.0)


def rattled() -> Atoms:
    crystal = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    crystal.rattle(0.05, seed=1)
    return crystal


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8)
    add_adsorbate(atoms, molecule("CO"), 1.9, "ontop")
    return atoms


STRUCTURES = {
    "rattled crystal": rattled(),
    "ideal crystal": bulk("MgO", "rocksalt", a=4.21, cubic=True),
    "one-atom cell": bulk("Cu"),
    "molecule": molecule("CH3CH2OH"),
    "straight molecule": molecule("CO2"),
    "slab": slab(),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_numbering_changes_nothing(name: str) -> None:
    model, atoms = model_of(), STRUCTURES[name]
    order = np.random.default_rng(0).permutation(len(atoms))
    for task in model.tasks:
        expected, found = (model.predict(from_ase(each), task) for each in (atoms, atoms[order]))
        scale = expected["energy"].abs().item()
        assert found["energy"].item() == pytest.approx(expected["energy"].item(), abs=1e-12 * scale)
        assert (found["forces"] - expected["forces"][torch.from_numpy(order)]).abs().max() < 1e-11


@pytest.mark.parametrize("name", STRUCTURES)
def test_edges_do_not_depend_on_numbering_where_distances_tie(name: str) -> None:
    atoms = STRUCTURES[name]
    order = np.random.default_rng(1).permutation(len(atoms))
    counts = [torch.bincount(build_topology(from_ase(a), SMOOTH).main.target) for a in (atoms, atoms[order])]
    assert torch.equal(counts[1], counts[0][torch.from_numpy(order)])


def test_the_reach_solves_its_equation() -> None:
    batch = from_ase([rattled(), molecule("CH3CH2OH"), Atoms("He")])
    neighbours = torch.tensor([10.0, 4.0, 8.0]).double()[batch.batch]
    pairs = find_pairs(batch, 6.0)
    cutoff = torch.full_like(neighbours, 6.0)
    radius = solve_reach(pairs.distance, pairs.target, neighbours, cutoff).radius
    counted = torch.zeros_like(radius).index_add(
        0, pairs.target, envelope(pairs.distance / radius[pairs.target], COUNT)
    )
    left = counted + neighbours * (radius / cutoff) ** WALL
    assert torch.allclose(left, neighbours, rtol=1e-11, atol=0)
    assert radius.max() <= 6.0
    assert radius[-1].item() == pytest.approx(6.0)  # nobody around


def test_the_slope_is_that_of_the_envelope() -> None:
    x = torch.linspace(0.01, 1.2, 50, dtype=torch.float64, requires_grad=True)
    weight = envelope(x, COUNT)
    (slope,) = torch.autograd.grad(weight.sum(), x)
    for found, expected in zip(_counted(x.detach()), (weight, slope), strict=True):
        assert torch.allclose(found, expected, atol=1e-12)


def test_the_reach_is_found_in_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def counted(radius: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(radius)
        return _equation(radius, *others)

    monkeypatch.setattr("atomslim.families.jmp.gemnet_oc.reach._equation", counted)
    for atoms in STRUCTURES.values():
        asked.clear()
        pairs = find_pairs(from_ase(atoms), 6.0)
        neighbours, cutoff = (torch.full((len(atoms),), value, dtype=torch.float64) for value in (10.0, 6.0))
        solve_reach(pairs.distance, pairs.target, neighbours, cutoff)
        assert len(asked) <= 12


@pytest.mark.parametrize("name", ["rattled crystal", "molecule", "slab"])
def test_forces_are_the_slope_with_graphs_built_anew(name: str) -> None:
    model, batch = model_of(), from_ase(STRUCTURES[name])
    torch.manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn_like(batch.positions), dim=-1)
    step = 1e-5
    ahead, behind = (energy_along(model, batch, sign * step * direction) for sign in (1, -1))
    forces = model.predict(batch, "conservative")["forces"]
    assert -(forces * direction).sum().item() == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)


def test_second_derivatives_are_those_of_forces() -> None:
    model, batch = model_of(), from_ase(STRUCTURES["molecule"])
    positions = batch.positions.clone().requires_grad_()
    outputs = model(replace(batch, positions=positions), tasks=["conservative"], create_graph=True)
    forces = outputs["conservative"]["forces"]
    rows = [torch.autograd.grad(force, positions, retain_graph=True)[0].flatten() for force in forces.flatten()]
    hessian = torch.stack(rows)
    assert (hessian - hessian.T).abs().max() < 1e-10 * hessian.abs().max()
    move = torch.zeros_like(batch.positions)
    move[0, 1] = 1e-5
    ahead, behind = (
        model.predict(replace(batch, positions=batch.positions + s * move), "conservative") for s in (1, -1)
    )
    slope = (ahead["forces"] - behind["forces"]).flatten() / 2e-5
    assert (hessian[1] - slope).abs().max() < 1e-6 * slope.abs().max()


@pytest.mark.parametrize("quad", [0, 8])
def test_no_step_where_atoms_come_and_go(quad: int) -> None:
    """An atom leaves ethanol; with a cap on neighbours there are steps on the way."""
    smooth = largest_step(JMPGraphSettings(cutoff=6.0, smooth=4.0, quad=quad))
    capped = largest_step(JMPGraphSettings.from_neighbours(6.0, 4, "invariant"))
    assert smooth < 1e-6
    assert capped > 1e-4


def largest_step(graph: JMPGraphSettings) -> float:
    """Return the largest change of energy between points 1e-8 Å apart on both sides of where atoms change ranks."""
    model, atoms = model_of(graph), molecule("CH3CH2OH")
    batch = from_ase(atoms)
    way = torch.zeros_like(batch.positions)
    way[-1] = torch.tensor([0.79, 0.57, 0.23])
    length = torch.linspace(0.0, 5.0, 60, dtype=torch.float64)
    sizes = torch.tensor([edges_along(batch, x * way, graph) for x in length])
    steps = []
    for index in torch.nonzero(sizes[1:] != sizes[:-1]).flatten().tolist()[:6]:
        low, high = bisected(batch, way, graph, length[index], length[index + 1])
        steps.append(abs(energy_along(model, batch, high * way) - energy_along(model, batch, low * way)))
    return max(steps)


def bisected(
    batch: AtomsBatch, way: Tensor, graph: JMPGraphSettings, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Narrow an interval down to where the number of edges changes."""
    first = edges_along(batch, low * way, graph)
    while high - low > 1e-8:
        middle = (low + high) / 2
        low, high = (middle, high) if edges_along(batch, middle * way, graph) == first else (low, middle)
    return low, high


def edges_along(batch: AtomsBatch, move: Tensor, graph: JMPGraphSettings) -> int:
    return len(build_topology(replace(batch, positions=batch.positions + move), graph, basis_cutoff=6.0).main)


def test_three_atoms_may_pass_through_a_line() -> None:
    """The dihedral angle flips where d, b and a are in line: its weight must be gone there."""

    def atoms(bend: float) -> Atoms:
        return Atoms("HCCH", [[0, bend, -1.1], [0, 0, 0], [0, 0, 1.2], [0.9, 0, 1.8]])

    model = model_of()
    energies = [model.predict(from_ase(atoms(b)), "conservative")["energy"].item() for b in (-1e-6, 0.0, 1e-6)]
    assert abs(energies[0] - energies[1]) < 1e-6
    assert abs(energies[2] - energies[1]) < 1e-6


def test_a_matrix_of_neighbours_gives_the_same_numbers() -> None:
    model = model_of()
    for atoms in (STRUCTURES["rattled crystal"], STRUCTURES["molecule"]):
        batch = from_ase(atoms)
        topology = matrix_topology(batch, *neighbour_matrix(batch), SMOOTH)
        for task in model.tasks:
            expected, found = model.predict(batch, task), model.predict(batch, task, topology)
            for key, values in expected.items():
                assert torch.allclose(found[key], values, rtol=1e-10, atol=1e-11, equal_nan=True), key


def test_batches_are_smooth_or_not() -> None:
    batch = from_ase([molecule("H2O"), molecule("CO2")])
    with pytest.raises(ConfigError, match="cannot be in one batch"):
        build_topology(batch, [SMOOTH, JMPGraphSettings()])


def energy_along(model: JMP, batch: AtomsBatch, move: Tensor) -> float:
    return model.predict(replace(batch, positions=batch.positions + move), "conservative")["energy"].item()


def neighbour_matrix(batch: AtomsBatch) -> tuple[Tensor, Tensor]:
    """Return neighbours (n, k) and offsets (n, k, 3); empty slots hold the atom itself."""
    pairs = find_pairs(batch, 6.3)
    counts = torch.bincount(pairs.target, minlength=batch.num_atoms)
    slot = torch.arange(len(pairs)) - (counts.cumsum(0) - counts)[pairs.target]
    neighbours = torch.arange(batch.num_atoms)[:, None].repeat(1, int(counts.max()))
    offsets = torch.zeros(*neighbours.shape, 3, dtype=torch.long)
    neighbours[pairs.target, slot], offsets[pairs.target, slot] = pairs.source, pairs.offset
    return neighbours, offsets


def test_a_smooth_graph_is_an_option_of_training(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 1, "progress": False, "split": {"train": 6, "validation": 2}, "name": "water"}
    model = jmp(energy_and_forces("capped", forces="conservative", graph=JMPGraphSettings()), basis_cutoff=6.0)
    tuned = finetune(model, waters(8), output=tmp_path / "a", heads="fresh", neighbours="smooth 6", cutoff=5, **options)
    graph = tuned.task("water").graph
    assert isinstance(graph, JMPGraphSettings)
    assert (graph.smooth, graph.cutoff, graph.neighbours) == (6.0, 5.0, None)
    again = finetune(tuned, waters(8), output=tmp_path / "b", heads="fresh", **options)  # it stays
    assert again.task("water").graph == graph
    with pytest.raises(ConfigError, match="neighbours"):
        finetune(model, waters(8), output=tmp_path / "c", neighbours="smoothly", **options)


def test_new_models_have_reverse_edges_whatever_the_numbering() -> None:
    graph = FAMILY.graph(None, cutoff=6.0, neighbours=8)
    assert isinstance(graph, JMPGraphSettings)
    assert graph.symmetrise == "invariant"
