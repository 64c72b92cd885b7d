"""A resumed run is the same run: models, data, options and versions; and a folder has one run at a time."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.io import write

import atomslim
from atomslim.atoms import Sample
from atomslim.data.container import Container
from atomslim.data.dataset import PreparedDataset
from atomslim.data.in_memory import Samples
from atomslim.data.staging import write_container
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from atomslim.families.jmp import JMP
from atomslim.files import locked
from atomslim.train.run_folder import task_file
from atomslim.train.run_state import data_identity, model_digest
from samples import CUTOFF, DIRECT, small_model
from small_models import SIZES, jmp
from train.water import waters

QUICK: dict[str, Any] = {
    "split": {"train": 6, "validation": 3, "test": 3},
    "steps": 2,
    "batch_size": 2,
    "cutoff": 4.5,
    "progress": False,
}


def model() -> JMP:
    return small_model(DIRECT).float()


def deep() -> JMP:
    """A model of three blocks."""
    sizes: dict[str, Any] = {"num_blocks": 3, "num_spherical": 3, "basis_cutoff": CUTOFF, "direct_forces": True}
    return jmp(DIRECT, sum_scale=0.3, **sizes).float()


def tune(folder: Path, data: Any = None, start: Any = None, **changes: Any) -> Any:
    options = {**QUICK, "forces": "direct", "name": "water", **changes}
    return atomslim.finetune(start or model(), waters(12) if data is None else data, output=folder, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def other_labels(samples: list[Sample]) -> list[Sample]:
    first = samples[0]
    return [replace(first, targets={**first.targets, "energy": first.targets["energy"] + 1e-9}), *samples[1:]]


def test_other_labels_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    tune(tmp_path / "run")
    before = files(tmp_path / "run")
    for data, message in (
        (other_labels(waters(12)), "the data of water has changed since the run began .other structures or labels"),
        (waters(13), "12 structures, now 13"),
    ):
        with pytest.raises(ConfigError, match=message):
            tune(tmp_path / "run", data, resume=True, steps=4)
        assert files(tmp_path / "run") == before


def test_another_model_under_the_same_name_is_refused(tmp_path: Path) -> None:
    full, start = deep(), tmp_path / "start.safetensors"
    atomslim.save(atomslim.keep_blocks(full, [1, 2]), start)
    tune(tmp_path / "run", start=start)
    before = files(tmp_path / "run")
    atomslim.save(atomslim.keep_blocks(full, [1, 3]), start)
    with pytest.raises(ConfigError, match="the model has changed since the run began"):
        tune(tmp_path / "run", start=start, resume=True, steps=4)
    assert files(tmp_path / "run") == before
    atomslim.save(atomslim.keep_blocks(full, [1, 2]), tmp_path / "moved.safetensors")
    with pytest.warns(AtomslimWarning, match=r"model was .* and is now .*moved.safetensors, of the same content"):
        tune(tmp_path / "run", start=tmp_path / "moved.safetensors", resume=True, steps=4)
    assert atomslim.load(tmp_path / "run" / "last.safetensors").block_ids == (1, 2)


def test_the_same_data_under_another_name_goes_on(tmp_path: Path) -> None:
    for name in ("a.xyz", "b.xyz"):
        write(tmp_path / name, [sample.to_ase() for sample in waters(12)], format="extxyz")
    tune(tmp_path / "run", str(tmp_path / "a.xyz"))
    with pytest.warns(AtomslimWarning, match="data was .*a.xyz and is now .*b.xyz, of the same content"):
        tune(tmp_path / "run", str(tmp_path / "b.xyz"), resume=True, steps=3)
    tune(tmp_path / "auto", str(tmp_path / "a.xyz"), name="")
    with pytest.raises(ConfigError, match=r"data were .*a_xyz and are now .*b_xyz"):
        tune(tmp_path / "auto", str(tmp_path / "b.xyz"), resume=True, steps=3, name="")


def test_other_validation_data_is_refused(tmp_path: Path) -> None:
    def write_set(samples: list[Sample]) -> None:
        write(tmp_path / "v.xyz", [sample.to_ase() for sample in samples], format="extxyz")

    write_set(waters(4, seed=5))
    options = {"validation_data": str(tmp_path / "v.xyz"), "split": {}}
    tune(tmp_path / "run", **options)
    write_set(waters(4, seed=6))
    with pytest.raises(ConfigError, match="the data of water, validation has changed"):
        tune(tmp_path / "run", resume=True, steps=3, **options)


def test_distillation_knows_its_teacher_and_its_data(tmp_path: Path) -> None:
    teacher = deep()
    student = atomslim.keep_blocks(teacher, 1)
    options = {key: value for key, value in QUICK.items() if key not in {"split", "cutoff"}}
    task = {"name": "direct", "split": QUICK["split"]}

    def distil(other: Any, data: list[Sample], *, resume: bool) -> None:
        changes: dict[str, Any] = {"tasks": [task], "validate_against": "teacher", **options}
        atomslim.distill(student, other, {"direct": data}, output=tmp_path / "run", resume=resume, **changes)

    distil(teacher, waters(12), resume=False)
    distil(teacher, waters(12), resume=True)  # the teacher's answers, which validation takes for labels, do not count
    changed = deep()
    with torch.no_grad():
        next(changed.parameters()).add_(1e-3)
    with pytest.raises(ConfigError, match="the teacher has changed"):
        distil(changed, waters(12), resume=True)
    with pytest.raises(ConfigError, match="the data of direct has changed"):
        distil(teacher, waters(12, seed=3), resume=True)


def test_pretraining_knows_its_data(tmp_path: Path) -> None:
    task = {"name": "water", "split": QUICK["split"], "cutoff": 4.5, "forces": "direct"}
    sizes = SIZES | {"num_blocks": 1, "num_spherical": 3}
    options = {"sizes": sizes, "tasks": [task], "steps": 1, "epochs": None, "batch_size": 2}
    atomslim.pretrain(options, output=tmp_path / "run", data={"water": waters(12)}, progress=False)
    with pytest.raises(ConfigError, match="the data of water has changed"):
        atomslim.pretrain(
            options, output=tmp_path / "run", data={"water": waters(12, seed=9)}, resume=True, progress=False
        )


def test_other_versions_are_said(tmp_path: Path) -> None:
    tune(tmp_path / "run")
    note = tmp_path / "run" / "versions.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"torch": "1.0", "source": "another"}))
    with pytest.warns(AtomslimWarning, match=r"begun with torch 1.0 \(now .*source another"):
        tune(tmp_path / "run", resume=True, steps=3)


def test_a_second_training_in_a_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with locked(tmp_path / "run") as held:
        assert held
        with pytest.raises(ConfigError, match="another process is training there"):
            tune(tmp_path / "run")
        with pytest.raises(ConfigError, match="another process is training there"):
            tune(tmp_path / "run", resume=True)
    tune(tmp_path / "run")
    assert "lock" not in files(tmp_path / "run")


def test_the_lock_of_a_killed_run_is_free_although_its_loaders_live_on(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        with locked(tmp_path):
            loader = os.fork()
            if not loader:
                time.sleep(60)
                os._exit(0)
            os.write(writer, str(loader).encode())
            time.sleep(60)
        os._exit(0)
    loader = int(os.read(reader, 20))
    try:
        with locked(tmp_path) as held:
            assert not held
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        time.sleep(0.1)  # for the loader to begin, whose first act is to let go
        with locked(tmp_path) as held:
            assert held
    finally:
        os.kill(loader, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


def test_what_a_killed_run_left_is_tidied(tmp_path: Path) -> None:
    tune(tmp_path / "run")
    (tmp_path / "run" / ".state.pt.0123abcd.tmp").write_text("half")
    tune(tmp_path / "run", resume=True)
    assert not list((tmp_path / "run").glob(".*"))
    early = tmp_path / "early"
    early.mkdir()
    (early / "versions.json").write_text('{"atomslim": "0"}')
    (early / "split.another.json").write_text("{}")
    tune(early)
    assert "split.another.json" not in files(early)


def test_a_run_that_fails_before_its_baselines_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError):
        tune(tmp_path / "new" / "run", learn=("gap",))
    monkeypatch.setattr("atomslim.train.finetune.train", _fails)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("precious")
    for folder in ("new/run", "there"):
        with pytest.raises(RuntimeError, match="in the middle"):
            tune(tmp_path / folder)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "there",
        "there/notes.txt",
    ]


@pytest.mark.parametrize("name", ["config.yaml", "best.safetensors", "summary.json", "split.water.json"])
def test_files_of_no_run_are_kept(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=f"holds {name}, which belongs to no run"):
            tune(tmp_path, resume=resume)
    assert files(tmp_path) == {name: b"precious"}


def test_a_folder_is_not_named_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the name of a file"):
        tune(tmp_path / "best.safetensors")
    tune(tmp_path / "v1.0")


def test_the_name_of_a_task_is_no_path(tmp_path: Path) -> None:
    for name in ("../outside", "/absolute", "a\\b", "a\nb"):
        with pytest.raises(ConfigError, match=r"its name goes into names of files|give one without"):
            tune(tmp_path / "run", name=name)
        with pytest.raises(ConfigError, match="its name goes into names of files"):
            task_file("split", name)
    assert not list(tmp_path.iterdir())


def test_identities_are_of_contents() -> None:
    samples = waters(3)
    renamed = [replace(sample, name=f"elsewhere, {number}") for number, sample in enumerate(samples)]
    assert data_identity(Samples(samples)) == data_identity(Samples(renamed))
    assert data_identity(Samples(samples)) != data_identity(Samples(samples[::-1]))
    assert data_identity(Samples(samples)) != data_identity(Samples(other_labels(samples)))
    assert data_identity(Samples(samples), labelled=False) == data_identity(
        Samples(other_labels(samples)), labelled=False
    )
    assert model_digest(model()) == model_digest(model())
    full = deep()
    assert model_digest(atomslim.keep_blocks(full, [1, 2])) != model_digest(atomslim.keep_blocks(full, [1, 3]))


def test_a_container_is_known_by_its_index(tmp_path: Path) -> None:
    def identity(samples: list[Sample]) -> dict[str, Any]:
        container = write_container(tmp_path / "a.samples", samples, {})
        assert isinstance(container, Container)
        return data_identity(PreparedDataset("a", Samples(samples).info, container))

    assert identity(waters(3)) == identity(waters(3))
    assert identity(waters(3)) != identity(other_labels(waters(3)))


def _fails(*_: Any, **__: Any) -> None:
    raise RuntimeError("in the middle")
