import lzma
import multiprocessing
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io.trajectory import Trajectory

from atomslim.data.lmdb_file import LmdbFile
from atomslim.data.readers import oc20, oc22
from atomslim.data.readers._graphs import GraphShards
from atomslim.errors import AtomslimWarning, ConfigError, DataError
from data.graph_objects import import_lmdb, new_layout, old_layout, pickled_list, same, slab, write_lmdb

FRAME = """2
Lattice="4.0 0.0 0.0 0.0 4.0 0.0 0.0 0.0 9.0" Properties=species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3 \
energy=-7.5 free_energy=-7.25 pbc="T T T"
Cu 0.0 0.0 0.0 F 0 0.0 0.0 -0.25
O 0.0 0.0 1.5 T 2 0.0 0.0 0.5
"""

LAYOUTS = pytest.mark.parametrize("layout", [new_layout, old_layout])


def raw(folder: Path, frames: str = FRAME * 2, lines: str = "random17,frame0,-7.0\nrandom18,frame4,-6.5\n") -> Path:
    """Write a file of the raw release and the text file beside it."""
    with lzma.open(folder / "0.extxyz.xz", "wt") as file:
        file.write(frames)
    with lzma.open(folder / "0.txt.xz", "wt") as file:
        file.write(lines)
    return folder / "0.extxyz.xz"


def references(folder: Path, **values: float) -> Path:
    path = folder / "oc20_ref.pkl"
    path.write_bytes(pickle.dumps(values))
    return path


@LAYOUTS
def test_both_layouts_give_the_same_sample(tmp_path: Path, layout: Callable[..., bytes]) -> None:
    write_lmdb(tmp_path / "data.lmdb", [layout(**slab())])
    (sample,) = oc20.read(tmp_path)
    assert sample.numbers.tolist() == [29, 8]
    assert sample.positions[1].tolist() == [0.0, 0.0, 1.5]
    assert sample.cell.tolist() == (np.eye(3) * 4).tolist()
    assert sample.pbc.all()
    assert sample.tags.tolist() == [1, 2]
    assert sample.fixed.tolist() == [True, False]
    assert sample.targets["energy"] == -7.5
    assert sample.targets["energy"].shape == ()
    assert sample.targets["forces"][:, 2].tolist() == [-0.25, 0.5]
    assert sample.group == "random17"
    assert sample.name == f"{tmp_path}/data.lmdb, record 0"


@LAYOUTS
@pytest.mark.parametrize("shape", [(), (1,)])
def test_numbers_may_be_tensors_and_names_the_newer_ones(
    tmp_path: Path, layout: Callable[..., bytes], shape: tuple[int, ...]
) -> None:
    number = {name: torch.full(shape, value) for name, value in {"energy": -7.5, "sid": 17, "natoms": 2}.items()}
    fields = slab(y=None, force=None, forces=slab()["force"], **number)
    write_lmdb(tmp_path / "data.lmdb", [layout(**fields), layout(**slab())])
    newer, usual = oc20.read(tmp_path)
    same(newer, usual)
    assert newer.group == usual.group


@LAYOUTS
def test_without_tags_and_fixed_there_are_none(tmp_path: Path, layout: Callable[..., bytes]) -> None:
    write_lmdb(tmp_path / "data.lmdb", [layout(**slab(tags=None, fixed=None, sid=None))])
    for reader in (oc20, oc22):
        (sample,) = reader.read(tmp_path)
        assert sample.tags.tolist() == [2, 2]
        assert not sample.fixed.any()
        assert sample.group == ""


def test_records_are_in_the_order_of_their_numbers_and_shards_in_that_of_their_names(tmp_path: Path) -> None:
    for shard, start in (("data.0010.lmdb", 12), ("data.0002.lmdb", 0)):
        write_lmdb(tmp_path / shard, [new_layout(**slab(sid=start + k)) for k in range(12)])
    assert [sample.group for sample in oc20.read(tmp_path)] == [f"random{k}" for k in range(24)]
    assert [path.name for path in oc20.parts(tmp_path)] == ["data.0002.lmdb", "data.0010.lmdb"]
    assert oc20.count(tmp_path) == 24


