from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from atomslim.atoms import Sample
from atomslim.compress.distill import Weights, teach
from atomslim.compress.prune import keep_blocks
from atomslim.data.in_memory import Samples
from atomslim.data.loader import Batch
from atomslim.data.mixing import Mixture
from atomslim.errors import ConfigError
from atomslim.families.jmp import JMP
from atomslim.models.block_model import Trace
from atomslim.train import teacher_cache as module
from atomslim.train.dataloaders import training_feed
from atomslim.train.distill import Distillation, DistillOptions, _answers
from atomslim.train.options import TaskOptions, validated
from atomslim.train.run_folder import RunFolder
from atomslim.train.targets import own_scales, own_targets
from atomslim.train.tasks import LearningTask, loss_terms, prepare_task
from atomslim.train.teacher_cache import Answers, kept_answers
from samples import CONSERVATIVE, DIRECT
from small_models import jmp
from train.water import waters

OPTIONS = DistillOptions(steps=1, batch_size=3)
ASIDE = {"train": 6, "validation": 1, "test": 1}


def crystals() -> list[Sample]:
    """Perfect crystals, whose neighbours are equally far; a strained one; and an atom without neighbours."""
    made = [bulk("NaCl", "rocksalt", a=5.0 + 0.1 * number, cubic=True) for number in range(7)]
    made[3].rattle(0.1, seed=1)
    made.append(Atoms("Ar", positions=[[0.0, 0.0, 0.0]]))
    labels = {"energy": 1.0}
    return [Sample.from_ase(atoms, {**labels, "forces": [[0.1, 0.0, 0.0]] * len(atoms)}) for atoms in made]


def learning(model: JMP) -> list[LearningTask]:
    """Every task of a model, on waters, crystals, waters …."""
    made = []
    for number, task in enumerate(model.tasks.values()):
        data = Samples(crystals() if number % 2 else waters(8, seed=number), name=f"set {number}")
        options = TaskOptions.model_validate({"name": task.name, "targets": own_targets(task, {}), "split": ASIDE})
        made.append(prepare_task(data, options, normalisation=own_scales(task), graph=task.graph))
    return made


def planned(model: JMP, tasks: list[LearningTask]) -> Iterator[Batch]:
    """Shuffled batches, as a run has them."""
    mixture = Mixture([task.part("train") for task in tasks])
    return iter(training_feed(mixture, OPTIONS, model.topology, rank=0, world_size=1))


def two_tasks() -> JMP:
    return jmp(DIRECT, DIRECT.model_copy(update={"name": "crystals"}), num_blocks=2, sum_scale=1.0)


def fail(*_: Any, **__: Any) -> Trace:
    pytest.fail("the teacher was asked")


