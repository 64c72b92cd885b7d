"""Choosing among CHGNet's blocks, single updates of bonds and angles, and cutoffs."""

from pathlib import Path
from typing import cast

import pytest
from ase.build import bulk
from ase.io import write

import atomslim
from atomslim.cli import main as cli
from atomslim.compress.cheapest import _Answers, _Search, cheapest
from atomslim.compress.choice import Choice, Removal
from atomslim.compress.cuts import Cut
from atomslim.families.chgnet.model import CHGNet
from atomslim.models.modes import parameter_count
from chgnet_models import package_model, saved


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(package_model(), tmp_path / "model.pth.tar")


@pytest.fixture
def frames(tmp_path: Path) -> str:
    structures = [bulk("MgO", "rocksalt", a=4.3) for _ in range(2)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=seed)
    write(tmp_path / "frames.xyz", structures)
    return str(tmp_path / "frames.xyz")


def test_finer_units_are_chosen_beside_blocks_and_what_was_not_needed_comes_back(path: Path, frames: str) -> None:
    model = cast("CHGNet", atomslim.load(path))
    answers = _Answers.of(model, frames, 2, 2)
    cuts = {f"block {gone}": Cut(tuple(one for one in model.block_ids if one != gone)) for gone in model.block_ids}
    cuts |= {unit: Cut(model.block_ids, (unit,)) for unit in model.fine_units}
    costs = {name: answers.difference(cut.of(model), graphs=True) for name, cut in cuts.items()}
    choice = cheapest(model, frames, size=parameter_count(model) - 1, batch_size=2)
    assert choice.removals[0].name == min(costs, key=costs.__getitem__)
    assert len(choice.removals) == 1
    few = cheapest(model, frames, size=parameter_count(Cut((1,)).of(model)) - 1, batch_size=2)
    assert parameter_count(few.cut.of(model)) < parameter_count(Cut((1,)).of(model))
    assert few.count == parameter_count(few.cut.of(model))
    assert not set(few.needless) & set(few.cut.without)


def test_shorter_cutoffs_are_among_what_is_tried(path: Path, frames: str) -> None:
    model = cast("CHGNet", atomslim.load(path))
    search = _Search(model, _Answers.of(model, frames, 1, 1), "FLOPs", (4.0, 3.5))
    whole = Removal("nothing", search.none, 0.0, search.whole)
    tried = {one.name: one for one in search.tried(whole)}
    assert {"block 1", "block 2", "block 3", *model.fine_units} < tried.keys()
    near, nearer = tried["edges beyond 4 Å"], tried["edges beyond 3.5 Å"]
    assert search.whole > near.count >= nearer.count  # fewer edges: less to compute
    assert near.difference > 0
    small = Choice(near.cut, "speed", "FLOPs", search.whole, (near,), near.difference, near.count).apply(model)
    assert small.task().graph.cutoff == 4.0
    assert [entry["operation"] for entry in small.history[-2:]] == ["keep blocks", "shorten cutoff"]
    further = dict(search.further(near.cut))
    assert "edges beyond 3.5 Å" in further
    assert "edges beyond 4 Å" not in further


def test_prune_says_what_was_chosen_and_why(
    path: Path, frames: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, many = tmp_path / "small.safetensors", parameter_count(atomslim.load(path))
    data = ["--data", frames, "--batch-size", "2"]
    assert cli.main(["prune", str(path), "-o", str(small), "--max-params", str(many - 1), "--finer", *data]) == 0
    out = capsys.readouterr().out
    steps = atomslim.load(small).history[-1]["chosen"]["steps"]
    assert f"without {steps[-1]['without']}: " in out
    assert "from the full model before re-alignment" in out
    least = tmp_path / "least.safetensors"
    assert cli.main(["prune", str(path), "-o", str(least), "--max-error", "1e9", "--cutoffs", "4", *data]) == 0
    assert not atomslim.load(least).block_ids  # all that can go went
    for wrong, message in (
        (["--max-params", "1k", "--finer"], "give structures with --data"),
        (["--keep", "1", "--finer", *data], "--keep: --finer, --max-error, --max-ms"),
        (["--max-error", "0.1", "--without", "bonds 1", *data], "--without: --finer, --max-error, --max-ms"),
        (["--max-error", "0.1", "--cutoffs", "five", *data], "--cutoffs five: write numbers, as in 5.5,5,4.5"),
    ):
        assert cli.main(["prune", str(path), "-o", str(tmp_path / "other.safetensors"), *wrong]) == 1
        assert message in capsys.readouterr().err
