"""A study of cuts finer than blocks: every kind of cell does real work."""

from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

import atomslim
from atomslim.inference.predict import predict_file
from atomslim.study.options import StudyOptions
from atomslim.study.study import run_study
from chgnet_models import package_model, saved


@pytest.mark.filterwarnings("ignore:least-squares")
def test_finer_cuts_are_cells_beside_blocks(tmp_path: Path) -> None:
    model = saved(package_model(n_conv=2), tmp_path / "model.pth.tar")
    structures = [bulk("MgO", "rocksalt", a=4.3) for _ in range(10)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=seed)
    write(tmp_path / "frames.xyz", structures)
    predict_file(model, str(tmp_path / "frames.xyz"), tmp_path / "labelled.xyz", progress=False)
    options = StudyOptions.model_validate(
        {
            "model": str(model),
            "mix": [
                {"name": "chgnet", "data": f"xyz:{tmp_path / 'labelled.xyz'}", "split": {"train": 8, "validation": 2}}
            ],
            "blocks": [1],
            "without": ["bonds 1"],
            "cutoffs": [4.0],
            "realign": ["sliced", "least-squares-forces"],
            "calibration": 8,
            "relevance": 0,
            "distill": {"start": "least-squares-forces", "steps": 1, "batch_size": 4, "validate_every": "100%"},
            "speed": None,
        }
    )
    results = run_study(options, tmp_path / "study", say=lambda _: None)
    assert {cell.name: results.board.error(cell) for cell, one in results.board.states().items() if one != "done"} == {}
    for variant in results.variants:
        assert results.reduced(variant, results.tasks[0]) is not None, variant
    sizes = {results.parameters(variant) for variant in results.finer if variant.without}
    assert sizes == {sum(one.numel() for one in atomslim.load(model).without_units(["bonds 1"]).parameters())}
