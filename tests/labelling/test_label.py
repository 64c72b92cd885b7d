"""Labelling: each structure exactly once, whatever happens, and files that are read without options."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import iread, write

from atomslim.atoms.sample import Sample
from atomslim.cli.main import main
from atomslim.data.container import Container
from atomslim.data.dataset import open_dataset
from atomslim.data.loader import collate
from atomslim.data.staging import write_container
from atomslim.errors import AtomslimError, AtomslimWarning, ConfigError, DataError
from atomslim.labelling.label import label
from atomslim.models.block_model import BlockModel
from atomslim.train.distill import distill
from atomslim.train.finetune import finetune
from atomslim.train.optimisation import curvature, sharing
from odd_calculators import Springs, Tired
from small_models import CONSERVATIVE, jmp

EMT_NAME = "ase:ase.calculators.emt:EMT"


def pairs(path: Path, count: int, step: float = 1.0) -> Path:
    write(path, [Atoms("CO", [(10 * i * step, 0.1, 0.01 * i), (10 * i * step + 1.1, 0, 0)]) for i in range(count)])
    return path


def copper(path: Path, count: int = 3) -> Path:
    frames = []
    for seed in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        frames.append(atoms)
    write(path, frames)
    return path


def bits(folder: Path) -> list[bytes]:
    return [b"".join(sample.targets[name].tobytes() for name in sample.targets) for sample in open_dataset(str(folder))]


def test_a_folder_of_labels_is_a_dataset_without_options(tmp_path: Path) -> None:
    done = label(copper(tmp_path / "cu.xyz"), EMT_NAME, tmp_path / "labelled", processes=2)
    assert (len(done.container), done.skipped) == (3, ())
    frames = list(iread(tmp_path / "cu.xyz"))
    for name in ("labelled", "labelled/labelled.extxyz"):
        data = list(open_dataset(str(tmp_path / name)))
        for atoms, sample in zip(frames, data, strict=True):
            atoms.calc = EMT()
            assert float(sample.targets["energy"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
            np.testing.assert_allclose(sample.targets["forces"], atoms.get_forces(), atol=1e-8)
            np.testing.assert_allclose(sample.targets["stress"], atoms.get_stress(voigt=False), atol=1e-8)
    told = done.container.metadata["labelled"]["teacher"]
    assert (told["name"], told["versions"]["ase"]) == (EMT_NAME, ase.__version__)
    assert next(iread(tmp_path / "labelled/labelled.extxyz")).info["teacher"] == EMT_NAME
    before = (tmp_path / "labelled/labelled.samples").stat().st_mtime_ns
    label(tmp_path / "cu.xyz", EMT, tmp_path / "other")
    assert bits(tmp_path / "other") == bits(tmp_path / "labelled")
    label(tmp_path / "cu.xyz", EMT_NAME, tmp_path / "labelled")  # nothing is left to do
    assert (tmp_path / "labelled/labelled.samples").stat().st_mtime_ns == before


def test_the_group_of_a_structure_and_what_is_fixed_are_kept(tmp_path: Path) -> None:
    atoms = Atoms("CO", [(0, 0, 0), (0, 0, 1.2)])
    sample = Sample.create(atoms.numbers, atoms.positions, {}, fixed=[True, False], tags=[0, 1], group="gas", name="a")
    write_container(tmp_path / "in.samples", [sample])
    found = label(tmp_path / "in.samples", Springs, tmp_path / "labelled").container[0]
    assert (found.group, found.name, found.fixed.tolist(), found.tags.tolist()) == ("gas", "a", [True, False], [0, 1])
    assert found.targets["forces"][0, 2] == 0.0
    assert found.targets["forces"][1, 2] == pytest.approx(-3.6)


def killed(arguments: list[str], folder: Path, counter: Path, after: int) -> None:
    """Start a command, and kill it once the teacher was asked so often."""
    code = "import sys; from atomslim.cli.main import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)
    while process.poll() is None and (not counter.exists() or counter.read_text().count("\n") < after):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "labelled.samples").exists()


def test_killed_each_structure_is_labelled_exactly_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder, counter = pairs(tmp_path / "in.xyz", 100), tmp_path / "labelled", tmp_path / "asked"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(index for index in sys.path if index))
    name = f"ase:odd_calculators:Slow?counter={counter}&fault=raises&at=955"
    command = ["label", str(source), "--teacher", name, "-o", str(folder), "--processes", "2", "--skip", "10%"]
    killed(command, folder, counter, 40)
    assert main(command) == 0
    asked = counter.read_text().split()
    assert len(asked) < 150  # what was committed is not asked again
    data = list(open_dataset(str(folder)))
    assert [sample.positions[0, 0] for sample in data] == [10.0 * i for i in range(96)]
    note = json.loads((folder / "label.json").read_text())
    assert [one["number"] for one in note["skipped"]] == [96, 97, 98, 99]
    assert note["skipped"][0]["reason"] == "RuntimeError: SCF did not converge"
    assert not list(folder.glob("*.partial"))
    label(source, Springs, tmp_path / "straight")
    assert bits(folder) == bits(tmp_path / "straight")[:96]


def test_too_many_structures_without_labels_stop_it_and_more_may_be_allowed(tmp_path: Path) -> None:
    source, folder = pairs(tmp_path / "in.xyz", 10), tmp_path / "labelled"

    def teacher() -> Springs:
        return Springs("nan", at=75.0)

    with pytest.raises(AtomslimError, match=r"in.xyz: record 8 .*: forces is not finite .*--skip") as error:
        label(source, teacher, folder, skip=0.05)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="is not finished"):
        open_dataset(str(folder))
    done = label(source, teacher, folder, skip=0.25)
    assert (len(done.container), [one.number for one in done.skipped]) == (8, [8, 9])
    assert "2 skipped, the first" in str(done)


def test_the_first_structure_may_have_no_labels(tmp_path: Path) -> None:
    source = pairs(tmp_path / "in.xyz", 4, step=-1.0)
    done = label(source, lambda: Springs("raises", at=-5.0), tmp_path / "labelled", skip=0.25)
    assert [one.number for one in done.skipped] == [0]
    with pytest.raises(AtomslimError, match="SCF did not converge"):
        label(source, lambda: Springs("raises", at=-99.0), tmp_path / "none", skip=0.9)
    assert not (tmp_path / "none").exists()


def test_a_teacher_that_hangs_costs_a_structure(tmp_path: Path) -> None:
    source = pairs(tmp_path / "in.xyz", 8)
    done = label(source, lambda: Springs("hangs", at=65.0), tmp_path / "out", skip=0.2, timeout=0.5)
    assert [(one.number, one.reason) for one in done.skipped] == [(7, "no answer within 0.5 s")]


def test_a_teacher_that_changes_in_the_end_is_refused_again_and_again(tmp_path: Path) -> None:
    source = pairs(tmp_path / "in.xyz", 12)
    for _ in range(2):
        with pytest.raises(AtomslimError, match="for the same structure"):
            label(source, Tired(), tmp_path / "out")
    assert not (tmp_path / "out/labelled.samples").exists()


def test_what_is_wrong_with_a_teacher_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pairs(tmp_path / "in.xyz", 3)
    with pytest.warns(AtomslimWarning, match="not the gradient") as said:
        label(source, lambda: Springs("wrong", at=-1.0), tmp_path / "out")
    assert len(said) == 1
    assert main(["label", str(source), "--teacher", "ase:odd_calculators:Springs", "-o", str(tmp_path / "cli")]) == 0
    seen = capsys.readouterr()
    assert "gives energy, forces; forces are derivatives of the energy" in seen.err
    assert "3 structures, 6 atoms, with energy, forces" in seen.out


def test_other_work_and_other_files_are_refused(tmp_path: Path) -> None:
    source, other, folder = pairs(tmp_path / "in.xyz", 2), pairs(tmp_path / "other.xyz", 3), tmp_path / "labelled"
    label(source, Springs, folder)
    with pytest.raises(ConfigError, match="other structures"):
        label(other, Springs, folder)
    with pytest.raises(ConfigError, match="other teacher"):
        label(source, Springs(fault="nan"), folder)
    with pytest.raises(ConfigError, match="holds something else"):
        label(other, Springs, tmp_path)
    with pytest.raises(ConfigError, match="is an object of this process"):
        label(source, Springs, tmp_path / "two", processes=2)
    assert len(Container(folder / "labelled.samples")) == 2


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (["in.xyz", "--teacher", EMT_NAME, "-o", "out", "--skip", "150%"], "write a fraction below 1", 2),
        (["in.xyz", "--teacher", EMT_NAME, "-o", "out", "--timeout", "soon"], "not a duration", 2),
        (["in.xyz", "--teacher", EMT_NAME, "-o", "out", "--processes", "0"], "processes", 2),
        (["none.xyz", "--teacher", EMT_NAME, "-o", "out"], "none.xyz", 1),
        (["--teacher", EMT_NAME, "-o", "out"], "STRUCTURES", 2),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str],
    said: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs(tmp_path / "in.xyz", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["label", *arguments]) == status
    seen = capsys.readouterr().err
    assert said in seen
    assert seen.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*different reference energies")
def test_training_takes_a_folder_of_labels_as_it_is(tmp_path: Path) -> None:
    frames = [Atoms("CO", [(0, 0.1, 0.01 * i), (1.1, 0, 0)]) for i in range(12)]
    write(
        tmp_path / "in.xyz", [*frames, *(Atoms("C2O", [(0, 0, 0.01 * i), (1.3, 0, 0), (2.4, 0, 0)]) for i in range(4))]
    )
    label(tmp_path / "in.xyz", Springs, tmp_path / "labelled")
    run: dict[str, Any] = {"steps": 1, "batch_size": 8, "progress": False}
    student = jmp(CONSERVATIVE, num_blocks=1)
    tuned = finetune(student, str(tmp_path / "labelled"), output=tmp_path / "tuned", **run)
    assert {target.name for target in tuned.task().targets} == {"energy", "forces"}
    normalisation = next((tmp_path / "tuned").glob("normalisation.*.json")).read_text()
    assert "references" in normalisation
    distilled = distill(student, jmp(CONSERVATIVE), str(tmp_path / "labelled"), output=tmp_path / "kd", **run)
    assert distilled.history[-1]["operation"] == "distil"


@pytest.mark.filterwarnings("ignore:.*different reference energies")
def test_energies_of_atoms_are_labelled_and_learned(tmp_path: Path) -> None:
    by_emt = label(copper(tmp_path / "cu.xyz"), EMT_NAME, tmp_path / "emt")
    assert by_emt.given.labels == ("energy", "forces", "stress", "energies")
    for atoms, sample in zip(iread(tmp_path / "emt/labelled.extxyz"), by_emt.container, strict=True):
        again = atoms.copy()
        again.calc = EMT()
        np.testing.assert_allclose(sample.targets["energies"], again.get_potential_energies(), atol=1e-8)
        np.testing.assert_allclose(atoms.get_potential_energies(), again.get_potential_energies(), atol=1e-6)

    teacher, other = jmp(CONSERVATIVE), jmp(CONSERVATIVE, seed=1)
    write(tmp_path / "three.xyz", [Atoms("COH", [(0, 0, 0), (1.1 + 0.1 * n, 0, 0.2), (0.1, 1, 0)]) for n in range(12)])
    own = label(tmp_path / "three.xyz", teacher, tmp_path / "own").container
    for sample in own:
        assert sample.targets["energies"].sum() == pytest.approx(float(sample.targets["energy"]))
    batch = collate(list(own), ["conservative"] * 12, {"conservative": ["energies"]}, teacher.topology)
    by_element = (
        torch.zeros(119).double().index_put((torch.tensor([1, 6, 8]),), torch.tensor([3.0, -2.0, 5.0]).double())
    )

    def error(model: BlockModel, shift: torch.Tensor | float = 0.0) -> float:
        ours = model.predict(batch.atoms, None, batch.topology, energies=True)["energies"]
        return float(sharing(ours + shift, batch, torch.Tensor.detach))

    assert error(teacher, by_element[batch.atoms.numbers]) < 1e-9 < error(other)
    run: dict[str, Any] = {"steps": 8, "progress": False, "heads": "reuse", "optimiser": {"learning_rate": 3e-3}}
    tuned = finetune(other, str(tmp_path / "own"), output=tmp_path / "run", energies=100.0, **run)
    assert error(tuned) < 0.9 * error(other)
    label(tmp_path / "three.xyz", Springs, tmp_path / "plain")
    with pytest.raises(DataError, match="lack the target energies"):
        finetune(teacher, str(tmp_path / "plain"), output=tmp_path / "no", energies=1.0, **run)


@pytest.mark.filterwarnings("ignore:.*different reference energies")
def test_a_row_of_the_hessian_is_labelled_and_learned(tmp_path: Path) -> None:
    teacher = jmp(CONSERVATIVE)
    write(tmp_path / "pairs.xyz", [Atoms("COH", [(0, 0, 0), (1.1 + 0.1 * n, 0, 0.2), (0.1, 1, 0)]) for n in range(12)])
    springs = label(tmp_path / "pairs.xyz", Springs, tmp_path / "springs", hessian=True).container
    for sample in springs:
        np.testing.assert_allclose(sample.targets["hessian"][:, 3:], 3.0 * sample.targets["hessian"][:, :3], atol=1e-6)
    assert len({sample.targets["hessian"][:, :3].tobytes() for sample in springs}) > 1
    own = label(tmp_path / "pairs.xyz", teacher, tmp_path / "own", hessian=True).container
    with pytest.raises(ConfigError, match="other hessian"):
        label(tmp_path / "pairs.xyz", teacher, tmp_path / "own")

    def error(model: BlockModel) -> float:
        batch = collate(list(own), ["conservative"] * len(own), {"conservative": ["hessian"]}, model.topology)
        return float(curvature(model, batch, torch.Tensor.detach).detach())

    assert error(teacher) < 0.01 * error(jmp(CONSERVATIVE, seed=1))
    tuned = finetune(
        jmp(CONSERVATIVE, seed=1), str(tmp_path / "own"), output=tmp_path / "run", steps=2, hessian=1.0, progress=False
    )
    assert next(iter(tuned.tasks.values())).conservative
    label(tmp_path / "pairs.xyz", teacher, tmp_path / "plain")
    with pytest.raises(DataError, match="lack the target hessian"):
        finetune(teacher, str(tmp_path / "plain"), output=tmp_path / "no", steps=1, hessian=1.0, progress=False)
    assert main(["data", "show", str(tmp_path / "own")]) == 0
