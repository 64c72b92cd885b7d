"""Real files of OC20 and OC22."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from atomslim.atoms.sample import Sample
from atomslim.data.readers import oc20, oc22
from data.graph_objects import import_lmdb, same


@pytest.mark.parametrize(
    ("variant", "count", "systems", "spread"), [("train", 504, 21, 0.376), ("val_id", 144, 6, 0.391)]
)
def test_oc20_real(data_folder: Path, variant: str, count: int, systems: int, spread: float) -> None:
    import_lmdb()
    folder = data_folder / "oc20" / "s2ef"
    samples = list(oc20.read(folder, variant))
    assert len(samples) == oc20.count(folder, variant) == count
    assert len({sample.group for sample in samples}) == systems
    natoms = oc20.natoms(folder, variant)
    assert natoms is not None
    assert natoms.tolist() == [len(sample) for sample in samples]
    assert all(sample.pbc.all() and sample.fixed.any() and set(sample.tags) == {0, 1, 2} for sample in samples)
    assert np.std(np.concatenate([sample.targets["forces"].ravel() for sample in samples])) == pytest.approx(
        spread, abs=1e-3
    )


def test_oc20_real_systems_are_on_one_side_of_the_split(data_folder: Path) -> None:
    import_lmdb()
    folder = data_folder / "oc20" / "s2ef"
    train, validation = ({sample.group for sample in oc20.read(folder, name)} for name in ("train", "val_id"))
    assert not train & validation


def test_oc20_real_raw_files_and_trajectories_are_the_records_of_the_lmdb(data_folder: Path) -> None:
    import_lmdb()
    records = {_key(sample): sample for sample in oc20.read(data_folder / "oc20" / "s2ef", "val_id")}
    frames = list(oc20.read(data_folder / "oc20" / "s2ef_raw"))
    assert len(frames) == oc20.count(data_folder / "oc20" / "s2ef_raw") == 50
    for frame in frames:
        same(frame, records[_key(frame)], tolerance=2e-6)
    trajectories = list(oc20.read(data_folder / "oc20" / "traj"))
    assert len(trajectories) == oc20.count(data_folder / "oc20" / "traj") == 36 + 27
    known = [frame for frame in trajectories if _key(frame) in records]
    assert len(known) >= 40
    for frame in known:
        same(frame, records[_key(frame)], tolerance=2e-6, names=("fixed",))  # trajectories have no tags
        assert set(frame.tags) == {2}


def _key(sample: Sample) -> tuple[str, float]:
    return sample.group, round(float(sample.targets["energy"]), 6)


@pytest.mark.parametrize("folder", ["s2ef_raw", "traj", "s2ef/val_id", "s2ef/train"])
def test_oc20_real_energy_falls_along_the_forces(data_folder: Path, folder: str) -> None:
    """Between near frames of a relaxation dE ≈ −F̄·dx: the sign of the forces, and atoms in one order throughout."""
    import_lmdb()
    predicted, actual = [], []
    samples = list(oc20.read(data_folder / "oc20" / folder))
    for one, other in pairwise(samples):
        if one.group != other.group:
            continue
        step = other.positions - one.positions
        if 0 < np.abs(step).max() < 0.3:
            predicted.append(-float(np.sum((one.targets["forces"] + other.targets["forces"]) / 2 * step)))
            actual.append(float(other.targets["energy"] - one.targets["energy"]))
    assert len(predicted) > 20
    assert np.corrcoef(predicted, actual)[0, 1] > 0.9
    assert np.polyfit(predicted, actual, 1)[0] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("variant", "list_file"), [("train", "train"), ("val_id", "val")])
def test_oc22_real_lists_are_the_records_of_the_lmdb(data_folder: Path, variant: str, list_file: str) -> None:
    import_lmdb()
    folder = data_folder / "oc22"
    records = list(oc22.read(folder / "s2ef-total", variant))
    listed = list(oc22.read(folder / f"oc22_pickle16_{list_file}.pkl"))
    assert len(records) == len(listed) == oc22.count(folder / "s2ef-total", variant) == 16
    for record, other in zip(records, listed, strict=True):
        same(record, other)
        assert record.group == other.group
    natoms = oc22.natoms(folder / "s2ef-total", variant)
    assert natoms is not None
    assert natoms.tolist() == [len(record) for record in records]
    assert all(record.pbc.all() for record in records)
    assert all(-11 < record.targets["energy"] / len(record) < -3 for record in records)  # totals
    assert any(8 in record.numbers for record in records)
