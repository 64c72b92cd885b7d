from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atomslim.data.readers import transition1x
from atomslim.errors import DataError
from data.graph_objects import molecule, pickled_list
from data.hdf5_files import conformations, import_h5py, write_hdf5


def reaction(**changes: Any) -> dict[str, Any]:
    """Columns of a reaction: the energies of its three frames are -40, -39, -38."""
    columns = conformations()
    renamed = {
        "atomic_numbers": columns["atomic_numbers"],
        "positions": columns["coordinates"],
        "wB97x_6-31G(d).energy": columns["wb97x_dz.energy"],
        "wB97x_6-31G(d).forces": columns["wb97x_dz.forces"],
    }
    return {name: value for name, value in (renamed | changes).items() if value is not None}


def dataset(path: Path, *, union: bool = True) -> Path:
    """Write two reactions for training and one for validation, and their union."""
    splits = {"train/CH4/rxn0001": reaction(), "train/CH4/rxn0002": reaction(), "val/C2H6/rxn0003": reaction()}
    both = {name.replace("train", "data").replace("val", "data"): columns for name, columns in splits.items()}
    return write_hdf5(path, splits | (both if union else {}))


@pytest.mark.parametrize("union", [True, False])
def test_everything_is_read_once(tmp_path: Path, union: bool) -> None:
    path = dataset(tmp_path / "t.h5", union=union)
    groups = [sample.group for sample in transition1x.read(path)]
    assert sorted(groups) == ["C2H6/rxn0003"] * 3 + ["CH4/rxn0001"] * 3 + ["CH4/rxn0002"] * 3
    assert transition1x.count(path) == 9


def test_splits_are_read_by_name(tmp_path: Path) -> None:
    path = dataset(tmp_path / "t.h5")
    assert {sample.group for sample in transition1x.read(path, "train")} == {"CH4/rxn0001", "CH4/rxn0002"}
    assert {sample.group for sample in transition1x.read(tmp_path, "val")} == {"C2H6/rxn0003"}
    assert [transition1x.count(path, name) for name in ("train", "val", "data")] == [6, 3, 9]
    with pytest.raises(DataError, match=r"t.h5: has no split 'test' \(there are: data, train, val\)"):
        list(transition1x.read(path, "test"))


def test_nothing_is_converted(tmp_path: Path) -> None:
    path = dataset(tmp_path / "t.h5")
    sample = next(transition1x.read(path, "val"))
    assert sample.targets["energy"] == -40.0
    assert (sample.targets["forces"] == 0.5).all()
    assert sample.name == f"{path}, val/C2H6/rxn0003, conformation 0"
    assert not sample.pbc.any()


def test_reactants_products_and_transition_states_are_not_used(tmp_path: Path) -> None:
    ends = {f"train/CH4/rxn0001/{end}": reaction() for end in ("reactant", "transition_state", "product")}
    path = write_hdf5(tmp_path / "t.h5", {"train/CH4/rxn0001": reaction(), **ends})
    assert len(list(transition1x.read(path))) == transition1x.count(path) == 3


def test_lists_are_read_with_the_name_of_the_reaction(tmp_path: Path) -> None:
    (tmp_path / "train.pkl").write_bytes(pickled_list(molecule(sid=33), molecule(sid=None)))
    first, second = transition1x.read(tmp_path)
    assert (first.group, second.group) == ("CH4/rxn0033", "CH4")
    assert first.targets["energy"] == -1100.5
    assert transition1x.count(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wB97x_6-31G(d).energy": None}, r"has no wB97x_6-31G\(d\).energy"),
        ({"positions": np.zeros((3, 4, 3))}, r"positions has the shape \(3, 4, 3\)"),
        ({"wB97x_6-31G(d).forces": np.full((3, 5, 3), np.nan)}, r"conformation 0: forces \(row 0\) not finite"),
    ],
)
def test_a_broken_reaction_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_hdf5(tmp_path / "t.h5", {"train/CH4/rxn0001": reaction(), "train/CH4/rxn0002": reaction(**changes)})
    with pytest.raises(DataError, match=rf"t\.h5, train/CH4/rxn0002.*{message}") as caught:
        list(transition1x.read(path))
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = dataset(tmp_path / "t.h5")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"t.h5: cut off or damaged"):
        list(transition1x.read(path))
    write_hdf5(path, {"train/CH4": {}})
    with pytest.raises(DataError, match=r"t.h5, train/CH4: is empty"):
        list(transition1x.read(path))
    write_hdf5(path, {"molecules": {}})
    with pytest.raises(DataError, match=r"t.h5: has no split 'data' \(there are: molecules\)"):
        list(transition1x.read(path))


def test_real_lists_are_the_frames_of_the_h5(data_folder: Path) -> None:
    import_h5py()
    folder = data_folder / "transition1x"
    for split in ("train", "val"):
        frames = {}
        for sample in transition1x.read(folder / "transition1x_layout_32.h5", split):
            frames[sample.group, float(sample.targets["energy"])] = sample
        listed = list(transition1x.read(folder / f"trans1x_pickle16_{split}.pkl"))
        assert len(frames) == len(listed) == 16
        for sample in listed:
            other = frames[sample.group, float(sample.targets["energy"])]
            np.testing.assert_array_equal(sample.numbers, other.numbers)
            np.testing.assert_array_equal(sample.positions, other.positions)
            np.testing.assert_array_equal(sample.targets["forces"], other.targets["forces"])


def test_real_h5(data_folder: Path) -> None:
    import_h5py()
    path = data_folder / "transition1x" / "transition1x_layout_32.h5"
    samples = list(transition1x.read(path))
    assert len(samples) == transition1x.count(path) == 32
    assert {*np.concatenate([sample.numbers for sample in samples])} == {1, 6, 7, 8}
    assert np.std(np.concatenate([s.targets["forces"].ravel() for s in samples])) == pytest.approx(0.234, abs=1e-3)
    train, validation = ({s.group for s in transition1x.read(path, split)} for split in ("train", "val"))
    assert not train & validation
    # −13.6 eV for each hydrogen and about −1030 (C), −1485 (N), −2042 (O) show that these are totals in eV.
    atoms = {1: -13.6, 6: -1030.0, 7: -1485.0, 8: -2042.0}
    for sample in samples:
        estimate = sum(atoms[int(number)] for number in sample.numbers)
        assert sample.targets["energy"] == pytest.approx(estimate, rel=0.02)