def test_records_are_found_by_number(tmp_path: Path) -> None:
    paths = [tmp_path / "a.lmdb", tmp_path / "b.lmdb"]
    for path, start in zip(paths, (0, 3), strict=True):
        write_lmdb(path, [new_layout(**slab(sid=start + k)) for k in range(3)])
    shards = GraphShards(paths)
    assert [shards[k][1]["sid"] for k in (0, 2, 3, 5, -1)] == [0, 2, 3, 5, 5]
    assert shards[4][0] == f"{paths[1]}, record 1"
    with pytest.raises(IndexError):
        shards[6]


def test_without_a_length_the_keys_are_counted(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "data.lmdb", [new_layout(**slab())] * 3, length=None)
    assert oc20.count(tmp_path) == 3
    assert len(list(oc20.read(tmp_path))) == 3


@pytest.mark.parametrize("key", ["natoms", "num_nodes"])
def test_numbers_of_atoms_come_from_the_metadata(tmp_path: Path, key: str) -> None:
    write_lmdb(tmp_path / "data.lmdb", [new_layout(**slab())] * 2)
    assert oc20.natoms(tmp_path) is None
    np.savez(tmp_path / "metadata.npz", **{key: np.array([2, 2])})  # type: ignore[arg-type]  # numpy's stub
    natoms = oc20.natoms(tmp_path)
    assert natoms is not None
    assert natoms.tolist() == [2, 2]
    np.savez(tmp_path / "metadata.npz", natoms=np.array([2]))
    with pytest.raises(DataError, match=r"metadata.npz: is about 1 records, but the shards hold 2"):
        oc20.natoms(tmp_path)
    np.savez(tmp_path / "metadata.npz", other=np.array([2]))
    with pytest.raises(DataError, match=r"metadata.npz: has no num_nodes"):
        oc22.natoms(tmp_path)


def test_a_variant_is_a_subfolder(tmp_path: Path) -> None:
    inside = tmp_path / "s2ef_train_200K" / "s2ef_train_200K"
    write_lmdb(inside / "data.lmdb", [new_layout(**slab())])
    assert oc20.count(tmp_path, "200k") == 1  # folders that archives unpack to
    write_lmdb(tmp_path / "train" / "data.lmdb", [new_layout(**slab())] * 2)
    write_lmdb(tmp_path / "val_id" / "data.lmdb", [new_layout(**slab())] * 3)
    assert [oc20.count(tmp_path, name) for name in ("train", "val_id")] == [2, 3]
    assert oc20.count(tmp_path / "train", "train") == 2
    with pytest.raises(DataError, match=r"train: has no file of 'val_id'"):
        oc20.read(tmp_path / "train", "val_id")
    with pytest.raises(DataError, match=r"has no file .* \(subfolders: s2ef_train_200K, train, val_id\)"):
        oc20.read(tmp_path)
    with pytest.raises(DataError, match=r"none: there is no such file or folder"):
        oc20.read(tmp_path / "none")


def test_referenced_energies_become_totals_and_back(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "data.lmdb", [new_layout(**slab(sid=17)), new_layout(**slab(sid=18))])
    reference = references(tmp_path, random17=-100.25, random18=np.float64(-50.0))
    totals = oc20.read(tmp_path, stored="referenced", reference=reference)
    assert [sample.targets["energy"] for sample in totals] == [-107.75, -57.5]
    referenced = oc20.read(tmp_path, energies="referenced", stored="total", reference=reference)
    assert [sample.targets["energy"] for sample in referenced] == [92.75, 42.5]
    as_they_are = oc20.read(tmp_path, energies="referenced")
    assert [sample.targets["energy"] for sample in as_they_are] == [-7.5, -7.5]


