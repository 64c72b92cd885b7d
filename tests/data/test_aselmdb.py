"""Databases of ASE in an LMDB, `.aselmdb`: rows, folders of files, and what is broken."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atomslim.data.readers import ase_files
from data.complaints import complaint
from data.made_samples import STRESS, crystal

ROW = {
    "numbers": {"__ndarray__": [[2], "int64", [11, 17]]},
    "positions": {"__ndarray__": [[2, 3], "float64", [0.0, 0.0, 0.0, 2.8, 2.8, 2.8]]},
    "cell": {"__ndarray__": [[3, 3], "float64", [0.0, 2.8, 2.8, 2.8, 0.0, 2.8, 2.8, 2.8, 0.0]]},
    "pbc": {"__ndarray__": [[3], "bool", [True, True, True]]},
    "energy": -3.5,
    "forces": {"__ndarray__": [[2, 3], "float64", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]]},
    "stress": {"__ndarray__": [[6], "float64", [1.0, 2.0, 3.0, 0.6, 0.5, 0.4]]},
    "data": {"source_id": "mp-1", "Gap": 1.5},
    "key_value_pairs": {"family": "salt"},
}


def aselmdb(path: Path, rows: dict[int, Any], *, nextid: bool = True) -> Path:
    lmdb = pytest.importorskip("lmdb", reason="needs the data extra")
    with lmdb.open(str(path), subdir=False, map_size=2**24) as file, file.begin(write=True) as transaction:
        for number, row in rows.items():
            content = row if isinstance(row, bytes) else zlib.compress(json.dumps(row).encode())
            transaction.put(b"%d" % number, content)
        if nextid:
            transaction.put(b"nextid", zlib.compress(b"%d" % (max(rows, default=0) + 1)))
            transaction.put(b"deleted_ids", zlib.compress(b"[2]"))
    path.with_name(f"{path.name}-lock").unlink(missing_ok=True)
    return path


def test_rows_of_an_aselmdb(tmp_path: Path) -> None:
    path = aselmdb(tmp_path / "a.aselmdb", {1: ROW, 3: ROW | {"energy": -4.5}, 10: ROW | {"energy": -5.5}})
    samples = list(ase_files.read(path, properties=("gap",), group_key="family"))
    assert [float(sample.targets["energy"]) for sample in samples] == [-3.5, -4.5, -5.5]
    assert ase_files.count(path) == 3
    assert samples[0].targets["stress"] == pytest.approx(STRESS)
    assert samples[0].targets["forces"] == pytest.approx(np.arange(6.0).reshape(2, 3) + 0.5)
    assert float(samples[0].targets["gap"]) == 1.5
    assert samples[0].cell == pytest.approx(crystal().cell.array)
    assert samples[0].pbc.all()
    assert samples[0].group == "salt"
    assert samples[2].name == f"{path}, record 10"


def test_a_folder_of_aselmdb_files_is_read_in_order(tmp_path: Path) -> None:
    aselmdb(tmp_path / "b.aselmdb", {1: ROW | {"energy": -2.0}}, nextid=False)
    aselmdb(tmp_path / "a.aselmdb", {1: ROW, 2: ROW}, nextid=False)
    assert [float(sample.targets["energy"]) for sample in ase_files.read(tmp_path)] == [-3.5, -3.5, -2.0]
    assert ase_files.count(tmp_path) == 3


def test_constraints_and_labels_in_the_data_of_a_row(tmp_path: Path) -> None:
    constraint = [{"name": "FixAtoms", "kwargs": {"indices": [1]}}]
    row = {name: value for name, value in ROW.items() if name not in {"energy", "stress"}}
    row |= {"data": {"Energy": -7.0}, "constraints": constraint, "tags": {"__ndarray__": [[2], "int64", [1, 2]]}}
    for form in (constraint, json.dumps(constraint)):
        path = aselmdb(tmp_path / f"{type(form).__name__}.aselmdb", {1: row | {"constraints": form}})
        sample = next(ase_files.read(path))
        assert float(sample.targets["energy"]) == -7
        assert sample.targets["forces"][1].tolist() == [3.5, 4.5, 5.5]
        assert sample.fixed.tolist() == [False, True]
        assert sample.tags.tolist() == [1, 2]


def ndarray(shape: list[int], kind: str, numbers: list[Any]) -> dict[str, Any]:
    return {"__ndarray__": [shape, kind, numbers]}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (b"hello", "record 1: cut off or damaged"),
        (zlib.compress(json.dumps(ROW).encode())[:-20], "record 1: cut off or damaged"),
        (zlib.compress(b"{"), "record 1: cut off or damaged"),
        (zlib.compress(b"[1]"), "record 1: cannot be read"),
        ({name: value for name, value in ROW.items() if name != "numbers"}, "record 1: cannot be read"),
        (ROW | {"forces": ndarray([1, 3], "float64", [1, 2, 3])}, "record 1: forces has the shape (1, 3)"),
        (ROW | {"forces": ndarray([2, 3], "float64", [1, 2, 3])}, "record 1: cut off or damaged"),
        (ROW | {"forces": ndarray([2, 3], "object", [1, 2, 3, 4, 5, 6])}, "record 1: cut off or damaged"),
        (
            ROW | {"forces": ndarray([2, 3], "float64", [float("nan"), *[1.0] * 5])},
            "record 1: forces (row 0) not finite",
        ),
        (ROW | {"numbers": ndarray([3], "int64", [1, 2, 3])}, "record 1: cannot be read"),
        (ROW | {"stress": ndarray([5], "float64", [1, 2, 3, 4, 5])}, "record 1: the stress has 5 numbers"),
        (ROW | {"energy": "low"}, "record 1: the energy is not a number"),
    ],
)
def test_wrong_rows_of_an_aselmdb_are_named(row: Any, what: str, tmp_path: Path) -> None:
    path = aselmdb(tmp_path / "a.aselmdb", {1: row})
    assert complaint(ase_files.read(path), what).startswith(f"{path}, ")


def test_broken_aselmdb_files_are_named(tmp_path: Path) -> None:
    path = aselmdb(tmp_path / "a.aselmdb", {})
    complaint(ase_files.read(path), f"{path}: the file holds no structures")
    path = aselmdb(tmp_path / "b.aselmdb", dict.fromkeys(range(1, 50), ROW))
    whole = path.read_bytes()
    for size in (0, 1000, 2 * len(whole) // 3):
        broken = tmp_path / f"{size}.aselmdb"
        broken.write_bytes(whole[:size])
        complaint(ase_files.read(broken), broken)
    complaint(ase_files.read(tmp_path / "missing.aselmdb"), "missing.aselmdb: there is no such file")
    (tmp_path / "empty").mkdir()
    complaint(ase_files.read(tmp_path / "empty"), "the folder holds no files of structures")
