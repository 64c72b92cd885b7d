import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

import atomslim
from atomslim.atoms import Sample
from atomslim.data.normalise import Normalisation
from atomslim.errors import AtomslimError, ConfigError
from atomslim.families.jmp import JMP
from atomslim.families.jmp.gemnet_oc.scaling import unfitted_scale_factors
from small_models import DIRECT, SIZES, jmp
from train.water import waters


def crystals(count: int) -> list[Sample]:
    generator = np.random.default_rng(1)
    made = []
    for _ in range(count):
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        moved = generator.normal(size=(2, 3)) * 0.05
        moved -= moved.mean(0)
        atoms.positions += moved
        made.append(Sample.from_ase(atoms, {"energy": -6 + 5 * (moved**2).sum(), "forces": -10 * moved}))
    return made


def task(name: str) -> dict[str, Any]:
    targets = {
        "energy": {"kind": "energy", "references": name == "crystal"},
        "forces": {"kind": "direct_forces", "loss": "l2", "weight": 10.0},
    }
    split = {"train": 12, "validation": 4, "test": 0}
    return {"name": name, "targets": targets, "split": split, "cutoff": 4.0, "neighbours": 12}


OPTIONS: dict[str, Any] = {
    "sizes": SIZES | {"num_blocks": 1, "num_spherical": 3},
    "tasks": [task("water"), task("crystal")],
    "steps": 60,
    "epochs": None,
    "batch_size": 4,
    "scale_batches": 2,
    "schedule": {"warmup": "5 steps"},
    "optimiser": {"learning_rate": 2e-3, "clip_by": "norm"},
    "edge_dropout": 0.0,
    "ema": 0.8,
}
DATA = {"water": waters(16), "crystal": crystals(16)}


def test_several_datasets_are_learned_at_once_from_fitted_scales(tmp_path: Path) -> None:
    model = atomslim.pretrain(OPTIONS, output=tmp_path / "run", data=DATA, progress=False)
    assert isinstance(model, JMP)
    assert list(model.tasks) == ["water", "crystal"]
    assert len(unfitted_scale_factors(model)) < 3  # quadruplets of three atoms there are none of
    assert model.tasks["crystal"].targets[0].references.keys() == {11, 17}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    forces = next(row for row in summary["rows"] if (row["task"], row["target"]) == ("crystal", "forces"))
    assert forces["after"]["mae"] < 0.2 * forces["mean_baseline"]["mae"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [row["score"] for row in rows if "score" in row]
    assert len(scores) == 11  # before the first step, and after every tenth of the run
    assert scores[-1] < 0.6 * scores[0]
    assert (tmp_path / "run" / "split.crystal.json").is_file()


def test_a_small_dataset_takes_references_of_another(tmp_path: Path) -> None:
    small = task("small") | {"split": {"train": 2, "validation": 2, "test": 0}}
    small["targets"] = small["targets"] | {"energy": {"kind": "energy", "references": "crystal"}}
    options = OPTIONS | {"tasks": [small, task("crystal")], "steps": 1}  # the one that takes may come first
    shifted = [
        replace(sample, targets=sample.targets | {"energy": sample.targets["energy"] + 1}) for sample in crystals(4)
    ]
    atomslim.pretrain(options, output=tmp_path / "run", data=DATA | {"small": shifted}, progress=False)
    scales = {
        name: Normalisation.load(tmp_path / "run" / f"normalisation.{name}.json").targets["energy"]
        for name in ("small", "crystal")
    }
    numbers = shifted[0].numbers
    theirs, own = scales["crystal"].reference(numbers), scales["small"].reference(numbers)
    assert own == pytest.approx(theirs + 1, abs=0.1)  # no mean: energies add up
    assert scales["small"].mean == 0.0
    assert scales["small"].std < 0.1


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("crystl", r"references of 'crystl': no other task of this name has its own \(there are: crystal\)"),
        ("water", r"references of 'water': no other task"),
        ("crystal", "there is no reference for H, O"),
    ],
)
def test_references_that_cannot_be_taken(tmp_path: Path, other: str, words: str) -> None:
    taker = task("taker")
    taker["targets"] = taker["targets"] | {"energy": {"kind": "energy", "references": other}}
    options = OPTIONS | {"tasks": [task("water"), task("crystal"), taker]}
    with pytest.raises(AtomslimError, match=words):
        atomslim.pretrain(options, output=tmp_path / "run", data=DATA | {"taker": waters(16)}, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sizes": None}, "either the sizes of a new model"),
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"name": "nothing"}]}, "names no data"),
        ({"tasks": [task("water") | {"head": "water"}]}, "head: a new model has no heads"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        atomslim.pretrain(OPTIONS | changes, output=tmp_path / "run", data=DATA, progress=False)


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        ({}, r"forces \(direct_forces\), and the options ask for forces \(conservative_forces\)"),
        ({"gap": {"kind": "scalar"}}, r"ask for gap \(scalar\)"),
    ],
)
def test_a_model_that_goes_on_learns_what_its_heads_give(targets: dict[str, Any], match: str, tmp_path: Path) -> None:
    atomslim.save(jmp(DIRECT).float(), tmp_path / "model.safetensors")
    samples = waters(16, gap=1.0) + waters(4, gap=2.0, seed=1)
    asked = task("direct") | {"targets": targets}
    options = OPTIONS | {"sizes": None, "model": str(tmp_path / "model.safetensors"), "tasks": [asked]}
    with pytest.raises(ConfigError, match=match):
        atomslim.pretrain(options, output=tmp_path / "run", data={"direct": samples}, progress=False)


def test_a_model_goes_on_with_new_tasks_whose_heads_start_from_its_own(tmp_path: Path) -> None:
    model = jmp(DIRECT).float()
    atomslim.save(model, tmp_path / "model.safetensors")
    tasks = [task("water") | {"head": "direct"}, task("crystal") | {"head": "fresh"}]
    options = OPTIONS | {"sizes": None, "model": str(tmp_path / "model.safetensors"), "tasks": tasks, "steps": 1}
    learned = atomslim.pretrain(options, output=tmp_path / "run", data=DATA, progress=False)
    assert list(learned.tasks) == ["water", "crystal"]
    assert next(entry for entry in learned.history if entry["operation"] == "set heads")["from"] == {"water": "direct"}
    old = model.state_dict()["heads.direct.forces.layers.4.weight"]
    own, fresh = (learned.state_dict()[f"heads.{name}.forces.layers.4.weight"] for name in ("water", "crystal"))
    assert (own - old).abs().max() < 0.01 < (fresh - old).abs().max()


def test_a_new_task_without_a_head_is_named(tmp_path: Path) -> None:
    atomslim.save(jmp(DIRECT).float(), tmp_path / "model.safetensors")
    options = OPTIONS | {"sizes": None, "model": str(tmp_path / "model.safetensors")}
    with pytest.raises(
        ConfigError, match=r"has no task crystal, water: .* \(direct\), or .* \(head: TASK, or head: fresh\)"
    ):
        atomslim.pretrain(options, output=tmp_path / "run", data=DATA, progress=False)