def test_a_reference_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "data.lmdb", [new_layout(**slab(sid=17))])
    with pytest.raises(ConfigError, match=r"turning referenced into total energies needs `reference`"):
        oc20.read(tmp_path, stored="referenced")
    with pytest.raises(DataError, match=r"record 0: no reference energy for random17"):
        list(oc20.read(tmp_path, stored="referenced", reference=references(tmp_path, random18=1.0)))
    reference = tmp_path / "oc20_ref.pkl"
    reference.write_bytes(pickle.dumps([1.0]))
    with pytest.raises(DataError, match=r"oc20_ref.pkl: holds a list where a dictionary is expected"):
        oc20.read(tmp_path, stored="referenced", reference=reference)


def test_energies_that_look_referenced_give_a_warning(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "data.lmdb", [new_layout(**slab(y=0.01 * k)) for k in range(20)])
    with pytest.warns(AtomslimWarning, match=r"0.05 eV per atom is little for total energies|0.04\d eV per atom"):
        list(oc20.read(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(oc20.read(tmp_path, stored="total"))) == 20
        assert len(list(oc20.read(tmp_path, energies="referenced"))) == 20


def test_the_raw_release_keeps_forces_of_fixed_atoms_and_takes_the_energy(tmp_path: Path) -> None:
    first, second = oc20.read(raw(tmp_path))
    assert first.targets["energy"] == -7.5  # not the free energy
    assert first.fixed.tolist() == [True, False]
    assert first.tags.tolist() == [0, 2]
    assert first.targets["forces"][0].tolist() == [0.0, 0.0, -0.25]
    assert (first.group, second.group) == ("random17", "random18")
    assert oc20.count(tmp_path) == 2
    referenced = [sample.targets["energy"] for sample in oc20.read(tmp_path, energies="referenced")]
    assert referenced == [-0.5, -1.0]


def test_raw_files_are_in_the_order_of_their_numbers_and_may_be_unpacked(tmp_path: Path) -> None:
    for number in (10, 9):
        (tmp_path / f"{number}.extxyz").write_text(FRAME)
        (tmp_path / f"{number}.txt").write_text(f"random{number},frame0,0.0\n")
    assert [sample.group for sample in oc20.read(tmp_path)] == ["random9", "random10"]


def test_trajectories_keep_forces_of_fixed_atoms(tmp_path: Path) -> None:
    atoms = Atoms("CuO", [[0, 0, 0], [0, 0, 1.5]], cell=[4, 4, 9], pbc=True, constraint=FixAtoms([0]))
    atoms.calc = SinglePointCalculator(atoms, energy=-7.5, free_energy=-7.25, forces=np.full((2, 3), 0.5))
    with Trajectory(tmp_path / "random17.traj", "w") as trajectory:
        trajectory.write(atoms)
    (sample,) = oc20.read(tmp_path)
    assert sample.targets["forces"].tolist() == np.full((2, 3), 0.5).tolist()
    assert sample.targets["energy"] == -7.5
    assert sample.fixed.tolist() == [True, False]
    assert sample.tags.tolist() == [2, 2]
    assert sample.group == "random17"


def test_oc22_takes_the_relaxed_energy_where_there_is_one(tmp_path: Path) -> None:
    records = [slab(y_relaxed=-8.0), slab(y_relaxed=-8.0, y=None, force=None), slab()]
    write_lmdb(tmp_path / "data.lmdb", [old_layout(**fields) for fields in records])
    samples = list(oc22.read(tmp_path))
    assert [sample.targets["energy"] for sample in samples] == [-8.0, -8.0, -7.5]
    assert ["forces" in sample.targets for sample in samples] == [True, False, True]
    assert next(oc20.read(tmp_path, stored="total")).targets["energy"] == -7.5
    assert samples[0].group == "17"


def test_oc22_reads_lists(tmp_path: Path) -> None:
    (tmp_path / "train.pkl").write_bytes(pickled_list(slab(), slab(sid=18)))
    first, second = oc22.read(tmp_path)
    assert (first.group, second.group) == ("17", "18")
    assert oc22.count(tmp_path) is None
    assert oc22.natoms(tmp_path) is None


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no positions": ({"pos": None}, r"has no pos \(there is: "),
    "no cell": ({"cell": None}, r"has no cell"),
    "no energy": ({"y": None}, r"has no (y_relaxed or )?y or energy"),
    "no forces": ({"force": None}, r"has no force or forces"),
    "NaN forces": ({"force": torch.tensor([[0.0, 0, 0], [0, torch.nan, 0]])}, r"forces \(row 1\) not finite"),
    "infinite energy": ({"y": float("inf")}, r"energy not finite"),
    "NaN position": ({"pos": torch.full((2, 3), torch.nan)}, r"positions \(row 0\) not finite"),
    "several energies": ({"y": torch.zeros(2)}, r"y has 2 values where one is expected"),
    "a text": ({"y": "low"}, r"y is not a number"),
    "other number of forces": ({"force": torch.zeros(3, 3)}, r"forces has the shape \(3, 3\) where \(2, 3\)"),
    "other number of positions": ({"pos": torch.zeros(3, 3)}, r"positions has the shape"),
    "other number of tags": ({"tags": torch.zeros(3)}, r"tags has the shape"),
    "other natoms": ({"natoms": 3}, r"natoms is not the number of atoms, 2"),
    "no element": ({"atomic_numbers": torch.tensor([29.0, 0.0])}, r"atom 1 has the atomic number 0"),
    "half an element": ({"atomic_numbers": torch.tensor([29.0, 0.5])}, r"atomic numbers are not whole numbers"),
    "NaN element": ({"atomic_numbers": torch.tensor([29.0, torch.nan])}, r"atomic numbers are not whole numbers"),
    "no atoms": (
        {
            "atomic_numbers": torch.zeros(0),
            "pos": torch.zeros(0, 3),
            "force": torch.zeros(0, 3),
            "natoms": 0,
            "tags": None,
            "fixed": None,
        },
        r"has no atoms",
    ),
    "a text for positions": ({"pos": "here"}, r"positions are not numbers"),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("reader", [oc20, oc22])
def test_a_broken_record_is_named(tmp_path: Path, reader: Any, changes: dict[str, Any], message: str) -> None:
    write_lmdb(tmp_path / "data.lmdb", [new_layout(**slab()), new_layout(**slab(**changes))])
    with pytest.raises(DataError, match=rf"data\.lmdb, record 1: .*{message}") as caught:
        list(reader.read(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: write_lmdb(path, [new_layout(**slab())] * 4, skip=[2]), r"record 2: missing, though"),
        (lambda path: write_lmdb(path, [new_layout(**slab())], length=2), r"record 1: missing, though"),
        (lambda path: write_lmdb(path, [new_layout(**slab()), new_layout(**slab())[:300]]), r"record 1: cut off or"),
        (lambda path: write_lmdb(path, [pickle.dumps([1])]), r"record 0: holds a list where a graph"),
        (lambda path: write_lmdb(path, []), r"data.lmdb: is empty"),
        (lambda path: path.write_bytes(b""), r"data.lmdb: is not an LMDB file, or cut off"),
        (lambda path: path.write_bytes(b"text" * 5000), r"data.lmdb: is not an LMDB file, or cut off"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    import_lmdb()
    write(tmp_path / "data.lmdb")
    for reader in (oc20, oc22):
        with pytest.raises(DataError, match=message) as caught:
            list(reader.read(tmp_path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [100, 4096, 5000, 8192, 12288, -4096, -1])
def test_a_file_that_is_cut_off_is_said_to_be_and_does_not_end_the_process(tmp_path: Path, size: int) -> None:
    path = tmp_path / "data.lmdb"
    write_lmdb(path, [new_layout(**slab()) for _ in range(40)])
    announced = LmdbFile(path)
    assert announced.get(b"0")
    os.truncate(path, path.stat().st_size + size if size < 0 else size)
    with pytest.raises(DataError, match=r"data\.lmdb: (cut off at|is not an LMDB file, or cut off)"):
        oc20.count(path)


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "data.lmdb"
    write_lmdb(path, [new_layout(**slab())])
    assert oc20.count(path) == 1
    path.unlink()
    write_lmdb(path, [new_layout(**slab())] * 2)
    assert oc20.count(path) == 2


def test_several_readers_of_one_file_share_a_handle_also_after_a_fork(tmp_path: Path) -> None:
    path = tmp_path / "data.lmdb"
    write_lmdb(path, [new_layout(**slab(sid=k)) for k in range(3)])
    first, second = GraphShards([path]), GraphShards([tmp_path / "." / "data.lmdb"])
    assert first[1][1]["sid"] == second[1][1]["sid"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Python 3.12 on, of a fork beside torch's threads
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(_system, [(first, 0), (second, 1), (first, 2)]) == [0, 1, 2]
    assert first[2][1]["sid"] == 2
    assert pickle.loads(pickle.dumps(first))[0][1]["sid"] == 0  # noqa: S301 - our own


def _system(task: tuple[GraphShards, int]) -> int:
    shards, record = task
    return int(shards[record][1]["sid"])


def test_a_closed_file_is_opened_again(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "data.lmdb", [b"content"])
    file = LmdbFile(tmp_path / "data.lmdb")
    assert file.get(b"0") == b"content"
    file.close()
    assert file.get(b"0") == b"content"
    assert file.get(b"none") is None


@pytest.mark.parametrize(
    ("frames", "lines", "message"),
    [
        (FRAME, "random17,frame0,0.0\nrandom17,frame1,0.0\n", r"0.extxyz.xz, record 1: only in one of"),
        (FRAME * 2, "random17,frame0,0.0\n", r"0.extxyz.xz, record 1: only in one of"),
        (FRAME, "random17,frame0\n", r"0.txt.xz, line 0: is not 'system,frame,reference'"),
        (FRAME, "random17,frame0,low\n", r"0.txt.xz, line 0: the reference energy is not a number"),
        (FRAME[:-30], "random17,frame0,0.0\n", r"0.extxyz.xz, record 0: (cut off|is not extended XYZ)"),
        (FRAME[:60], "random17,frame0,0.0\n", r"0.extxyz.xz, record 0: cut off"),
        (FRAME.replace("\n", "\nX", 2), "random17,frame0,0.0\n", r"0.extxyz.xz, record 0: is not extended XYZ"),
        ("text\n" + FRAME, "random17,frame0,0.0\n", r"0.extxyz.xz, record 0: 'text' is not a number of atoms"),
        (FRAME.replace(" energy=-7.5", ""), "random17,frame0,0.0\n", r"record 0: has no energy or no forces"),
        (FRAME.replace("-0.25", "nan"), "random17,frame0,0.0\n", r"record 0: forces \(row 0\) not finite"),
    ],
)
def test_a_broken_raw_file_is_named(tmp_path: Path, frames: str, lines: str, message: str) -> None:
    raw(tmp_path, frames, lines)
    with pytest.raises(DataError, match=message) as caught:
        list(oc20.read(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["0.extxyz.xz", "0.txt.xz"])
def test_a_compressed_file_that_is_cut_off_is_said_to_be(tmp_path: Path, name: str) -> None:
    raw(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-20])
    with pytest.raises(DataError, match=rf"{name}: cut off or damaged"):
        list(oc20.read(tmp_path))
    (tmp_path / name).write_bytes(b"text")
    with pytest.raises(DataError, match=rf"{name}: cut off or damaged"):
        list(oc20.read(tmp_path))


def test_a_text_file_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    raw(tmp_path)
    (tmp_path / "0.txt.xz").unlink()
    with pytest.raises(DataError, match=r"0.txt.xz: there is no such file"):
        list(oc20.read(tmp_path))


@pytest.mark.parametrize("content", [b"", b"text" * 100])
def test_a_broken_trajectory_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.traj").write_bytes(content)
    with pytest.raises(DataError, match=r"a.traj: cut off or damaged"):
        list(oc20.read(tmp_path))
