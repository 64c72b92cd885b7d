"""Labels of 0 and 1 through every command, on water molecules: long bonds are "long", wide angles are "wide"."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch

import atomslim
from atomslim.atoms import Sample
from atomslim.cli.main import main
from atomslim.compress.prune import keep_blocks
from atomslim.errors import ConfigError, DataError
from atomslim.evaluation.batches import batches
from atomslim.evaluation.classification import MEAN_OF_LABELS, ClassErrors
from atomslim.evaluation.compare import compare
from atomslim.evaluation.evaluate import evaluate
from atomslim.families.jmp import JMP
from atomslim.models.losses import Term, loss_sums
from atomslim.models.tasks import Target, Task
from atomslim.study.outcome import outcome
from atomslim.train.options import TargetOptions
from samples import ALL_NEIGHBOURS, CONSERVATIVE, small_model
from small_models import jmp
from train.water import waters

QUICK: dict[str, Any] = {
    "name": "water",
    "classify": ("long", "wide"),
    "split": {"train": 40, "validation": 12, "test": 12},
    "steps": 2,
    "batch_size": 8,
    "cutoff": 4.5,
    "progress": False,
}
LEARNED = QUICK | {"steps": 60, "validate_every": "20 steps", "optimiser": {"learning_rate": 3e-3}, "ema": None}


def labelled(count: int = 64) -> list[Sample]:
    """Return molecules with labels; every fifth has no label of its angle."""
    made = waters(count, seed=3)
    lengths = [float(np.linalg.norm(one.positions[1:] - one.positions[0], axis=1).sum()) for one in made]
    spans = [float(np.linalg.norm(one.positions[1] - one.positions[2])) for one in made]
    middle, wide = np.median(lengths), np.quantile(spans, 0.7)
    found = []
    for index, (sample, length, span) in enumerate(zip(made, lengths, spans, strict=True)):
        targets = {"long": np.array(float(length > middle))}
        if index % 5:
            targets["wide"] = np.array(float(span > wide))
        found.append(replace(sample, targets=targets, name=f"water.xyz, record {index}"))
    return found


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes") / "run"
    model = jmp(CONSERVATIVE, sum_scale=0.3, num_blocks=2, num_spherical=3, direct_forces=False)
    atomslim.finetune(model.float(), labelled(), output=folder, **LEARNED)
    return folder


@pytest.fixture(scope="module")
def tuned(learned: Path) -> JMP:
    model = atomslim.load(learned / "best.safetensors")
    assert isinstance(model, JMP)
    return model


def test_a_run_learns_labels_and_says_so(learned: Path) -> None:
    rows = {row["target"]: row for row in json.loads((learned / "summary.json").read_text())["rows"]}
    assert list(rows) == ["long", "wide", MEAN_OF_LABELS]
    assert rows["long"]["mean_baseline"]["roc_auc"] == 0.5
    assert rows["long"]["test"]["roc_auc"] > 0.8
    assert rows["wide"]["test"]["count"] < 12 == rows["long"]["test"]["count"]
    metrics = list(csv.DictReader((learned / "metrics.csv").read_text().splitlines()))
    validations = [row for row in metrics if row["score"]]
    assert len(validations) == 4
    for row in validations:
        assert float(row["water/long/error"]) == pytest.approx(1 - float(row["water/long/roc_auc"]))
    best = min(validations, key=lambda row: float(row["score"]))
    assert max(float(row["water/mean over labels/roc_auc"]) for row in validations) < 0.2 + float(
        best["water/mean over labels/roc_auc"]
    )
    assert (learned / "learning_curve.png").is_file()


def test_the_model_knows_its_labels(tuned: JMP) -> None:
    task = tuned.task()
    assert task.labels == ["long", "wide"]
    assert {(target.reduction, target.unit, target.std) for target in task.targets} == {("mean", "probability", 1.0)}
    rate = task.targets[0].base_rate
    assert rate is not None
    assert task.targets[0].mean == pytest.approx(np.log(rate / (1 - rate)))
    outputs = tuned.predict(atomslim.from_ase(labelled()[0].to_ase()))
    assert 0 < float(outputs["long"]) < 1


def test_evaluation_is_that_of_the_run_and_by_label(learned: Path, tuned: JMP) -> None:
    found = evaluate(tuned, labelled(), part="test", split=learned / "split.water.json")
    rows = {row["target"]: row for row in json.loads((learned / "summary.json").read_text())["rows"]}
    for name in ("long", "wide", MEAN_OF_LABELS):
        one = found.errors[name]
        assert isinstance(one, ClassErrors)
        assert one.roc_auc == pytest.approx(rows[name]["test"]["roc_auc"])
    assert json.loads(json.dumps(found.as_dict()))["mean"]["long"]["roc_auc"] == 0.5


def test_one_class_is_said_and_not_a_nan(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = [sample for sample in labelled() if sample.targets["long"] == 1.0]
    ase.io.write(tmp_path / "only.xyz", [_frame(sample) for sample in only], format="extxyz")
    command("evaluate", learned / "best.safetensors", tmp_path / "only.xyz", "--option", "labels=long,wide")
    shown = " ".join(capsys.readouterr().out.split())
    assert f"long: ROC-AUC is not defined: all {len(only)} labels are yes" in shown
    assert "nan" not in shown.lower()


def test_files_of_labels_train_without_naming_them_again(tmp_path: Path) -> None:
    """True and false in an extended XYZ file, said to be labels by the reader's option alone."""
    ase.io.write(tmp_path / "water.xyz", [_frame(sample) for sample in labelled()], format="extxyz")
    options = {name: value for name, value in QUICK.items() if name != "classify"}
    run: dict[str, Any] = options | {"options": {"labels": "long, wide"}, "output": tmp_path / "run"}
    found = atomslim.finetune(small_model().float(), str(tmp_path / "water.xyz"), **run)
    assert found.task().labels == ["long", "wide"]
    command("data", "prepare", tmp_path / "water.xyz", "-o", tmp_path / "water.samples", "--option", "labels=long,wide")
    again = atomslim.finetune(
        small_model().float(), str(tmp_path / "water.samples"), output=tmp_path / "again", **options
    )
    assert again.task().labels == ["long", "wide"]


