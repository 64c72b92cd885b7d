"""A family that another package brings: everything works on it through one entry point, or is refused by name."""

import re
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

import atomslim
from atomslim.atoms import from_ase
from atomslim.cli.main import main
from atomslim.compress.neighbours import with_neighbours
from atomslim.compress.realign import realign
from atomslim.errors import AtomslimError, CheckpointError, ConfigError
from atomslim.models import GraphSettings, energy_and_forces, registry
from atomslim.models.model_file import export, load, save
from atomslim.testing import check_block_model
from atomslim.train.pretrain import pretrain
from atomslim.train.start import with_tasks
from families.toy import FAMILY, Toy, ToyConfig
from train.water import waters

pytestmark = pytest.mark.filterwarnings("ignore:.*different reference energies")  # no trained model is at hand

TASK = energy_and_forces("springs", forces="conservative", graph=GraphSettings(cutoff=4.4))
CONFIGS = {
    "concat": ToyConfig(),
    "sum": ToyConfig(kind="sum"),
    "last": ToyConfig(kind="last", widths=(6, 6, 6, 6)),
}
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the family known by the entry point of a distribution."""
    about = tmp_path / "site" / "toy-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(f"[{registry.GROUP}]\ntoy = families.toy:FAMILY\n", encoding="utf-8")
    monkeypatch.syspath_prepend(about.parent)
    forget()
    yield
    forget()


def forget() -> None:
    registry.family_names.cache_clear()
    registry.family.cache_clear()


def toy(kind: str = "concat", seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy(CONFIGS[kind], [TASK]).double().eval()


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_kit_passes(kind: str) -> None:
    check_block_model(toy(kind))


def test_the_kit_passes_in_single_precision() -> None:
    check_block_model(toy("sum"), dtype=torch.float32)


@pytest.mark.parametrize("kind", CONFIGS)
def test_least_squares_find_the_readout_again(kind: str) -> None:
    """Where the cut model's features are the full one's, those of a readout that knows nothing are fitted exactly."""
    full = toy(kind)
    small = full.with_blocks([1, 2, 3])
    small.readout_maps()["node"].draw()
    batch = from_ase([sample.to_ase() for sample in waters(60)])
    graphs = full.topology(batch)
    fits = realign(small, full, [(batch, graphs)], ridge=1e-9)
    assert fits["node"].fitted == pytest.approx(1.0)
    found, expected = small.predict(batch, "springs", graphs), full.predict(batch, "springs", graphs)
    torch.testing.assert_close(found["energy"], expected["energy"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("way", ["sliced", "random", "least-squares"])
def test_every_cut_and_realignment_works(kind: str, way: Any) -> None:
    full, data = toy(kind), {"springs": waters(16)} if way == "least-squares" else None
    small = atomslim.keep_blocks(full, [1, 3], realign=way, calibration=data)
    assert small.block_ids == (1, 3)
    batch = from_ase(molecule("H2O"))
    sliced = atomslim.keep_blocks(full, [1, 3]).predict(batch)["energy"]
    assert bool(torch.equal(small.predict(batch)["energy"], sliced)) == (way == "sliced")


def test_relevance_counts_what_the_readout_sees() -> None:
    last = atomslim.block_relevance(toy("last"), {"springs": waters(8)}, leave_out=False)
    assert len(last.tasks["springs"].gradcam["node"].mean) == 4


def test_files_name_the_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(toy("sum"), tmp_path / "toy.safetensors")
    again = load(tmp_path / "toy.safetensors")
    assert isinstance(again, Toy)
    assert again.config == CONFIGS["sum"]
    assert main(["info", str(tmp_path / "toy.safetensors")]) == 0
    assert "family toy" in capsys.readouterr().out


def test_a_file_of_a_family_that_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(toy(), tmp_path / "toy.safetensors")
    monkeypatch.setattr("sys.path", [path for path in import_module("sys").path if not path.endswith("site")])
    forget()
    with pytest.raises(CheckpointError, match=r"toy\.safetensors: .*unknown family of models 'toy': there are .*jmp"):
        load(tmp_path / "toy.safetensors")


def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(toy(), tmp_path / "toy.safetensors")
    monkeypatch.setattr(type(FAMILY), "package", "toy-engine")
    for what in (tmp_path / "toy.safetensors", "toy:small"):
        with pytest.raises(ConfigError, match=re.escape("need the package toy-engine")) as caught:
            load(what)
        assert "pip install 'atomslim[toy]'" in str(caught.value)


def test_outputs_of_atoms_reach_calculator_and_files(tmp_path: Path) -> None:
    atoms = molecule("CH3OH")
    atoms.calc = atomslim.Calculator(toy())
    atoms.get_potential_energy()
    assert atoms.calc.results["charges"].shape == (6,)
    save(toy(), tmp_path / "toy.safetensors")
    write(tmp_path / "in.xyz", molecule("H2O"))
    target = tmp_path / "out.extxyz"
    assert main(["predict", str(tmp_path / "toy.safetensors"), str(tmp_path / "in.xyz"), "-o", str(target)]) == 0
    found = read(target)
    assert isinstance(found, Atoms)
    expected = toy().predict(from_ase(molecule("H2O")))["charges"]
    np.testing.assert_allclose(found.calc.results["charges"], expected, atol=1e-6)


def test_heads_are_reused_where_fresh_ones_are_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 1, "progress": False, "split": {"train": 6, "validation": 2}}
    tuned = atomslim.finetune(toy(), waters(8), output=tmp_path / "run", heads="reuse", **options)
    assert isinstance(tuned, Toy)
    with pytest.raises(ConfigError, match="Toy models cannot be given fresh heads"):
        atomslim.finetune(toy(), waters(8), output=tmp_path / "other", heads="fresh", **options)


DIRECT = energy_and_forces("direct", forces="direct", graph=GraphSettings(cutoff=4.4))
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "packages": (lambda folder: atomslim.package(toy(), folder / "toy.pt2"), "cannot be compiled into packages"),
    "export": (lambda folder: export(toy(), folder / "toy.pt"), "cannot be written in a format of their own"),
    "neighbours": (lambda _: with_neighbours(toy(), 5), "have no cap on neighbours"),
    "direct forces": (lambda _: with_tasks(toy(), [DIRECT], reuse="springs"), "have no direct forces"),
    "pre-training": (
        lambda folder: pretrain({"family": "toy", "sizes": {}, "tasks": [{"data": "x"}]}, output=folder / "run"),
        "cannot be made from sizes",
    ),
    "names": (lambda _: load("toy:small"), "Toy models have no names"),
}


@pytest.mark.parametrize("capability", REFUSED)
def test_what_a_family_cannot_do_is_refused_by_name(capability: str, tmp_path: Path) -> None:
    act, words = REFUSED[capability]
    with pytest.raises(AtomslimError, match="Toy models " + words.removeprefix("Toy models ")):
        act(tmp_path)


def test_the_families_that_come_along_are_entry_points() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = {name for name in registry.family_names() if (ROOT / "src" / "atomslim" / "families" / name).exists()}
    ours |= {path.stem for path in (ROOT / "src" / "atomslim" / "families").glob("[a-z]*.py")}
    assert project["entry-points"][registry.GROUP] == {name: f"{registry.GROUP}.{name}:FAMILY" for name in ours}
    assert all(registry.family(name).name == name for name in ours)
