"""Training on structures of which some lack labels: each takes part in the losses of the labels that it has."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk

import atomslim
from atomslim.atoms import Sample
from atomslim.data.in_memory import Samples
from atomslim.data.splits import Split
from atomslim.data.survey import survey
from atomslim.errors import AtomslimWarning, DataError
from atomslim.families.jmp.graph_settings import JMPGraphSettings
from atomslim.train.options import SplitOptions, TaskOptions
from atomslim.train.targets import default_targets
from atomslim.train.tasks import prepare_task
from samples import small_model
from train.water import waters

QUICK: dict[str, Any] = {"steps": 1, "batch_size": 4, "cutoff": 4.5, "log_every": 1, "progress": False, "name": "water"}


def without(sample: Sample, *names: str) -> Sample:
    return replace(sample, targets={name: value for name, value in sample.targets.items() if name not in names})


def atom(energy: float) -> Sample:
    return Sample.create([8], np.zeros((1, 3)), {"energy": energy}, name="an atom")


def mixed(count: int = 20) -> list[Sample]:
    """Isolated atoms without forces first, a molecule without energy, one without anything."""
    bare = [
        without(sample, *names)
        for sample, names in zip(waters(2, seed=9), [("energy",), ("energy", "forces")], strict=True)
    ]
    return [atom(-1.0), atom(-1.0), *bare, *waters(count - 4)]


def targets(samples: list[Sample], **options: Any) -> dict[str, str]:
    options = {"split": SplitOptions(train=len(samples) - 2, validation=2, test=0), **options}
    task = prepare_task(Samples(samples), TaskOptions(**options), graph=JMPGraphSettings())
    return {name: target.kind for name, target in task.targets.items()}


def test_targets_are_those_of_all_training_structures() -> None:
    assert targets(mixed()) == {"energy": "energy", "forces": "conservative_forces"}
    assert targets(mixed(), forces="direct") == {"energy": "energy", "forces": "direct_forces"}
    no_energy = [without(sample, "energy") for sample in waters(8)]
    assert targets(no_energy, forces="direct") == {"forces": "direct_forces"}
    with pytest.raises(DataError, match="none of 6 structures has energy"):
        targets(no_energy)


def test_forces_that_are_asked_for_must_be_there() -> None:
    samples = [without(sample, "forces") for sample in waters(8)]
    assert targets(samples) == {"energy": "energy"}
    for forces in ("direct", "conservative"):
        with pytest.raises(DataError, match="none of 6 structures has forces"):
            targets(samples, forces=forces)
    assert default_targets(survey(Samples(samples)), None).keys() == {"energy"}


def test_missing_labels_are_left_out_of_training_and_evaluation(tmp_path: Path) -> None:
    samples = mixed()
    split = {"train": 14, "validation": 3, "test": 3}
    tuned = atomslim.finetune(small_model().float(), samples, output=tmp_path / "run", split=split, **QUICK)
    found = atomslim.evaluate(tuned, samples).errors
    assert found["energy"].count == 18
    assert found["forces"].count == 9 * 17
    assert np.isfinite([error.mae for error in found.values()]).all()


def test_a_label_missing_in_validation_alone_is_said(tmp_path: Path) -> None:
    samples = [*waters(12), *(without(sample, "forces") for sample in waters(3))]
    split = Split(train=tuple(range(12)), validation=(12, 13), test=(14,), recipe="by hand", count=15)
    split.save(tmp_path / "split.json")
    options = QUICK | {"split": {"file": str(tmp_path / "split.json")}}
    with pytest.warns(
        AtomslimWarning, match="no structure for validation has forces: the best model is chosen by energy"
    ):
        tuned = atomslim.finetune(small_model().float(), samples, output=tmp_path / "run", **options)
    assert set(atomslim.evaluate(tuned, samples).errors) == {"energy", "energy per atom", "forces"}


def test_molecules_among_crystals_have_no_stress(tmp_path: Path) -> None:
    def crystal(seed: int) -> Sample:
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.rattle(0.05, seed=seed)
        labels: dict[str, Any] = {"energy": -6.0 - 0.1 * seed, "forces": np.full((2, 3), 0.1 * (seed + 1))}
        return Sample.from_ase(atoms, {**labels, "stress": 0.01 * (seed + 1) * np.eye(3)})

    molecules = [replace(one, targets={**one.targets, "stress": np.zeros((3, 3))}) for one in waters(4)]
    samples = [*molecules, *map(crystal, range(8))]
    options = QUICK | {
        "learn": ["energy", "forces", "stress"],
        "split": {"train": 8, "validation": 2, "test": 2, "seed": 1},
    }
    tuned = atomslim.finetune(small_model().float(), samples, output=tmp_path / "run", **options)
    found = atomslim.evaluate(tuned, samples).errors
    assert found["stress"].count == 9 * 8
    assert np.isfinite(found["stress"].mae)


def test_relevance_passes_over_batches_without_labels() -> None:
    bare = [without(sample, "energy", "forces") for sample in waters(2)]
    scores = atomslim.block_relevance(small_model(), [*bare, *waters(2)], batch_size=2, leave_out=False)
    assert np.isfinite(next(iter(scores.tasks.values())).gradcam["node"].mean).all()
    with pytest.raises(DataError, match="none of 2 structures has energy"):
        atomslim.block_relevance(small_model(), bare, leave_out=False)


def test_distillation_needs_no_labels(tmp_path: Path) -> None:
    full = small_model().float()
    bare = [without(sample, "energy", "forces") for sample in waters(10)]
    student = atomslim.keep_blocks(full, 1)
    with pytest.warns(AtomslimWarning, match="no structure for validation has labels: compared with the teacher's"):
        atomslim.distill(student, full, bare, output=tmp_path / "run", steps=1, progress=False, log_every=1)
