"""Labels of 0 and 1 for the models of every family: molecules of water with long bonds or short ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atomslim
from atomslim.atoms import Sample, from_ase
from atomslim.compress.prune import keep_blocks
from atomslim.errors import ConfigError
from atomslim.evaluation.classification import ClassErrors
from atomslim.models import BlockModel
from train.water import waters


def labelled(count: int) -> list[Sample]:
    """Return molecules that say whether their bonds are long."""
    made = waters(count, seed=3)
    lengths = [float(np.linalg.norm(one.positions[1:] - one.positions[0], axis=1).sum()) for one in made]
    middle = np.median(lengths)
    targets = [{"long": np.array(float(length > middle))} for length in lengths]
    return [
        replace(one, targets=own, name=f"water, record {n}")
        for n, (one, own) in enumerate(zip(made, targets, strict=True))
    ]


def require_labels_are_learned(model: BlockModel, folder: Path, *, steps: int = 24, rate: float = 2e-2) -> None:
    """Tune a model on labels: it tells them apart, also pruned and read again; no package can express it."""
    data = labelled(32)
    split = {"train": 24, "validation": 4, "test": 4}
    options: dict[str, Any] = {
        "classify": ("long",),
        "name": "water",
        "ema": None,
        "optimiser": {"learning_rate": rate},
    }
    run: dict[str, Any] = {"steps": steps, "batch_size": 8, "split": split, "progress": False, "output": folder / "run"}
    tuned = atomslim.finetune(model, data, **options, **run)
    found = atomslim.evaluate(tuned, data).errors["long"]
    assert isinstance(found, ClassErrors)
    assert found.roc_auc is not None
    assert found.roc_auc > 0.8
    atomslim.save(keep_blocks(tuned, 1), folder / "cut.safetensors")
    outputs = atomslim.load(folder / "cut.safetensors").predict(from_ase([sample.to_ase() for sample in data[:4]]))
    assert ((outputs["long"] > 0) & (outputs["long"] < 1)).all()
    with pytest.raises(ConfigError, match="energ"):
        atomslim.export(tuned, folder / "tuned.pth")
    assert not (folder / "tuned.pth").exists()
