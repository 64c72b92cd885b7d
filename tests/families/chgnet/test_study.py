"""A study of cuts finer than blocks and without blocks of the middle: every kind of cell does real work."""

from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

import atomslim
from atomslim.errors import ConfigError
from atomslim.inference.predict import predict_file
from atomslim.study.cells import Cell
from atomslim.study.options import StudyOptions
from atomslim.study.study import run_study
from atomslim.study.work import Workshop
from chgnet_models import package_model, saved


@pytest.mark.filterwarnings("ignore:least-squares")
def test_finer_cuts_are_cells_beside_blocks(tmp_path: Path) -> None:
    model = saved(package_model(n_conv=3), tmp_path / "model.pth.tar")
    structures = [bulk("MgO", "rocksalt", a=4.3) for _ in range(6)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=seed)
    write(tmp_path / "frames.xyz", structures)
    predict_file(model, str(tmp_path / "frames.xyz"), tmp_path / "labelled.xyz", progress=False)
    options = StudyOptions.model_validate(
        {
            "model": str(model),
            "mix": [
                {"name": "chgnet", "data": f"xyz:{tmp_path / 'labelled.xyz'}", "split": {"train": 4, "validation": 2}}
            ],
            "blocks": [2],
            "without": ["bonds 1", "block 2"],
            "cutoffs": [4.0],
            "realign": ["sliced", "least-squares-forces", "hand-over"],
            "calibration": 4,
            "relevance": 0,
            "distill": {
                "start": ["least-squares-forces", "hand-over"],
                "steps": 1,
                "batch_size": 4,
                "validate_every": "100%",
            },
            "speed": None,
        }
    )
    results = run_study(options, tmp_path / "study", say=lambda _: None)
    assert {cell.name: results.board.error(cell) for cell, one in results.board.states().items() if one != "done"} == {}
    for variant in results.variants:
        assert results.reduced(variant, results.tasks[0]) is not None, variant
    full = atomslim.load(model)
    for cut, small in {"bonds 1": full.without_units(["bonds 1"]), "block 2": full.with_blocks([1, 3])}.items():
        sizes = {results.parameters(variant) for variant in results.finer if variant.without == cut}
        assert sizes == {sum(one.numel() for one in small.parameters())}
    handed = {variant.cut for variant in results.variants if variant.strategy.startswith("hand-over")}
    assert handed == {(None, "block 2", None)}
    start = atomslim.load(
        tmp_path / "study/cells/distill-hand-over-distilled-without-block-2-seed0/run/best.safetensors"
    )
    (entry,) = [one for one in start.history if "hand-over" in one]
    assert [one["block"] for one in entry["hand-over"]] == [3]


def test_a_hand_over_needs_a_cut_with_a_gap_and_blocks_need_to_be_there(tmp_path: Path) -> None:
    model = saved(package_model(n_conv=2), tmp_path / "model.pth.tar")
    options = {"model": str(model), "blocks": [1], "realign": ["hand-over"], "relevance": 0, "speed": None}
    with pytest.raises(ValueError, match=r"hand-over: is for cuts without a block of the middle"):
        StudyOptions.model_validate(options | {"without": ["bonds 1"]})
    frames = tmp_path / "frames.xyz"
    write(frames, bulk("MgO", "rocksalt", a=4.3))
    mix = [{"name": "chgnet", "data": f"xyz:{frames}"}]
    study = StudyOptions.model_validate(options | {"realign": ["sliced"], "without": ["block 4"], "mix": mix})
    work = Workshop(study, tmp_path)
    with pytest.raises(ConfigError, match=r"without 'block 4': no block 4; the model has \[1, 2\]"):
        work.do(Cell("reduce", "sliced", without="block 4"), tmp_path)
