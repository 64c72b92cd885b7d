"""MACE models on the command line: what each command makes of them, and what is refused, first and by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ase.build import molecule
from ase.io import read, write

pytest.importorskip("families.mace.needed", exc_type=ImportError)

import atomslim
from atomslim.atoms import from_ase
from atomslim.cli.main import main
from families.mace.package_models import saved
from train.water import waters

FEW = ["--steps", "1", "--set", "batch_size=4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of three blocks, and labelled frames of water."""
    made = tmp_path_factory.mktemp("commands")
    saved(made / "a.model", dtype=torch.float32, num_interactions=3, correlation=1, hidden_irreps="4x0e+4x1o")
    write(made / "w.xyz", [sample.to_ase() for sample in waters(20)])
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def energy(path: str) -> float:
    return float(atomslim.load(path).predict(from_ase(molecule("H2O")))["energy"])


def test_nothing_but_the_result_is_on_standard_output(here: Path) -> None:
    """The package prints while it is imported."""
    program = "import sys; from atomslim.cli.main import main; sys.exit(main())"
    line = [sys.executable, "-c", program, "info", "a.model", "--json"]
    environ = os.environ | {"PYTHONPATH": str(Path(atomslim.__file__).parents[1])}
    done = subprocess.run(line, cwd=here, env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["blocks"] == [1, 2, 3]


@pytest.mark.usefixtures("here")
@pytest.mark.filterwarnings("ignore:.*different reference energies")  # springs know nothing of its energies
def test_a_model_is_shown_evaluated_scored_cut_and_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Every re-alignment gives a model; those that the package has a place for go back to it with the same numbers."""
    for line in (
        "info a.model",
        "predict a.model w.xyz -o out.xyz",
        "evaluate a.model w.xyz",
        "relevance a.model w.xyz -o rel --no-leave-out",
        "prune a.model -o sliced.safetensors --drop-lowest 1 --relevance rel/relevance.json --export sliced.model",
        "prune a.model -o random.safetensors --keep 1,3 --realign random --export random.model",
        "prune a.model -o fitted.safetensors --keep 3 --realign least-squares --data w.xyz",
        "prune a.model -o forces.safetensors --keep 1,3 --realign least-squares-forces --data w.xyz",
        "prune a.model -o few.safetensors --max-params 1K",
        "compare a.model sliced.safetensors --data w.xyz -o compare --no-speed",
        "benchmark a.model --structures w.xyz --blocks 1 --mode energy,forces,train --repeats 1 -o bench",
    ):
        assert main(line.split()) == 0, (line, capsys.readouterr().err)
    assert len(read("out.xyz", ":")) == 20
    for name in ("sliced", "random"):
        assert energy(f"{name}.model") == pytest.approx(energy(f"{name}.safetensors"), abs=2e-5)


@pytest.mark.usefixtures("here")
@pytest.mark.filterwarnings("ignore:.*different reference energies")  # springs know nothing of its energies
def test_models_are_distilled_and_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    small = "prune a.model -o small.safetensors --keep 1,2"
    for line in (small, "distill small.safetensors a.model w.xyz -o kd", "finetune kd/best.safetensors w.xyz -o ft"):
        assert main([*line.split(), *(FEW if " -o kd" in line or " -o ft" in line else [])]) == 0, (
            line,
            capsys.readouterr().err,
        )
    assert atomslim.load("ft/best.safetensors").block_ids == (1, 2)


REFUSED = {
    "prune a.model -o no.safetensors --keep 1,3 --hand-over --data w.xyz": "no map of their input fits",
    "prune a.model -o no.safetensors --cutoff 3.5": "cannot be given another cutoff without training",
    "prune a.model -o no.safetensors --neighbours 10": "have no cap on neighbours",
    "prune a.model -o no.json --scan-neighbours 10 --data w.xyz": "have no cap on neighbours",
    "prune a.model -o no.safetensors --without angles": "has nothing that is finer than its blocks",
    "prune a.model -o no.safetensors --keep 3 --realign least-squares --data w.xyz --export no.model": "realign sliced",
    "package a.model -o no.pt2": "cannot be compiled into packages",
    "finetune a.model w.xyz -o no --steps 1 --forces direct": "have no direct forces",
    "finetune a.model w.xyz -o no --steps 1 --set cutoff=3": "cutoff 3 Å: that of a MACE model is part of it",
    "finetune a.model w.xyz -o no --steps 1 --set neighbours=9": "have no cap on neighbours",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_is_refused_first_and_by_name(line: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 1
    said = capsys.readouterr().err
    assert REFUSED[line] in " ".join(said.split())
    assert not list(here.glob("no*"))
    if "least-squares" not in line:
        assert "labels of" not in said  # the data has not been looked at