@pytest.mark.parametrize("weights", [Weights(), Weights(node=0), Weights(edge=0)], ids=["all", "edge", "node"])
def test_kept_answers_are_the_teachers(tmp_path: Path, weights: Weights) -> None:
    teacher = two_tasks()
    tasks = learning(teacher)
    kept = kept_answers(tmp_path / "answers", teacher, tasks, OPTIONS, weights)
    assert len(kept) == 12
    batches = planned(teacher, tasks)
    for _ in range(8):
        batch = next(batches)
        asked, found = teach(teacher, batch, weights), kept.trace(batch)
        assert found is not None
        if weights.node:
            torch.testing.assert_close(found.readout.node, asked.readout.node, rtol=1e-9, atol=1e-9)
        if weights.edge:
            torch.testing.assert_close(found.readout.edge, asked.readout.edge, rtol=1e-9, atol=1e-9)
        for index, task in enumerate(batch.tasks):
            atoms = batch.atoms.batch == index
            for name, rows in (("energy", torch.tensor(index)), ("forces", atoms)):
                ours, theirs = found.outputs[task][name][rows], asked.outputs[task][name][rows]
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("task", [DIRECT, CONSERVATIVE], ids=lambda task: task.name)
def test_losses_are_those_of_asking_each_time(tmp_path: Path, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = jmp(task, num_blocks=2, direct_forces=task.direct, sum_scale=1.0)
    student, tasks = keep_blocks(teacher, 1), learning(teacher)
    terms = loss_terms(tasks[0], task)
    kept = kept_answers(tmp_path / "answers", teacher, tasks, OPTIONS, OPTIONS.weights)
    batch = next(planned(teacher, tasks))
    student.train()
    asked = Distillation(student, teacher, terms, OPTIONS).loss(student, batch, torch.Tensor.detach)
    monkeypatch.setattr("atomslim.train.distill.teach", fail)
    found = Distillation(student, teacher, terms, OPTIONS, kept).loss(student, batch, torch.Tensor.detach)
    assert float(found.detach()) == pytest.approx(float(asked.detach()), rel=1e-12)


def test_what_was_displaced_is_asked_anew(tmp_path: Path) -> None:
    teacher = jmp(DIRECT, num_blocks=1)
    tasks = learning(teacher)
    kept = kept_answers(tmp_path / "answers", teacher, tasks, OPTIONS, OPTIONS.weights)
    options = DistillOptions(steps=1, rattle=0.02)
    distilling = Distillation(teacher, teacher, [], options, kept)
    batches = planned(teacher, tasks)
    for _ in range(2):  # even indices are displaced
        assert float(distilling.loss(teacher, next(batches), torch.Tensor.detach).detach()) < 1e-9


def test_other_edges_have_no_answer(tmp_path: Path) -> None:
    teacher = jmp(DIRECT, num_blocks=1)
    tasks = learning(teacher)
    kept = kept_answers(tmp_path / "answers", teacher, tasks, OPTIONS, OPTIONS.weights)
    batch = next(planned(teacher, tasks))
    assert kept.trace(batch) is not None
    batch.topology.main.offset[0] += 1
    assert kept.trace(batch) is None


def test_answers_are_computed_once_for_a_teacher_its_data_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, path = jmp(DIRECT, num_blocks=1), tmp_path / "answers"
    tasks = learning(teacher)
    kept_answers(path, teacher, tasks, OPTIONS, OPTIONS.weights)
    monkeypatch.setattr(module, "teach", fail)
    kept_answers(path, teacher, tasks, OPTIONS, OPTIONS.weights)
    others = jmp(DIRECT, num_blocks=1, seed=1), [*learning(teacher)], Weights(edge=0)
    others[1][0].dataset[others[1][0].split.train[2]].positions[0, 0] += 1e-9
    for changed in (
        {"teacher": others[0]},
        {"tasks": others[1]},
        {"weights": others[2]},
        {"precision": "bf16"},
    ):
        given: dict[str, Any] = {"teacher": teacher, "tasks": tasks, "weights": OPTIONS.weights} | changed
        with pytest.raises(pytest.fail.Exception, match="was asked"):
            kept_answers(path, options=OPTIONS, **given)
    kept_answers(path, teacher, tasks, OPTIONS, OPTIONS.weights)  # what was there is there still


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, path = jmp(DIRECT, num_blocks=1), tmp_path / "answers"
    tasks = learning(teacher)
    asked = teach
    calls: list[int] = []

    def stopped(*given: Any) -> Trace:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return asked(*given)

    monkeypatch.setattr(module, "teach", stopped)
    with pytest.raises(KeyboardInterrupt):
        kept_answers(path, teacher, tasks, OPTIONS, OPTIONS.weights)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(module, "teach", asked)
    kept_answers(path, teacher, tasks, OPTIONS, OPTIONS.weights)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert len(kept_answers(path, teacher, tasks, OPTIONS, OPTIONS.weights)) == 6
    assert len(path.read_bytes()) == pytest.approx(len(whole), abs=8)  # seconds are written, too


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"epochs": 2.0}, True),
        ({"epochs": 1.9}, False),
        ({"steps": 4, "batch_size": 3}, True),
        ({"steps": 3, "batch_size": 3}, False),
        ({"budget": "1h"}, False),
        ({"epochs": 2.0, "teacher_cache": False}, False),
        ({"steps": 1, "teacher_cache": True}, True),
        ({"epochs": 2.0, "weights": {"blocks": 1.0}}, False),
    ],
    ids=str,
)
def test_answers_are_kept_where_that_pays(tmp_path: Path, options: dict[str, Any], kept: bool) -> None:
    teacher = jmp(DIRECT, num_blocks=0)
    found = _answers(teacher, learning(teacher), validated(DistillOptions, options), RunFolder(tmp_path))
    assert (found is not None) is kept
    assert (tmp_path / "teacher.answers").is_file() is kept


def test_features_of_blocks_are_not_kept(tmp_path: Path) -> None:
    teacher = jmp(DIRECT, num_blocks=0)
    options = DistillOptions(steps=1, teacher_cache=True, weights=Weights(blocks=1.0))
    with pytest.raises(ConfigError, match="features of blocks are not kept"):
        _answers(teacher, learning(teacher), options, RunFolder(tmp_path))


def test_a_file_of_something_else_is_no_file_of_answers(tmp_path: Path) -> None:
    for content in (b"", b"x" * 100):
        (tmp_path / "answers").write_bytes(content)
        assert Answers.stored(tmp_path / "answers", {}) is None
