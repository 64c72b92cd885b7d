"""TorchSim runs our models; skips where it is not installed."""

import importlib.util

import pytest
import torch
from ase.build import bulk, molecule

from atomslim.atoms import from_ase
from atomslim.errors import ConfigError
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
