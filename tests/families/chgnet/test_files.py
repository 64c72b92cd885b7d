"""Files of CHGNet: read without executing anything, refused in one line, written back for the package's calculator."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from ase.units import fs

import atomslim
from atomslim.atoms import from_ase
from atomslim.compress.prune import keep_blocks
from atomslim.errors import CheckpointError, ConfigError, StructureError
from atomslim.families.chgnet import FAMILY
from atomslim.models import BlockModel, Task
from atomslim.models.tasks import Target
from atomslim.train.start import with_tasks
from chgnet_models import package_model, package_results, saved


@pytest.fixture
def crystal() -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True)
    atoms.rattle(0.08, seed=3)
    return atoms


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(package_model(), tmp_path / "model.pth.tar")


def energy(model: BlockModel, atoms: Atoms) -> float:
    return float(model.predict(from_ase(atoms))["energy"][0])


def read_by_package(path: Path) -> Any:
    from chgnet.model import CHGNet

    return CHGNet.from_file(str(path))


def require_same_numbers(model: BlockModel, path: Path, atoms: Atoms, tolerance: float = 1e-5) -> None:
    ours, theirs = model.predict(from_ase(atoms)), package_results(read_by_package(path), atoms)
    assert abs(float(ours["energy"][0]) - theirs["energy"]) / len(atoms) <= tolerance
    np.testing.assert_allclose(ours["forces"].numpy(), theirs["forces"], rtol=0, atol=20 * tolerance)
    for name in model.atom_outputs:
        np.testing.assert_allclose(ours[name].numpy(), theirs[name], rtol=0, atol=20 * tolerance)


def test_a_bare_dictionary_of_a_model_is_read_like_a_trainer_s_file(tmp_path: Path, path: Path, crystal: Atoms) -> None:
    torch.save(package_model().as_dict(), tmp_path / "bare.pt")
    assert energy(atomslim.load(tmp_path / "bare.pt"), crystal) == energy(atomslim.load(path), crystal)


def test_the_composition_model_can_be_left_out(path: Path, crystal: Atoms) -> None:
    model, bare = atomslim.load(path), atomslim.load(path, composition="leave out")
    references = model.task().targets[0].references
    assert len(references) == 94
    elements = sum(references[number] for number in crystal.numbers)
    assert energy(model, crystal) == pytest.approx(energy(bare, crystal) + elements, abs=1e-9)
    assert not bare.task().targets[0].references
    with pytest.raises(ConfigError, match=r"composition 'none': give one of add, leave out"):
        atomslim.load(path, composition="none")
    with pytest.raises(ConfigError, match="no option weights"):
        atomslim.load(path, weights="raw")


def test_unknown_names_list_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"chgnet:9\.9: the package ships 0\.2\.0, 0\.3\.0, r2scan"):
        atomslim.load("chgnet:9.9")


def test_a_missing_package_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(FAMILY), "installed", lambda _self: None)
    for name in (path, "chgnet:0.3.0"):
        with pytest.raises(ConfigError, match=r"need the package chgnet.*pip install 'atomslim\[chgnet\]'"):
            atomslim.load(name)


def test_elements_that_the_model_does_not_know_are_refused_by_number(path: Path) -> None:
    with pytest.raises(StructureError, match="structure 1: element 96 is none of the 94 that CHGNet knows"):
        atomslim.load(path).predict(from_ase([Atoms("H"), Atoms("HCm", [[0, 0, 0], [0, 0, 2]])]))


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return open, ("/dev/null",)


def changed(path: Path, change: Any) -> Path:
    content = torch.load(path, weights_only=False)
    change(content["model"])
    torch.save(content, path)
    return path


def test_classes_in_a_file_are_neither_imported_nor_called(path: Path, crystal: Atoms) -> None:
    expected = energy(atomslim.load(path), crystal)
    changed(path, lambda entry: entry["model_args"].update(graph_converter=Harmful(), composition_model=Harmful()))
    assert energy(atomslim.load(path), crystal) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry["state_dict"].pop("mlp.layers.0.weight"), "missing: heads.chgnet.energy.mlp.layers.0"),
        (lambda entry: entry["state_dict"].update(extra=torch.ones(2)), "not part of the model: extra"),
        (
            lambda entry: entry["state_dict"].update({"bond_embedding.weight": torch.ones(3, 3)}),
            r"of another shape: bond_embedding.weight \(3, 3\) instead of \(7, 6\)",
        ),
        (
            lambda entry: entry["state_dict"]["atom_embedding.embedding.weight"].fill_(torch.nan),
            "NaN or infinite numbers: atom_embedding.embedding.weight",
        ),
        (
            lambda entry: entry["model_args"].update(gMLP_norm="Batch"),
            "gMLP_norm 'Batch': normalisation over batches is not supported",
        ),
        (lambda entry: entry["model_args"].update(n_conv="four"), "n_conv 'four'"),
        (lambda entry: entry["model_args"].update(non_linearity="softsign"), "no model of this configuration"),
        (lambda entry: entry["model_args"].update(is_intensive=False), "which is not an energy"),
        (
            lambda entry: entry["state_dict"].update({"composition_model.fc1.weight": torch.ones(3, 94)}),
            "composition model is not linear",
        ),
        (lambda entry: entry["state_dict"].update(number=3), "no tensors: number"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(path: Path, change: Any, message: str) -> None:
    with pytest.raises((CheckpointError, ConfigError), match=message) as error:
        atomslim.load(changed(path, change))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("by_atom", "fitted", "network", "message"),
    [
        (True, True, True, None),
        (False, True, False, None),
        (False, True, True, "composition model gives energies of structures, its network by atom"),
        (True, True, False, "composition model gives energies by atom, its network of structures"),
        (True, False, True, "composition model was not fitted"),
    ],
)
def test_a_composition_model_that_was_given_as_an_object_is_read_with_what_it_says_of_itself(
    by_atom: bool, fitted: bool, network: bool, message: str | None, tmp_path: Path, crystal: Atoms
) -> None:
    from chgnet.model.composition_model import AtomRef

    own = AtomRef(is_intensive=by_atom)
    own.fc.weight.data = -torch.rand(1, 94)
    own.fitted = fitted
    path = saved(package_model(composition_model=own, is_intensive=network), tmp_path / "own.pth.tar")
    if message is None:
        require_same_numbers(atomslim.load(path), path, crystal)
        return
    with pytest.raises(CheckpointError, match=message) as error:
        atomslim.load(path)
    assert 'composition="leave out"' in str(error.value)
    assert not atomslim.load(path, composition="leave out").task().targets[0].references


def test_norms_are_taken_by_the_names_that_the_package_takes(tmp_path: Path, crystal: Atoms) -> None:
    path = saved(package_model(gMLP_norm="Layer", readout_norm="another"), tmp_path / "named.pth.tar")
    model = atomslim.load(path)
    config: Any = model.config
    assert (config.gMLP_norm, config.readout_norm) == ("layer", None)
    require_same_numbers(model, path, crystal)


def test_a_truncated_file_and_a_foreign_pickle_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])
    (tmp_path / "other.pt").write_bytes(pickle.dumps({"model": {"weights": [1.0]}}))
    for name in (path, tmp_path / "other.pt"):
        with pytest.raises(CheckpointError):
            atomslim.load(name)


def test_a_written_model_gives_the_same_numbers_in_the_package(path: Path, tmp_path: Path, crystal: Atoms) -> None:
    model = atomslim.load(path)
    atomslim.export(model, tmp_path / "again.pth.tar")
    require_same_numbers(model, tmp_path / "again.pth.tar", crystal)
    again = atomslim.load(tmp_path / "again.pth.tar")
    assert again.config == model.config
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kept", [(1, 2), (1, 3), (2, 3), (3,)])
@pytest.mark.parametrize("kind", [{}, {"mlp_out_bias": True, "gMLP_norm": None}])
def test_cut_models_give_the_same_numbers_in_the_package(
    kept: tuple[int, ...], kind: dict[str, Any], tmp_path: Path, crystal: Atoms
) -> None:
    small = atomslim.load(saved(package_model(**kind), tmp_path / "full.pth.tar")).with_blocks(kept)
    atomslim.export(small, tmp_path / "small.pth.tar")
    require_same_numbers(small, tmp_path / "small.pth.tar", crystal)


@pytest.mark.parametrize("unit", ["bonds 1", "angles 1", "bonds 2"])
@pytest.mark.parametrize("kind", [{}, {"gMLP_norm": None, "mlp_out_bias": True}])
def test_updates_that_were_left_out_add_nothing_in_the_package(
    unit: str, kind: dict[str, Any], tmp_path: Path, crystal: Atoms
) -> None:
    small = atomslim.load(saved(package_model(**kind), tmp_path / "full.pth.tar")).without_units([unit])
    atomslim.export(small, tmp_path / "small.pth.tar")
    require_same_numbers(small, tmp_path / "small.pth.tar", crystal)


@pytest.mark.filterwarnings("ignore")  # the package uses what torch and pymatgen will drop
def test_a_cut_moves_atoms_in_the_packages_dynamics_as_here(path: Path, tmp_path: Path, crystal: Atoms) -> None:
    from chgnet.model.dynamics import MolecularDynamics

    small = keep_blocks(atomslim.load(path), [1, 3])
    atomslim.export(small, tmp_path / "small.pth.tar")
    MaxwellBoltzmannDistribution(crystal, temperature_K=900, rng=np.random.default_rng(0))
    ours, theirs = crystal.copy(), crystal.copy()
    ours.calc = atomslim.Calculator(small)
    VelocityVerlet(ours, timestep=2 * fs).run(5)
    given: Any = {"model": read_by_package(tmp_path / "small.pth.tar"), "use_device": "cpu"}
    MolecularDynamics(theirs, ensemble="nve", timestep=2.0, **given).run(5)
    assert np.abs(ours.positions - crystal.positions).max() > 0.01
    np.testing.assert_allclose(theirs.positions, ours.positions, rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs.get_velocities(), ours.get_velocities(), rtol=0, atol=1e-5)


def test_a_re_aligned_readout_is_worked_into_the_features(path: Path, tmp_path: Path, crystal: Atoms) -> None:
    model = atomslim.load(path)
    other = crystal.copy()
    other.rattle(0.1, seed=5)
    for atoms in (crystal, other):
        atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    write(tmp_path / "calibration.xyz", [crystal, other])
    small = keep_blocks(model, [1, 3], realign="least-squares", calibration=str(tmp_path / "calibration.xyz"))
    assert not torch.equal(small.readout_maps()["node"].weight(), torch.eye(9))
    atomslim.export(small, tmp_path / "small.pth.tar")
    require_same_numbers(small, tmp_path / "small.pth.tar", crystal, tolerance=2e-5)


def test_scale_and_references_of_a_new_task_are_written(path: Path, tmp_path: Path, crystal: Atoms) -> None:
    model = atomslim.load(path)
    targets = (
        Target(name="energy", kind="energy", std=0.7, references={8: -2.5, 12: 1.25}),
        Target(name="forces", kind="conservative_forces", unit="eV/Å"),
    )
    new = with_tasks(model, [Task(name="new", targets=targets, graph=model.task().graph)])
    atomslim.export(new, tmp_path / "new.pth.tar")
    require_same_numbers(new, tmp_path / "new.pth.tar", crystal)


def test_what_the_format_cannot_hold_is_refused_by_name(path: Path, tmp_path: Path) -> None:
    model, output = atomslim.load(path), tmp_path / "no.pth.tar"
    task = model.task()
    mean = task.targets[0].model_copy(update={"mean": 3.0})
    shorter = task.graph.model_copy(update={"cutoff": 4.0})
    singular = model.with_blocks([1, 2, 3])
    with torch.no_grad():
        singular.readout_maps()["node"].weight()[0].zero_()
    for unfit, what in (
        (model.with_blocks([]), "a model without blocks"),
        (with_tasks(model, [task, task.model_copy(update={"name": "b"})]), "2 tasks"),
        (with_tasks(model, [task.model_copy(update={"targets": (mean, task.targets[1])})]), "a mean energy"),
        (with_tasks(model, [task.model_copy(update={"graph": shorter})]), "a cutoff of 4 Å"),
        (singular, "a readout that cannot be inverted"),
    ):
        with pytest.raises(ConfigError, match=what):
            atomslim.export(unfit, output)
    assert not output.exists()