def test_balanced_classes_have_a_weight_that_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = QUICK | {"classify": ("wide",), "class_weights": "balanced", "progress": True}
    found = atomslim.finetune(small_model().float(), labelled(), output=tmp_path / "run", **run)
    said = " ".join(capsys.readouterr().err.split())
    share = found.task().targets[0].base_rate
    assert share is not None
    assert found.task().targets[0].mean == 0.0
    assert f"class_weights=balanced: 1 counts {(1 - share) / share:.3g} times" in said
    assert "base rate" in said
    assert "Labels of 0 and 1" in said


def test_the_weight_makes_both_classes_count_alike() -> None:
    target = Target(name="a", kind="binary", reduction="mean", unit="probability", base_rate=0.25)
    samples = [replace(sample, targets={"a": np.array(float(index == 0))}) for index, sample in enumerate(waters(4))]
    model = small_model(Task(name="t", targets=(target,), graph=ALL_NEIGHBOURS))
    batch = next(batches(model, "t", samples, 4))
    logits = torch.tensor([0.3, -1.0, 0.5, 2.0], dtype=torch.float64)
    batch.targets["a"][3] = torch.nan
    term = Term("t", "a", 1.0, "cross-entropy", 1.0, 1.0, target, positive_weight=3.0)
    found = loss_sums([term], {"t": {"a": logits}}, batch)[0]
    p = 1 / (1 + np.exp(-logits.numpy()))
    assert float(found.total) == pytest.approx(-3 * np.log(p[0]) - np.log(1 - p[1]) - np.log(1 - p[2]))
    assert float(found.count) == 3


def test_predictions_are_named_probabilities(learned: Path, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "water.xyz", [_frame(sample) for sample in labelled(4)], format="extxyz")
    command("predict", learned / "best.safetensors", tmp_path / "water.xyz", "-o", tmp_path / "out.extxyz")
    for atoms in ase.io.read(tmp_path / "out.extxyz", ":"):
        assert 0 < atoms.info["long_probability"] < 1
        assert atoms.info["long"] in {True, False}  # what came with the structure stays


def test_relevance_leaves_out_by_log_loss(tuned: JMP) -> None:
    found = atomslim.block_relevance(tuned, labelled(24), batch_size=8)
    task = found.tasks["water"]
    without = evaluate(keep_blocks(tuned, [2]), labelled(24)).errors["long"]
    whole = task.errors["long"]
    assert isinstance(without, ClassErrors)
    assert isinstance(whole, ClassErrors)
    assert task.left_out["long"][1] == pytest.approx(without.log_loss - whole.log_loss, abs=1e-6)
    assert np.isfinite(found.mix("leave-out")[1:]).all()
    assert (found.mix("gradcam") >= 0).all()


def test_a_comparison_shows_every_metric_and_the_base_rate(tuned: JMP, tmp_path: Path) -> None:
    found = compare({"full": tuned, "cut": keep_blocks(tuned, 1)}, labelled(32), speed=False)
    assert found.main_target == ("water", MEAN_OF_LABELS)
    found.write(tmp_path / "out")
    text = (tmp_path / "out" / "compare.md").read_text()
    for part in ("Labels of 0 and 1", "PR-AUC", "balanced accuracy", "base rate", "ROC-AUC 0.500", "1 − ROC-AUC"):
        assert part in text
    row = next(csv.DictReader((tmp_path / "out" / "compare.csv").read_text().splitlines()))
    errors = found.models[0].errors["water"]["long"]
    assert isinstance(errors, ClassErrors)
    assert float(row["ROC-AUC long, water"]) == errors.roc_auc


