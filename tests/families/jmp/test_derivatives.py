"""First and second derivatives of the whole model, straight lines included, against finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch.autograd import gradcheck, gradgradcheck

from atomslim.atoms import from_ase
from small_models import CONSERVATIVE, jmp

SHARED = ("backbone.bases.radial", "backbone.bases.angular")
STRUCTURES = {
    "bent": molecule("H2O"),
    "straight": molecule("CO2"),
    "straight chain": molecule("C2H2"),
    "with quadruplets": molecule("H2O2"),
    "own image": Atoms("Po", cell=np.diag([3.0, 3.3, 9.0]), pbc=[True, True, False]),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_energy_to_second_order_in_positions_and_strain(name: str) -> None:
    model = jmp(CONSERVATIVE, num_blocks=1, num_spherical=4, direct_forces=False)
    batch = from_ase(STRUCTURES[name])
    topology = model.topology(batch)

    def energy(positions: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
        deformation = torch.eye(3, dtype=torch.float64) + strain
        moved = replace(batch, positions=positions @ deformation, cell=batch.cell @ deformation)
        outputs = model.raw_outputs(model.read(model.features(moved, topology)), CONSERVATIVE)
        return outputs["energy"]

    inputs = (batch.positions.requires_grad_(), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True))
    # A straight line is a seam of the model: a finite step leaves the line and meets another angle. Only bent
    # structures can be compared; the straight ones must still have finite derivatives (below).
    if name in {"bent", "with quadruplets"}:
        assert gradcheck(energy, inputs, fast_mode=True)
        assert gradgradcheck(energy, inputs, fast_mode=True)
    along = [torch.randn_like(x) for x in inputs]
    first = torch.autograd.grad(energy(*inputs).sum(), inputs, create_graph=True)
    slope = sum((g * a).sum() for g, a in zip(first, along, strict=True))
    assert isinstance(slope, torch.Tensor)
    second = torch.autograd.grad(slope, inputs)
    assert all(torch.isfinite(g).all() for g in (*first, *second))


@pytest.mark.parametrize("name", ["CO2", "C2H2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_straight_molecule_stretched_along_its_line(name: str, dtype: torch.dtype) -> None:
    """Steps along the line keep it straight, so that finite differences see the same angles as the gradient."""
    model = jmp(CONSERVATIVE).to(dtype)
    batch = from_ase(molecule(name))
    topology = model.topology(batch)
    along = torch.zeros_like(batch.positions)
    along[:, 2] = torch.randn(batch.num_atoms, dtype=torch.float64)
    step = 1e-5 if dtype == torch.float64 else 1e-2
    ahead, behind = (
        model.predict(replace(batch, positions=batch.positions + sign * step * along), topology=topology)["energy"]
        for sign in (1, -1)
    )
    forces = model.predict(batch, topology=topology)["forces"]
    slope = (ahead - behind).item() / (2 * step)
    assert -(forces * along).sum().item() == pytest.approx(slope, rel=1e-6 if dtype == torch.float64 else 3e-2)
    assert forces[:, :2].abs().max() < (1e-9 if dtype == torch.float64 else 1e-4)


def test_training_on_forces_reaches_every_weight() -> None:
    """The gradient of a force loss (a second derivative) against a finite difference of the loss in weight space.

    Gradients of the projections that blocks share are divided by the number of their users: 2 blocks, or 3 outputs.
    """
    model = jmp(CONSERVATIVE, direct_forces=False).train()
    batch = from_ase([molecule("H2O2"), molecule("CO2")])
    topology = model.topology(batch, "conservative")

    def loss() -> torch.Tensor:
        return model(batch, topology, create_graph=True)["conservative"]["forces"].square().sum()

    loss().backward()
    trained = dict(model.named_parameters())
    along = {name: torch.randn_like(p) for name, p in trained.items()}
    found = 0.0
    for name, p in trained.items():
        users = 3 if name.endswith("radial.output.weight") else 2 if name.startswith(SHARED) else 1
        assert p.grad is not None
        found += users * float((p.grad * along[name]).sum())
    losses = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for name, p in trained.items():
                p.add_(step * along[name])
        losses.append(loss().item())
    assert found == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5)
