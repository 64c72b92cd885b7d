"""TorchSim runs our models; skips where it is not installed."""

import importlib.util

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from atomslim.atoms import from_ase
from atomslim.errors import ConfigError
from atomslim.inference.calculator import Calculator
from atomslim.models import Task
from samples import CONSERVATIVE, DIRECT, small_model

installed = importlib.util.find_spec("torch_sim") is not None
needed = pytest.mark.skipif(not installed, reason="needs torch-sim-atomistic")


@pytest.mark.skipif(installed, reason="TorchSim is installed")
def test_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"not installed: pip install 'atomslim\[torch-sim\]'"):
        import atomslim.inference.torch_sim  # noqa: F401


@needed
@pytest.mark.filterwarnings("ignore")  # TorchSim's own
@pytest.mark.parametrize("task", [DIRECT, CONSERVATIVE], ids=lambda task: task.name)
def test_passes_their_own_checks(task: Task) -> None:
    from torch_sim.models.interface import validate_model_outputs

    from atomslim.inference.torch_sim import TorchSimModel

    validate_model_outputs(TorchSimModel(small_model(task)), torch.device("cpu"), torch.float64)


@needed
def test_what_is_refused() -> None:
    from atomslim.inference.torch_sim import TorchSimModel

    for given in ("small.pt2", "ase:ase.calculators.emt:EMT"):
        with pytest.raises(ConfigError, match="TorchSim takes models, not packages or ASE's calculators"):
            TorchSimModel(given)
    with pytest.raises(ConfigError, match=r"dtype torch\.int32: use float64 or float32"):
        TorchSimModel(small_model(CONSERVATIVE), dtype=torch.int32)


@needed
@pytest.mark.filterwarnings("ignore")
def test_gives_what_the_model_predicts() -> None:
    import torch_sim

    from atomslim.inference.torch_sim import TorchSimModel

    model, crystals = small_model(CONSERVATIVE), [bulk("GaAs", "zincblende", a=4.6), bulk("Cu") * (2, 1, 1)]
    for structures in ([molecule("H2O"), molecule("CH4")], crystals):
        for atoms in structures:
            atoms.rattle(0.05, seed=1)
        state = torch_sim.io.atoms_to_state(structures, torch.device("cpu"), torch.float64)
        found, expected = TorchSimModel(model)(state), model.predict(from_ase(structures))
        for name in ("energy", "forces"):
            torch.testing.assert_close(found[name], expected[name])
        if structures is crystals:
            torch.testing.assert_close(found["stress"], expected["stress"])
        else:
            assert not found["stress"].any()


@needed
@pytest.mark.filterwarnings("ignore")
def test_moves_molecules() -> None:
    import torch_sim

    from atomslim.inference.torch_sim import TorchSimModel

    model = TorchSimModel(small_model(CONSERVATIVE))
    start = torch_sim.io.atoms_to_state([molecule("H2O"), molecule("CH3OH")], torch.device("cpu"), torch.float64)
    nve = torch_sim.Integrator.nve if hasattr(torch_sim, "Integrator") else torch_sim.nve
    done = torch_sim.integrate(
        system=start, model=model, integrator=nve, n_steps=20, temperature=300.0, timestep=0.0005
    )
    assert torch.isfinite(done.positions).all()
    assert not torch.allclose(done.positions, start.positions)


def crystals() -> list[Atoms]:
    found = [bulk("GaAs", "zincblende", a=4.6), bulk("Cu", a=3.4) * (2, 1, 1), bulk("NaCl", "rocksalt", a=4.6)]
    for seed, atoms in enumerate(found):
        atoms.rattle(0.05, seed=seed)
    return found


@needed
@pytest.mark.filterwarnings("ignore")
def test_batches_of_their_own_choice_change_nothing() -> None:
    import torch_sim

    from atomslim.inference.torch_sim import TorchSimModel

    model, structures = TorchSimModel(small_model(CONSERVATIVE)), crystals()
    batcher = torch_sim.autobatching.BinningAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=3.0)
    nve = torch_sim.Integrator.nve if hasattr(torch_sim, "Integrator") else torch_sim.nve
    moved = [
        torch_sim.integrate(
            system=structures, model=model, integrator=nve, n_steps=4, temperature=1e-9, timestep=0.002, autobatcher=how
        )
        for how in (batcher, False)
    ]
    assert moved[0].n_systems == 3
    torch.testing.assert_close(moved[0].positions, moved[1].positions, rtol=1e-9, atol=1e-7)
    for atoms, end in zip(structures, moved[0].to_atoms(), strict=True):
        assert str(atoms.symbols) == str(end.symbols)


@needed
@pytest.mark.filterwarnings("ignore")
def test_relaxes_many_at_once() -> None:
    import torch_sim

    from atomslim.inference.torch_sim import TorchSimModel

    inner, structures = small_model(CONSERVATIVE), crystals()
    model = TorchSimModel(inner)
    batcher = torch_sim.autobatching.InFlightAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=3.0)
    fire = torch_sim.Optimizer.fire if hasattr(torch_sim, "Optimizer") else torch_sim.optimizers.fire
    converged = torch_sim.runners.generate_force_convergence_fn(force_tol=1e-2, include_cell_forces=False)
    relaxed = torch_sim.optimize(
        system=structures, model=model, optimizer=fire, convergence_fn=converged, autobatcher=batcher, max_steps=100
    )
    for before, after in zip(structures, relaxed.to_atoms(), strict=True):
        assert str(before.symbols) == str(after.symbols)
        before.calc = after.calc = Calculator(inner)
        assert after.get_potential_energy() < before.get_potential_energy()
        assert abs(after.get_forces()).max() < 1e-2
