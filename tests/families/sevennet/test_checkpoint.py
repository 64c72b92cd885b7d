import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

pytest.importorskip("sevenn", reason="needs the extra sevennet")

import atomslim
from atomslim.compress.prune import keep_blocks
from atomslim.errors import CheckpointError, ConfigError
from atomslim.inference.calculator import Calculator
from families.sevennet.package_models import calculator, checkpoint

ELEMENTS = {"shift": [-1.0, -2.0, -3.0, -4.0, -5.0], "scale": [1.0, 1.1, 1.2, 1.3, 1.4]}
LEVELS: dict[str, Any] = {
    "use_modality": True,
    "_modal_map": {"PBE": 1, "SCAN": 0},
    "_number_of_modalities": 2,
    "use_modal_node_embedding": True,
    "use_modal_self_inter_intro": True,
    "use_modal_self_inter_outro": True,
    "use_modal_output_block": True,
    "use_modal_wise_shift": True,
    "use_modal_wise_scale": False,
    "shift": [ELEMENTS["shift"], [1.0, 2.0, 3.0, 4.0, 5.0]],
    "use_bias_in_linear": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "O3, one connection per element, biases": {
        "is_parity": True,
        "lmax": 1,
        "self_connection_type": "nequip",
        "use_bias_in_linear": True,
    },
    "a readout with activations, scales by element": {
        "readout_as_fcn": True,
        "readout_fcn_hidden_neurons": [5, 4],
        "readout_fcn_activation": "relu",
        **ELEMENTS,
    },
    "XPLOR, other degrees at edges, other activations": {
        "cutoff_function": {"cutoff_function_name": "XPLOR", "cutoff_on": 3.0},
        "lmax": 1,
        "lmax_edge": 2,
        "act_radial": "ssp",
        "act_scalar": {"e": "ssp", "o": "abs"},
        "act_gate": {"e": "ssp", "o": "tanh"},
        "is_parity": True,
    },
    "irreps by hand, whole vectors": {
        "irreps_manual": ["6x0e", "6x0e+4x1e+3x2e", "8x0e+2x1e", "6x0e"],
        "weight_nn_hidden_neurons": [8, 7],
        "_normalize_sph": False,
        "self_connection_type": ["linear", "nequip", "linear"],
    },
}


def structures() -> list[Atoms]:
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    crystal.rattle(0.1, seed=1)
    return [molecule("CH3CH2OH"), crystal]


def require_same(found: Any, expected: Any, made: list[Atoms]) -> None:
    """Energies, forces and stress in float32 agree to rounding."""
    for atoms in made:
        numbers = []
        for one in (found, expected):
            atoms.calc = one
            stress = atoms.get_stress() if atoms.cell.rank == 3 and atoms.pbc.any() else np.zeros(6)
            numbers.append((atoms.get_potential_energy(), atoms.get_forces(), stress))
        (energy, forces, stress), (other, other_forces, other_stress) = numbers
        assert abs(energy - other) / len(atoms) < 5e-6
        assert np.abs(forces - other_forces).max() < 2e-4
        assert np.abs(stress - other_stress).max() < 3e-6


@pytest.mark.parametrize("name", VARIANTS)
def test_checkpoints_of_all_kinds_are_read_and_written(name: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "theirs.pth", **VARIANTS[name])
    model = atomslim.load(path)
    require_same(Calculator(model), calculator(path), structures())
    atomslim.export(model, tmp_path / "ours.pth")
    require_same(calculator(tmp_path / "ours.pth"), Calculator(model), structures())
    cut = keep_blocks(model, [2, 3])
    atomslim.export(cut, tmp_path / "cut.pth")
    require_same(calculator(tmp_path / "cut.pth"), Calculator(cut), structures())
    again = atomslim.load(tmp_path / "cut.pth")
    assert again.block_ids == (2, 3)
    assert again.history[-2:] != model.history[-2:]
    require_same(Calculator(again), Calculator(cut), structures())


