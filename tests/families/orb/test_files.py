"""Files of Orb: what they do not say, and those that cannot be read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk, molecule

pytest.importorskip("families.orb.needed", exc_type=ImportError)

import atomslim
from atomslim.atoms import from_ase
from atomslim.errors import AtomslimWarning, CheckpointError, ConfigError
from families.orb.package_models import calculator, saved

SMALL: dict[str, Any] = {"num_message_passing_steps": 1}


def changed(path: Path, change: Any, kind: str = "direct", **made: Any) -> Path:
    """Save weights to which something was done."""
    weights = torch.load(saved(path, kind, 20, **{**SMALL, **made}))
    change(weights)
    torch.save(weights, path)
    return path


def test_a_file_runs_nothing(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    path = changed(tmp_path / "a-direct-20-b.ckpt", lambda weights: weights.update(extra=Harmful()))
    with pytest.raises(CheckpointError, match="no tensors: extra"):
        atomslim.load(path)
    assert not (tmp_path / "touched").exists()


def test_what_is_not_supported_is_named(tmp_path: Path) -> None:
    weight = "model._encoder._node_fn.mlp.NN-0.weight"

    def broken(weights: Any) -> None:
        weights[weight][0] = float("nan")

    def flat(weights: Any) -> None:
        weights["heads.energy.normalizer.bn.running_var"].zero_()

    def headless(weights: Any) -> None:
        for name in [name for name in weights if name.startswith("heads.")]:
            del weights[name]

    path = tmp_path / "a-direct-20-b.ckpt"
    for change, message in (
        (broken, "NN-0.weight has NaN"),
        (flat, "heads.energy.normalizer is not a scale"),
        (headless, "has no heads"),
        (lambda weights: weights.pop(weight), f"the tensor {weight} is missing"),
        (lambda weights: weights.update({"model.more": torch.ones(3)}), "not part of the model: model.more"),
        (lambda weights: weights.update({weight: torch.ones(12, 9)}), r"has the shape \(12, 9\) instead of"),
    ):
        with pytest.raises(CheckpointError, match=message):
            atomslim.load(changed(path, change))
    with pytest.raises(CheckpointError, match="takes charge and spin"):
        atomslim.load(saved(path, "conservative", has_charge_spin_cond=True, has_stress=False, **SMALL))


def test_other_heads_are_left_out_and_named(tmp_path: Path) -> None:
    def more(weights: Any) -> None:
        found = {name.replace("energy", "charges"): value for name, value in weights.items() if ".energy." in name}
        weights.update(found)

    with pytest.warns(AtomslimWarning, match="heads left out, which nothing here reads: charges"):
        model = atomslim.load(changed(tmp_path / "a-direct-20-b.ckpt", more))
    assert model.history[-1]["heads left out"] == ["charges"]


def test_what_files_do_not_say_is_read_from_their_name_or_given(tmp_path: Path) -> None:
    for name, neighbours in (("orb-v3-conservative-20-omat-20250404.ckpt", 20), ("orb-v3-direct-inf-mpa.ckpt", 120)):
        model = atomslim.load(saved(tmp_path / name, "conservative", **SMALL))
        assert model.task().graph.neighbours == neighbours
    plain = saved(tmp_path / "mine.ckpt", "direct", **SMALL)
    with pytest.warns(AtomslimWarning, match="120 are assumed"):
        assert atomslim.load(plain).task().graph.neighbours == 120
    chosen: Any = atomslim.load(plain, neighbours="33", repulsion="no", activation="gelu")
    assert (chosen.task().graph.neighbours, chosen.config.repulsion, chosen.config.activation) == (33, "none", "gelu")
    assert atomslim.load(saved(tmp_path / "v2.ckpt", "v2", **SMALL)).task().graph.neighbours == 20
    atomslim.export(chosen, tmp_path / "own.ckpt")
    again: Any = atomslim.load(tmp_path / "own.ckpt")
    assert again.config == chosen.config
    with pytest.raises(ConfigError, match="says itself what neighbours is"):
        atomslim.load(tmp_path / "own.ckpt", neighbours="20")
    options: list[dict[str, Any]] = [
        {"neighbours": "few"},
        {"activation": "relu"},
        {"repulsion": "perhaps"},
        {"head": "x"},
    ]
    for option in options:
        with pytest.raises(ConfigError, match=next(iter(option))):
            atomslim.load(plain, **option)


def test_files_of_2024_are_read(tmp_path: Path) -> None:
    def older(weights: Any) -> None:
        names = {"heads.forces.": "node_head.", "heads.energy.": "graph_head.", "heads.stress.": "stress_head."}
        for name in list(weights):
            new = f"model.{name}" if name.startswith("model.") else name
            for today, before in names.items():
                new = new.replace(today, before)
            weights[new] = weights.pop(name)

    path = changed(tmp_path / "orb-v2-20241011.ckpt", older, "v2")
    ours, theirs = molecule("CO2"), molecule("CO2")
    ours.calc, theirs.calc = atomslim.Calculator(path), calculator(path, "v2", 20, **SMALL)
    assert ours.get_potential_energy() == pytest.approx(theirs.get_potential_energy(), abs=1e-5)
    assert ours.get_forces() == pytest.approx(theirs.get_forces(), abs=1e-5)


def test_a_renamed_task_keeps_its_heads(tmp_path: Path) -> None:
    path = saved(tmp_path / "a-direct-120-b.ckpt", "direct", **SMALL)
    model, batch = atomslim.load(path), from_ase(bulk("NaCl", "rocksalt", a=5.6))
    renamed = atomslim.load(path, tasks=[model.task().model_copy(update={"name": "mine"})])
    atomslim.save(renamed, tmp_path / "mine.safetensors")
    for again in (renamed, atomslim.load(tmp_path / "mine.safetensors")):
        assert torch.equal(again.predict(batch, "mine")["stress"], model.predict(batch)["stress"])
    atomslim.export(renamed, tmp_path / "mine.ckpt")
    assert torch.equal(atomslim.load(tmp_path / "mine.ckpt").predict(batch)["stress"], model.predict(batch)["stress"])


def test_names_are_none() -> None:
    with pytest.raises(ConfigError, match="no weights come with the package"):
        atomslim.load("orb:orb-v3-conservative-20-omat")
