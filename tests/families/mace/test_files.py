"""Files of MACE that cannot be read, and what is said of them."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("families.mace.needed", exc_type=ImportError)

import atomslim
from atomslim.errors import CheckpointError, ConfigError
from families.mace.package_models import calculator, loaded, modules, options, saved

SMALL: dict[str, Any] = {"num_interactions": 1, "correlation": [1], "hidden_irreps": "4x0e", "max_ell": 1}


def changed(path: Path, change: Any, **made: Any) -> Path:
    """Save a model to which something was done."""
    model = loaded(saved(path, **{**SMALL, **made}))
    change(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(model, path)
    return path


def test_a_file_runs_nothing(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    path = changed(tmp_path / "a.model", lambda model: model.__dict__.update(extra=Harmful()))
    assert atomslim.load(path).num_blocks == 1
    assert not (tmp_path / "touched").exists()


def test_what_is_not_supported_is_named(tmp_path: Path) -> None:
    class Other(torch.nn.Module):
        pass

    def replaced(model: Any) -> None:
        model.readouts[0] = torch.nn.Linear(4, 1)

    def broken(model: Any) -> None:
        model.node_embedding.linear.weight.data[0] = float("nan")

    def more(model: Any) -> None:
        model.node_embedding.extra = torch.nn.Parameter(torch.ones(3))

    def negative(model: Any) -> None:
        model.scale_shift.scale.fill_(-1.0)

    path = tmp_path / "a.model"
    for change, message in (
        (replaced, "among its readouts, which is not supported"),
        (broken, "node_embedding.linear.weight has NaN"),
        (more, "node_embedding.extra"),
        (negative, "scale_shift.scale has numbers that are not above zero"),
    ):
        with pytest.raises(CheckpointError, match=message):
            atomslim.load(changed(path, change))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"hidden_irreps": "4x1o+4x0e"}, "a block gives 4x1o, which does not begin with even scalars"),
        (
            {"gate": torch.nn.functional.relu, "num_interactions": 2, "correlation": 1},
            "an activation in its readout that is not supported",
        ),
    ],
)
def test_models_of_kinds_that_are_not_supported_are_named(tmp_path: Path, made: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        atomslim.load(saved(tmp_path / "a.model", **SMALL | made))


def test_other_models_of_the_package_are_named(tmp_path: Path) -> None:
    made = options(correlation=1, hidden_irreps="4x0e+4x1o")
    for name in ("atomic_inter_scale", "atomic_inter_shift", "heads", "atomic_energies"):
        made.pop(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(modules.AtomicDipolesMACE(**made, atomic_energies=None), tmp_path / "dipoles.model")
    with pytest.raises(CheckpointError, match="AtomicDipolesMACE is not supported"):
        atomslim.load(tmp_path / "dipoles.model")


def test_names_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"do not come with the package: download https://.*\.model and give"):
        atomslim.load("mace:medium")
    with pytest.raises(ConfigError, match="mace:huge: the package has no weights and knows small, medium, "):
        atomslim.load("mace:huge")
    with pytest.raises(ConfigError, match="have no option head"):
        atomslim.load(saved(tmp_path / "a.model", **SMALL), head="Default")


def test_older_files_without_newer_entries_are_read(tmp_path: Path) -> None:
    def older(model: Any) -> None:
        for name in ("heads", "apply_cutoff", "edge_irreps", "use_agnostic_product", "lammps_mliap"):
            del model.__dict__[name]
        for block in model.interactions:
            del block.__dict__["edge_irreps"], block.__dict__["radial_MLP"]
        model.atomic_energies_fn.atomic_energies = model.atomic_energies_fn.atomic_energies[0]
        model.scale_shift.scale, model.scale_shift.shift = model.scale_shift.scale[0], model.scale_shift.shift[0]

    path = changed(tmp_path / "a.model", older)
    from ase.build import molecule

    ours, theirs = molecule("CO2"), molecule("CO2")
    ours.calc, theirs.calc = atomslim.Calculator(path), calculator(path)
    assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-10)