def test_levels_of_theory_are_tasks(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "theirs.pth", **LEVELS | {"_modal_map": {"PBE": 1, "r2SCAN.D4/mp": 0}})
    model = atomslim.load(path)
    assert list(model.tasks) == ["r2SCAN_D4_mp", "PBE"]
    atomslim.export(model, tmp_path / "ours.pth")
    assert list(atomslim.load(tmp_path / "ours.pth").tasks) == list(model.tasks)
    for task, level in zip(model.tasks, ("r2SCAN.D4/mp", "PBE"), strict=True):
        require_same(Calculator(model, task=task), calculator(path, level), structures())
        require_same(calculator(tmp_path / "ours.pth", level), Calculator(model, task=task), structures())


def test_one_level_becomes_a_model_of_its_own(tmp_path: Path) -> None:
    from atomslim.train.start import with_tasks

    model = atomslim.load(checkpoint(tmp_path / "theirs.pth", **LEVELS))
    tuned = with_tasks(model, [model.task("PBE").model_copy(update={"name": "tuned"})], reuse="PBE")
    atomslim.export(tuned, tmp_path / "ours.pth")
    require_same(calculator(tmp_path / "ours.pth"), Calculator(model, task="PBE"), structures())
    require_same(Calculator(atomslim.load(tmp_path / "ours.pth")), Calculator(tuned), structures())


def test_what_the_format_cannot_express_is_refused(tmp_path: Path) -> None:
    model = atomslim.load(checkpoint(tmp_path / "theirs.pth"))
    with pytest.raises(ConfigError, match="no models without blocks"):
        atomslim.export(keep_blocks(model, 0), tmp_path / "none.pth")
    task = model.task()
    energy = task.targets[0].model_copy(update={"mean": 2.0})
    model.tasks[task.name] = task.model_copy(update={"targets": (energy, *task.targets[1:])})
    with pytest.raises(ConfigError, match="cannot hold a mean of 2 eV"):
        atomslim.export(model, tmp_path / "mean.pth")
    assert not list(tmp_path.glob("[mn]*.pth"))


def changed(path: Path, **changes: Any) -> Path:
    """Write a checkpoint with other entries; None leaves one out."""
    content = torch.load(path, weights_only=True)
    for name, value in changes.items():
        part = content["model_state_dict"] if "." in name else content["config"]
        if value is None:
            del part[name]
        else:
            part[name] = value
    torch.save(content, path.with_name("changed.pth"))
    return path.with_name("changed.pth")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("version", None, "'version' is missing"),
        ("cutoff", "far", "cutoff"),
        ("act_radial", "sine", "act_radial"),
        ("interaction_type", "mace", "only nequip is known"),
        ("0_self_interaction_1.linear.weight", None, "0_self_interaction_1.linear.weight is missing"),
        ("0_self_interaction_1.linear.weight", torch.zeros(5), "has 5 numbers instead of 36"),
        ("reduce_hidden_to_energy.linear.weight", torch.full((3,), torch.nan), "NaN or infinite"),
        ("another.weight", torch.zeros(3), "not part of the model: another.weight"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_said(tmp_path: Path, entry: str, value: Any, message: str) -> None:
    path = changed(checkpoint(tmp_path / "theirs.pth", num_convolution_layer=1), **{entry: value})
    with pytest.raises(CheckpointError, match=message) as caught:
        atomslim.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel": 1}, "a layer of no width"),
        ({"irreps_manual": ["3x0e+1x1e", "2x0e"]}, "of the embedding, which has even scalars only"),
        (
            {
                "is_parity": True,
                "irreps_manual": ["6x0e", "6x0e+3x1o+2x1e", "5x0e+2x1o", "7x0e"],
                "num_convolution_layer": 3,
            },
            "irreps_manual: 2x1e of block 1, which no message has",
        ),
        (
            {"readout_as_fcn": True, "readout_fcn_hidden_neurons": [], "readout_fcn_activation": "relu"},
            "without a hidden layer is not supported",
        ),
    ],
)
def test_readouts_without_width_and_irreps_that_nothing_makes_are_refused(
    tmp_path: Path, options: Any, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        atomslim.load(checkpoint(tmp_path / "theirs.pth", **{"num_convolution_layer": 1} | options))


class _Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = torch.load(checkpoint(tmp_path / "theirs.pth", num_convolution_layer=1), weights_only=True)
    content["config"]["device"] = _Harmful()
    torch.save(content, tmp_path / "harmful.pth")
    assert atomslim.load(tmp_path / "harmful.pth").num_blocks == 1
    assert not (tmp_path / "executed").exists()
