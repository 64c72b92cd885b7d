"""Files and options made to harm: one line, an exit status, and no more memory or time than the file explains."""

import io
import json
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from ase.build import molecule
from ase.db import connect
from ase.io import write

from atomslim.cli.main import main
from atomslim.report.cells import plain_cell
from atomslim.report.console import plain_console
from data.hdf5_files import conformations, write_hdf5

ROW: dict[str, Any] = {
    "numbers": [1, 1],
    "positions": [[0, 0, 0], [0, 0, 0.8]],
    "cell": [[0] * 3] * 3,
    "pbc": [False] * 3,
    "energy": -1.0,
    "forces": [[0, 0, 0], [0, 0, 0]],
}


def packed(content: object) -> bytes:
    return zlib.compress(json.dumps(content).encode())


def aselmdb(path: Path, record: bytes, following: bytes = b"2") -> str:
    environment = lmdb.open(str(path), subdir=False, map_size=2**24)
    with environment.begin(write=True) as transaction:
        transaction.put(b"1", record)
        transaction.put(b"nextid", zlib.compress(following))
    environment.close()
    return str(path)


def npz(path: Path, **changes: Any) -> Path:
    content = {
        "nuclear_charges": np.array([8, 1, 1]),
        "coords": np.random.default_rng(0).random((4, 3, 3)),
        "energies": np.full(4, -47000.0),
        "forces": np.zeros((4, 3, 3)),
    }
    np.savez(path, **(content | changes))
    return path


def deep(folder: Path) -> str:
    return aselmdb(folder / "a.aselmdb", zlib.compress(b"[" * 100_000))


def bomb(folder: Path) -> str:
    return aselmdb(folder / "a.aselmdb", zlib.compress(b" " * 2**28))


def cut_record(folder: Path) -> str:
    return aselmdb(folder / "a.aselmdb", packed(ROW)[:-20])


def constraint_beyond(folder: Path) -> str:
    constraint = {"name": "FixAtoms", "kwargs": {"indices": [99]}}
    return aselmdb(folder / "a.aselmdb", packed({**ROW, "constraints": [constraint]}))


def constraint_of_another_kind(folder: Path) -> str:
    return aselmdb(folder / "a.aselmdb", packed({**ROW, "constraints": [7]}))


def rows_without_end(folder: Path) -> str:
    return aselmdb(folder / "a.aselmdb", packed(ROW), b"1000000000000")


def rows_that_are_text(folder: Path) -> str:
    return aselmdb(folder / "a.aselmdb", packed(ROW), b'"x"')


def wide_items(folder: Path) -> str:
    array = {"__ndarray__": [[2, 3], "V2000000000", [0] * 6]}
    return aselmdb(folder / "a.aselmdb", packed({**ROW, "positions": array}))


def repeated_number(folder: Path) -> str:
    """ASE would make this array of one number as large as the file says."""
    with connect(folder / "a.json") as database:
        database.write(molecule("H2O"), data={"x": np.zeros(3)})
    text = (folder / "a.json").read_text()
    changed = text.replace("[3]", "[30000000000]").replace("[0.0, 0.0, 0.0]", "[0.0]")
    assert changed != text
    (folder / "a.json").write_text(changed)
    return str(folder / "a.json")


def dates(folder: Path) -> str:
    path = npz(folder / "a.npz", energies=np.array(["2020-01-01"] * 4, dtype="M8[D]"))
    return f"rmd17:aspirin@{path}"


def huge_array(folder: Path, shape: tuple[int, ...] = (10**12,)) -> str:
    head = io.BytesIO()
    description = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, description)
    npz(folder / "b.npz")
    with zipfile.ZipFile(folder / "b.npz") as whole_archive, zipfile.ZipFile(folder / "a.npz", "w") as archive:
        for name in whole_archive.namelist():
            archive.writestr(name, head.getvalue() if name == "coords.npy" else whole_archive.read(name))
    return f"rmd17:aspirin@{folder / 'a.npz'}"


def negative_array(folder: Path) -> str:
    return huge_array(folder, (-1, 3, 3))


def zip_bomb(folder: Path) -> str:
    with zipfile.ZipFile(npz(folder / "a.npz"), "a", zipfile.ZIP_DEFLATED) as archive:
        names = archive.namelist()
    with zipfile.ZipFile(folder / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(2**26))
    return f"rmd17:aspirin@{folder / 'b.npz'}"


def huge_dataset(folder: Path) -> str:
    import h5py

    path = write_hdf5(folder / "a.h5", {"CH4": conformations(frames=2)})
    with h5py.File(path, "a") as file:
        group = file["CH4"]
        for key in list(group):
            shape = (5 * 10**10, *group[key].shape[1:])
            if key != "atomic_numbers":
                del group[key]
                group.create_dataset(key, shape=shape, chunks=(100, *shape[1:]), dtype="f4")
    return f"ani1x@{path}"


def dataset_elsewhere(folder: Path) -> str:
    import h5py

    path = write_hdf5(folder / "a.h5", {"CH4": conformations(frames=2)})
    with h5py.File(path, "a") as file:
        group = file["CH4"]
        shape = group["coordinates"].shape
        del group["coordinates"]
        group.create_dataset("coordinates", shape=shape, dtype="f4", external=[(__file__, 0, h5py.h5f.UNLIMITED)])
    return f"ani1x@{path}"


