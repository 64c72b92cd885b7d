import gzip
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

from atomslim.atoms import frames
from atomslim.errors import StructureError
from atomslim.inference.frames import read_frames, read_numbered

WATER = "3\n\nO 0.0 0.0 0.0\nH 0.0 0.0 0.96\nH 0.93 0.0 -0.24\n"


def structures() -> list[Atoms]:
    return [molecule("H2O"), bulk("Cu", cubic=True), molecule("CO2")]


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz", "a.traj", "a.extxyz.gz", "a@0.xyz", "a.db", "a.json"])
def test_reads_every_structure_in_order(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, structures(), format="extxyz" if "xyz" in name else None)
    found = list(read_frames(tmp_path / name))
    assert [str(atoms.symbols) for atoms in found] == ["OH2", "Cu4", "CO2"]
    assert [atoms.pbc.all() for atoms in found] == [False, True, False]


def test_reads_one_structure(tmp_path: Path) -> None:
    write(tmp_path / "POSCAR", bulk("Cu"))
    assert [len(atoms) for atoms in read_frames(tmp_path / "POSCAR")] == [1]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("3\n\nO 0 0 0\nH 0 0 1\n", "the file ends after 2 of 3 atoms"),
        ("3\n", "the file ends after 0 of 3 atoms"),
        ("3\n\nO 0 0 0\nH 0 0 1\nH 0 1", "cannot be read"),
        ("3\n\nO 0 0 0\nH 0 0 1\nH 0 one 1\n", "could not convert string to float: 'one'"),
        ("1\n\nXy 0 0 0\n", "unknown element or name 'Xy'"),
        ("H 0 0 0\n", "expected the number of atoms, found 'H 0 0 0'"),
    ],
)
def test_a_bad_record_is_named(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(WATER + WATER + text)
    with pytest.raises(StructureError) as caught:
        list(read_frames(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: record 2 (counting from 0) cannot be read")
    assert what in message
    assert "\n" not in message


def test_a_cut_off_trajectory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.traj"
    write(path, structures())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StructureError, match=r"a\.traj: record 0"):
        list(read_frames(path))


def test_a_cut_off_compressed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz.gz"
    path.write_bytes(gzip.compress(WATER.encode() * 1000)[:-20])
    with pytest.raises(StructureError, match="cannot be read: Compressed file ended"):
        list(read_frames(path))


def test_a_file_without_structures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.xyz").write_text("")
    (tmp_path / "blank.xyz").write_text("\n\n")
    (tmp_path / "notes.txt").write_text("nothing to see")
    for name, what in [("empty.xyz", "empty"), ("blank.xyz", "no structures"), ("notes.txt", "no format")]:
        with pytest.raises(StructureError, match=what):
            list(read_frames(tmp_path / name))
    with pytest.raises(StructureError, match="is a folder"):
        list(read_frames(tmp_path))


def test_a_reader_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'netCDF4'", name="netCDF4")

    write(tmp_path / "a.traj", structures())
    monkeypatch.setattr(frames, "iread", fail)
    with pytest.raises(StructureError, match="needs the Python package netCDF4: install it"):
        list(read_frames(tmp_path / "a.traj"))


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_frames(tmp_path / "a.xyz"))


def test_records_that_are_not_wanted_are_none(tmp_path: Path) -> None:
    write(tmp_path / "a.traj", structures())
    found = list(read_numbered(tmp_path / "a.traj", lambda record: record == 1))
    assert [record for record, _ in found] == [0, 1, 2]
    assert [atoms is None for _, atoms in found] == [True, False, True]