@pytest.mark.parametrize("against", ["labels", "teacher"])
def test_logits_are_distilled(against: str, tuned: JMP, tmp_path: Path) -> None:
    small = keep_blocks(tuned, 1, realign="random")
    options: dict[str, Any] = {
        "tasks": [{"name": "water", "split": {"train": 40, "validation": 12, "test": 12}}],
        "optimiser": {"learning_rate": 3e-3},
        "ema": None,
        "progress": False,
        "batch_size": 8,
    }
    atomslim.distill(small, tuned, labelled(), output=tmp_path / "run", steps=30, validate_against=against, **options)
    rows = {row["target"]: row for row in json.loads((tmp_path / "run" / "summary.json").read_text())["rows"]}
    assert ("roc_auc" in rows["long"]["after"]) == (against == "labels")
    assert rows["long"]["after"]["unit"] == "probability"
    unseen = [atomslim.from_ase(sample.to_ase()) for sample in labelled()[:16]]
    last = atomslim.load(tmp_path / "run" / "last.safetensors")
    gaps = [
        np.mean([abs(float(model.predict(one)["long"]) - float(tuned.predict(one)["long"])) for one in unseen])
        for model in (small, last)
    ]
    assert gaps[1] < gaps[0]


def test_studies_take_the_area_that_is_missing(learned: Path) -> None:
    found = outcome(learned)
    row = json.loads((learned / "summary.json").read_text())["rows"][0]
    assert found["errors"]["long"]["mae"] == pytest.approx(1 - row["test"]["roc_auc"])
    assert found["errors"]["long"]["unit"] == "1 − ROC-AUC"
    assert found["errors"]["long"]["mean"] == 0.5
    assert found["curve"][0]["long"] == pytest.approx(1 - row["before"]["roc_auc"])


def test_a_run_of_labels_goes_on_where_it_was(tmp_path: Path) -> None:
    """Two steps, then two more, are the four steps of one run."""
    options = QUICK | {"optimiser": {"learning_rate": 1e-3}, "schedule": {"cosine": None, "warmup": "0%"}}
    whole = atomslim.finetune(small_model().float(), labelled(), output=tmp_path / "whole", **options | {"steps": 4})
    atomslim.finetune(small_model().float(), labelled(), output=tmp_path / "parts", **options)
    parts = atomslim.finetune(
        small_model().float(), labelled(), output=tmp_path / "parts", resume=True, **options | {"steps": 4}
    )
    del whole, parts
    last = [atomslim.load(tmp_path / name / "last.safetensors").state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_wrong_labels_are_refused_by_name(tmp_path: Path) -> None:
    samples = labelled()
    samples[7] = replace(samples[7], targets={"long": np.array(0.5)})
    for part in ({"train": 52, "validation": 12}, {"train": 12, "validation": 52}):
        with pytest.raises(DataError, match=r"water\.xyz, record 7: long is 0\.5, and a label is 0 or 1"):
            atomslim.finetune(
                small_model().float(), samples, output=tmp_path / "run", **QUICK | {"split": {**part, "test": 0}}
            )
    alike = [replace(sample, targets={"long": np.array(1.0)}) for sample in labelled()]
    with pytest.raises(DataError, match="long is 1 in all 40 structures for training"):
        atomslim.finetune(small_model().float(), alike, output=tmp_path / "run", **QUICK | {"classify": ("long",)})
    with pytest.raises(DataError, match="has thick"):
        atomslim.finetune(
            small_model().float(), labelled(), output=tmp_path / "run", **QUICK | {"classify": ("thick",)}
        )
    with pytest.raises(ConfigError, match=r"class_weights: none of .* is a label"):
        atomslim.finetune(
            small_model().float(),
            waters(64),
            output=tmp_path / "run",
            **QUICK | {"classify": (), "class_weights": "balanced"},
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"kind": "binary", "loss": "l1"}, "cross-entropy goes with binary labels"),
        ({"kind": "scalar", "loss": "cross-entropy"}, "cross-entropy goes with binary labels"),
        ({"kind": "binary", "references": True}, "no references"),
        ({"kind": "scalar", "class_weights": "balanced"}, "class_weights are for labels"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TargetOptions(**options)


def command(*tokens: object) -> None:
    """Run a command line that must not fail."""
    assert main([str(token) for token in tokens]) == 0


def _frame(sample: Sample) -> Any:
    atoms = sample.to_ase()
    atoms.info = {name: bool(value) for name, value in sample.targets.items()}
    return atoms