def hard_link(folder: Path) -> str:
    with tarfile.open(folder / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("a.xyz")
        entry.type, entry.linkname = tarfile.LNKTYPE, "/etc/passwd"
        archive.addfile(entry)
    return f"qm9:U0@{folder / 'a.tar'}"


def long_name(folder: Path) -> str:
    """A head that announces a name of gigabytes."""
    entry = tarfile.TarInfo("a.xyz")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2**35
    (folder / "a.tar").write_bytes(entry.tobuf() + bytes(4096))
    return f"qm9:U0@{folder / 'a.tar'}"


def columns_without_end(folder: Path) -> str:
    text = "1\nProperties=species:S:1:pos:R:3:forces:R:3000000000 energy=-1.0\nH 0 0 0 0 0 0\n"
    (folder / "a.xyz").write_text(text)
    return str(folder / "a.xyz")


def atoms_without_end(folder: Path) -> str:
    (folder / "a.xyz").write_text(f"{'9' * 5000}\n\nH 0 0 0\n")
    return str(folder / "a.xyz")


@pytest.mark.parametrize(
    "make",
    [
        deep,
        bomb,
        cut_record,
        constraint_beyond,
        constraint_of_another_kind,
        rows_without_end,
        rows_that_are_text,
        wide_items,
        repeated_number,
        dates,
        huge_array,
        negative_array,
        zip_bomb,
        huge_dataset,
        dataset_elsewhere,
        hard_link,
        long_name,
        columns_without_end,
        atoms_without_end,
    ],
)
def test_a_hostile_dataset_is_one_line(
    make: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = make(tmp_path)
    for command in ("show", "check"):
        assert main(["data", command, name]) == 1
        error = capsys.readouterr().err
        assert error.startswith("atomslim: error: ")
        assert error.count("\n") == 1
        assert str(tmp_path) in error
        assert "a bug in atomslim" not in error


@pytest.fixture
def structures(tmp_path: Path) -> str:
    frames = [molecule("H2O") for _ in range(4)]
    path = tmp_path / "x.xyz"
    write(path, frames, format="extxyz")
    return str(path)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("name=aspirin.v2", "give one without a dot"),
        ("name=../../x", "give one without a dot"),
        ("name=_modules", "that torch does not use"),
        ("name=[x]", "name: Input should be a valid string"),
        ("budget=0s", "give a time above 0"),
        ("validate_every=0 steps", "give more than 0"),
        ("optimiser.betas=[1.5,2]", "optimiser.betas.0: Input should be less than 1"),
        ("optimiser.weight_decay=.nan", "finite number"),
        ("optimiser.rates={block 1: -1}", "greater than or equal to 0"),
        ("cutoff=.inf", "finite number"),
        ("cutoff=1e5", "less than or equal to 1000"),
        ("targets={a.b: {kind: energy}}", "give one without a dot"),
        ("split.train=.nan", "finite number"),
        ("split={train: -3, validation: 1}", "not negative"),
        (f"learn={'[' * 5000}", "is not a list or table"),
        ("learning_rate=1", "did you mean optimiser.learning_rate?"),
        ("optimiser.learning_rte=1", "did you mean optimiser.learning_rate"),
        ("split.trian=1", "did you mean split.train"),
        ("output=x", "there is no option output"),
        ("steps=2", "is also given as an option"),
        ("epochs=2020-99-99", "valid number"),
        ("nodes=2", "start it with srun or torchrun"),
        ("seed=-1", "greater than or equal to 0"),
    ],
)
def test_no_option_gives_a_traceback(
    setting: str, words: str, structures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", "mini", structures, "-o", str(tmp_path / "run"), "--steps", "1", "--set", setting]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert len(error) < 500
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["3.7", "nan", "1e3", "", "0x10", "9" * 5000])
def test_whole_numbers_are_not_rounded(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", "mini", "-o", "x.safetensors", f"--blocks={text}"]) == 2
    assert "write a whole number" in capsys.readouterr().err


def test_what_files_say_is_shown_and_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"c\x1b[31mevil\nx\n.")
    assert main(["data", "check", f"ani1x@{path}"]) == 1
    output = capsys.readouterr()
    assert "\x1b" not in output.out + output.err
    assert r"\x1b[31mevil" in output.out + output.err
    plain_console(width=200).print("y[/b][red].xyz", "\x1b]0;title", ":smile:")
    assert capsys.readouterr().out == "y[/b][red].xyz \\x1b]0;title :smile:\n"


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_closed_streams_are_no_error(closed: tuple[int, ...], tmp_path: Path) -> None:
    inner = [sys.executable, "-c", "from atomslim.cli.main import main; import sys; sys.exit(main(['data', 'list']))"]
    code = f"import os\nfor number in {closed}: os.close(number)\nos.execv({sys.executable!r}, {inner})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    said = [line for line in done.stderr.splitlines() if not line.startswith("Next: ")]
    assert (done.returncode, done.stdout, said) == (0, "", [])


def test_a_deleted_working_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["data", "list"]) == 1
    assert "the working folder no longer exists" in capsys.readouterr().err


@pytest.mark.parametrize("cell", ["=cmd()", "+1+1", "-x", "@sum", " =a", "\t=a"])
def test_cells_are_no_formulas(cell: str) -> None:
    assert plain_cell(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", [-1.5, "-1.5", "1e-3", "name", "", None, 3])
def test_numbers_and_names_stay_as_they_are(cell: object) -> None:
    assert plain_cell(cell) is cell
