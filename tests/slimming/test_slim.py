"""From structures to a validated student in one run: all of it, killed in every stage, and used wrongly."""

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import iread, write
from matplotlib.figure import Figure

import atomslim
from atomslim.benchmarking.turns import Gain
from atomslim.cli.main import main
from atomslim.errors import AtomslimError, ConfigError
from atomslim.models import energy_and_forces
from atomslim.slimming import demo, preparing
from atomslim.slimming.journal import Journal
from atomslim.slimming.options import SlimOptions
from atomslim.slimming.recipe import Recipe
from atomslim.slimming.slim import Slim, slim
from atomslim.slimming.students import Candidate, Candidates
from small_models import all_neighbours, jmp

EMT_NAME = "ase:ase.calculators.emt:EMT"

QUICK: dict[str, Any] = {
    "budget": "1h",
    "steps": 4,
    "temperatures": (300.0,),
    "size": 12,
    "features": "distances",
    "rounds": 1,
    "runs": 2,
    "picoseconds": 0.02,
    "checks": ("symmetry",),
    "progress": False,
}


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Make short trajectories, and no figures."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"FRAMES": 4, "SOME": 3, "EVERY": 2, "SELDOM": 2}.items():
            patch.setattr(preparing, name, value)
        patch.setattr("atomslim.labelling.pool.figure", lambda *_: Figure(figsize=(1, 1)))
        patch.setattr("atomslim.train.trainer.draw_learning_curve", lambda _: None)
        yield


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with structures of copper and a tiny student."""
    folder = tmp_path_factory.mktemp("given")
    write(folder / "cu.xyz", [bulk("Cu", cubic=True), bulk("Cu", cubic=True, a=3.7)])
    task = energy_and_forces("tiny", forces="conservative", graph=all_neighbours(4.0))
    atomslim.save(jmp(task, num_blocks=1).float(), folder / "tiny.safetensors")
    return folder


@pytest.fixture(scope="module")
def straight(given: Path, short: None) -> tuple[Slim, list[str]]:
    """A run that nothing stopped, and what it said."""
    del short
    said = list[str]()
    return run(given, given / "straight", tell=said.append), said


def run(given: Path, output: Path, **options: Any) -> Slim:
    return slim(given / "cu.xyz", EMT, output, student=str(given / "tiny.safetensors"), **(QUICK | options))


def note(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "slim.json").read_text())["stages"]
    return found


def test_a_whole_run_and_a_second_one_that_has_nothing_to_do(given: Path, straight: tuple[Slim, list[str]]) -> None:
    done, said = straight
    folder = done.folder
    stages = [name for name in note(folder) if not name.endswith("begun")]
    assert stages[:6] == ["teacher", "student", "held-out pool", "pool", "labels", "distil"]
    assert stages[6:9] == ["round 1, dynamics", "round 1, labels", "round 1, training"]
    assert stages[9:] == ["dynamics after", "model", "validation", "report"]
    assert len(done.unstable) == 2
    assert len([text for text in said if text.startswith("round 1")]) > 3

    atoms = bulk("Cu", cubic=True)
    atoms.calc = atomslim.Calculator(done.model)
    assert atoms.get_forces().shape == (4, 3)
    assert atomslim.load(done.model).history[-1]["teacher"]["name"] == "EMT"
    content = json.loads((folder / "validation.json").read_text())
    assert content["model"] == "model.safetensors"
    assert content["against"] == "EMT"
    assert content["held out"]["forces"] == pytest.approx(done.held_out.forces)
    assert set(content["bars"]) == {"forces, held out", "energy, held out", "unstable runs"}
    readme = (folder / "README.md").read_text().splitlines()
    assert len(readme) == 10
    assert "elements other than Cu" in readme[8]
    assert str(folder) not in "".join(readme)
    assert "Round by round" in (folder / "report.html").read_text()

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = run(given, folder)
    assert again == done
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        run(given, folder, seed=1)


def stages_noted(folder: Path) -> list[str]:
    """Return what a run has come to: stages that are done, and files of stages that are not."""
    if not (folder / "slim.json").exists():
        return []
    return [*note(folder), *(path.name for path in (folder / "work").glob("*"))]


def killed_at_its_end(stage: str, given: Path, folder: Path) -> None:
    """Run, and die once a stage has done all its work and not noted it yet."""
    noted = Journal.write

    def write(journal: Journal) -> None:
        if next(reversed(journal.done), "") == stage:
            os.kill(os.getpid(), signal.SIGKILL)
        noted(journal)

    pytest.MonkeyPatch().setattr(Journal, "write", write)  # for good, in a process that dies
    run(given, folder)


def test_killed_in_every_stage_nothing_is_done_twice_or_lost(
    given: Path, tmp_path: Path, straight: tuple[Slim, list[str]]
) -> None:
    folder, kept, kills = tmp_path / "out", dict[Path, int](), 0
    middle = ["labels", "distil", "round 1, dynamics", "validation"]
    begun = {"labels": "labelled"}  # by what it has come to, where it is no note of its own
    stages = [name for name in note(straight[0].folder) if not name.endswith("begun")]
    for stage in stages:
        target: Any = run if stage in middle else partial(killed_at_its_end, stage)
        process = get_context("fork").Process(target=target, args=(given, folder))
        process.start()
        while stage in middle and process.is_alive() and begun.get(stage, stage) not in stages_noted(folder):
            time.sleep(0.005)
        if stage in middle and process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        kills += stage not in note(folder)
        kept |= {path: path.stat().st_mtime_ns for path in finished(folder)}
    run(given, folder)
    assert kills >= len(stages) - 1  # the middle of one may have been missed
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert list(note(folder)) == list(note(straight[0].folder))
    for name in ("work/pool/pool.samples", "work/labelled/labelled.extxyz"):
        assert (folder / name).read_bytes() == (straight[0].folder / name).read_bytes()
    ours, theirs = (atomslim.load(one / "model.safetensors").state_dict() for one in (folder, straight[0].folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def finished(folder: Path) -> Iterator[Path]:
    """Give the files of stages that are done."""
    of = {"labels": ["labelled", "held-out"], "student": ["student.safetensors"], "model": ["../model.safetensors"]}
    for stage in note(folder):
        for name in of.get(stage, [stage]):
            path = folder / "work" / name
            yield from [path] if path.is_file() else (one for one in path.rglob("*") if one.is_file())


def refused(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    assert main(["slim", *tokens]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("atomslim: error: ")
    assert not [line for line in lines if "Traceback" in line]
    return lines[-1]


def test_wrong_use_is_one_line(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, cu = str(tmp_path / "out"), str(given / "cu.xyz")
    assert "name structures and a teacher" in refused(capsys, cu, "-o", out)
    assert "there is no run to resume" in refused(capsys, "-o", out, "--resume")
    assert "is.xyz" in refused(capsys, str(tmp_path / "is.xyz"), "--teacher", EMT_NAME, "-o", out)
    assert "nowhere" in refused(capsys, cu, "--teacher", "ase:nowhere:Calculator", "-o", out)
    both = ("--speedup", "10", "--ms-per-step", "5")
    assert "give one of speedup" in refused(capsys, cu, "--teacher", EMT_NAME, "-o", out, *both)
    assert "budget" in refused(capsys, cu, "--teacher", EMT_NAME, "-o", out, "--budget", "5 epochs")
    assert "did you mean force_bar" in refused(capsys, cu, "--teacher", EMT_NAME, "-o", out, "--set", "force_bra=3")
    write(tmp_path / "atom.xyz", bulk("Cu"))
    assert "a single atom has no forces" in refused(
        capsys, str(tmp_path / "atom.xyz"), "--teacher", EMT_NAME, "-o", out
    )
    assert not Path(out).exists()


def test_a_teacher_that_raises_and_a_speed_that_nothing_has(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising() -> Any:
        class Raises(EMT):
            def calculate(self, *_: Any, **__: Any) -> None:
                raise RuntimeError("SCF did not converge")

        return Raises()  # type: ignore[no-untyped-call]

    with pytest.raises(AtomslimError, match=r"no labels for any structure; .*SCF did not converge"):
        slim(given / "cu.xyz", raising, tmp_path / "out", **QUICK)
    slow = Candidate(
        "mini", "embedded model", Recipe("mini", "conservative"), 1, False, 5.0, 0.0, Gain(0.5, 0.5, 0.0, 1)
    )
    there = Candidates("EMT", 2.5, ("Cu",), 2.0, (slow,))
    monkeypatch.setattr(preparing, "candidates", lambda *_, **__: there)
    with pytest.raises(ConfigError, match=r"no student is as fast; the nearest is mini with 0.500 ×"):
        slim(given / "cu.xyz", EMT, tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*:atomslim.errors.AtomslimWarning")
def test_the_readout_of_a_cut_of_the_teacher_is_fitted_and_its_features_learned_before_training(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = energy_and_forces("tiny", forces="conservative", graph=all_neighbours(4.0))
    full = tmp_path / "full.safetensors"
    atomslim.save(jmp(task, num_blocks=2, sum_scale=1.0).float(), full)
    cut = Recipe(str(full), "conservative", blocks=(1,))
    one = Candidate("1 of 2 blocks", "cut of the teacher", cut, 1, True, 1.0, 0.0, Gain(20, 20, 0.0, 1))
    there = Candidates("full", 20.0, ("Cu",), 2.0, (one,))
    monkeypatch.setattr(preparing, "candidates", lambda *_, **__: there)
    few = QUICK | {"rounds": 0, "steps": 1, "distil_features": 0.5}
    done = slim(given / "cu.xyz", str(full), tmp_path / "out", **few)
    history = atomslim.load(done.model).history
    assert list(note(done.folder)).index("features") < list(note(done.folder)).index("distil")
    assert (done.folder / "work" / "features" / "best.safetensors").is_file()
    with pytest.raises(ConfigError, match="is not known as a cut"):
        slim(given / "cu.xyz", str(full), tmp_path / "no", student=str(given / "tiny.safetensors"), **few)
    assert [entry["realign"] for entry in history if "realign" in entry] == ["least-squares-forces"]
    assert note(done.folder)["fit"]["fitted"]
    assert f"Licence: that of {full}, which it is a cut of" in (done.folder / "README.md").read_text()
    sliced, fitted = (atomslim.load(done.folder / "work" / f"{name}.safetensors") for name in ("student", "fitted"))
    assert not torch.equal(*(model.readout_maps()["node"].weight() for model in (sliced, fitted)))


def test_a_control_has_the_labels_of_a_run_and_random_weights(
    given: Path, straight: tuple[Slim, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, few = straight[0].folder, {"rounds": 0, "steps": 1}
    done = run(given, tmp_path / "control", start="random", labels_of=str(other), **few)
    stages = note(done.folder)
    assert {name: stages[name] for name in ("teacher", "pool", "labels")} == {
        name: note(other)[name] for name in ("teacher", "pool", "labels")
    }
    for name in ("train.samples", "labelled/labelled.samples"):
        assert (done.folder / "work" / name).read_bytes() == (other / "work" / name).read_bytes()
    before, drawn = (
        atomslim.load(done.folder / "work" / name).state_dict()
        for name in ("student.safetensors", "random.safetensors")
    )
    matrices = [name for name, weight in before.items() if weight.dim() > 1 and bool(weight.any())]
    assert matrices
    for name in matrices:
        alike = torch.nn.functional.cosine_similarity(before[name].flatten(), drawn[name].flatten(), dim=0)
        assert abs(float(alike)) < 0.9
    assert sum(map(torch.numel, before.values())) == sum(map(torch.numel, drawn.values()))
    assert stages["student"]["name"].endswith("with random weights")
    assert "with random weights" in (done.folder / "README.md").read_text()
    write(tmp_path / "other.xyz", bulk("Cu", cubic=True, a=3.65))
    with pytest.raises(ConfigError, match="has other structures"):
        slim(tmp_path / "other.xyz", EMT, tmp_path / "no", **(QUICK | {"labels_of": str(other)}))
    out = str(tmp_path / "no")
    nothing = ("--labels-of", str(tmp_path), "--start", "random")
    assert "that has its labels" in refused(capsys, str(given / "cu.xyz"), "--teacher", EMT_NAME, "-o", out, *nothing)
    assert not Path(out).exists()


def test_the_demo_gives_three_structures_of_paracetamol_to_slim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(demo, "slim", lambda *given, **options: asked.update(options, given=given))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "student.safetensors").touch()  # a student that is there is not made again
    demo.slim_demo(tmp_path / "new", print, budget="5min")
    structures, teacher, output = asked.pop("given")
    assert [atoms.get_chemical_formula() for atoms in iread(structures)] == ["C8H9NO2"] * 3
    assert (teacher, output, asked.pop("tell")) == ("mini-smooth", tmp_path / "new" / "slim", print)
    assert SlimOptions(**asked).seconds == 300
    assert asked["student"] == str(tmp_path / "new" / "student.safetensors")
    assert asked["steps"] > 0  # and not what a busy machine leaves of a budget
