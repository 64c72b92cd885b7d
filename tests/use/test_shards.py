import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

import atomslim
from atomslim.cli.main import main
from atomslim.errors import ConfigError, StructureError
from atomslim.use.predict import predict_file
from atomslim.use.shards import parse_process, predict_shards, process_of
from samples import CONSERVATIVE
from small_models import jmp

COUNT = 11


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    atomslim.save(jmp(CONSERVATIVE, num_blocks=1, direct_forces=False), path)
    return path


def frames(count: int = COUNT) -> list[Atoms]:
    made = [molecule(("H2O", "NH3", "CH4")[number % 3]) for number in range(count)]
    for number, atoms in enumerate(made):
        atoms.rattle(0.03, seed=number)
    return made


def shards(folder: Path) -> list[Atoms]:
    return [atoms for path in sorted(folder.glob("part-*.extxyz")) for atoms in read(path, ":")]


def same(found: list[Atoms], expected: list[Atoms]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.get_chemical_formula() == other.get_chemical_formula()
        np.testing.assert_allclose(one.get_potential_energy(), other.get_potential_energy(), atol=1e-7)
        np.testing.assert_allclose(one.get_forces(), other.get_forces(), atol=1e-7)


def test_shards_hold_what_one_file_would(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames())
    write(tmp_path / "first.xyz", frames()[:5])
    write(tmp_path / "second.xyz", frames()[5:])
    predict_file(model, tmp_path / "all.xyz", tmp_path / "all.extxyz", progress=False)
    summary = predict_shards(
        model, [tmp_path / "first.xyz", tmp_path / "second.xyz"], tmp_path / "out", shard_size=4, progress=False
    )
    assert summary.structures == COUNT
    assert sorted(path.name for path in (tmp_path / "out").glob("part-*")) == [f"part-0000{i}.extxyz" for i in range(3)]
    same(shards(tmp_path / "out"), read(tmp_path / "all.extxyz", ":"))
    assert [atoms.info["record"] for atoms in shards(tmp_path / "out")] == list(range(COUNT))


def test_processes_share_the_shards(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames())
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    predict_shards(model, [tmp_path / "all.xyz"], whole, shard_size=2, progress=False)
    counts = [
        predict_shards(
            model, [tmp_path / "all.xyz"], shared, shard_size=2, process=(rank, 2), progress=False
        ).structures
        for rank in range(2)
    ]
    assert counts == [6, 5]
    same(shards(shared), shards(whole))


def test_a_resumed_run_writes_what_is_missing_only(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames())
    folder = tmp_path / "out"
    predict_shards(model, [tmp_path / "all.xyz"], folder, shard_size=4, progress=False)
    before = {path.name: path.read_bytes() for path in folder.glob("part-*")}
    (folder / "part-00001.extxyz").unlink()
    stamp = (folder / "part-00000.extxyz").stat().st_mtime_ns
    summary = predict_shards(model, [tmp_path / "all.xyz"], folder, shard_size=4, resume=True, progress=False)
    assert summary.structures == 4
    assert (folder / "part-00000.extxyz").stat().st_mtime_ns == stamp
    assert {path.name: path.read_bytes() for path in folder.glob("part-*")} == before


def test_parquet_has_a_row_for_each_structure(model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "all.xyz", frames())
    predict_shards(model, [tmp_path / "all.xyz"], tmp_path / "out", form="parquet", shard_size=20, progress=False)
    predict_file(model, tmp_path / "all.xyz", tmp_path / "all.extxyz", progress=False)
    rows = parquet.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [row["record"] for row in rows] == list(range(COUNT))
    for row, atoms in zip(rows, read(tmp_path / "all.extxyz", ":"), strict=True):
        assert row["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
        np.testing.assert_allclose(np.reshape(row["forces"], (-1, 3)), atoms.get_forces(), atol=1e-7)
        assert row["numbers"] == atoms.numbers.tolist()


def test_the_command_line_writes_folders_too(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "all.xyz", frames(3))
    command = ["predict", str(model), str(tmp_path / "all.xyz"), "-o", str(tmp_path / "out")]
    assert main(command) == 0
    assert len(shards(tmp_path / "out")) == 3
    assert main(command) == 1
    assert "holds predictions already" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--resume", "--shard-size", "2"]) == 1
    assert "shard size was 10000 and is now 2" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "out.parquet")]) == 1
    assert "name a folder" in capsys.readouterr().err


def test_wrong_use_is_said(model: Path, tmp_path: Path) -> None:
    write(tmp_path / "all.xyz", frames(3))
    with pytest.raises(ConfigError, match="format 'csv'"):
        predict_shards(model, [tmp_path / "all.xyz"], tmp_path / "a", form="csv")  # type: ignore[arg-type] # wrong use
    with pytest.raises(ConfigError, match="no structures"):
        predict_shards(model, [], tmp_path / "b")
    with pytest.raises(ConfigError, match="as in 3/16"):
        parse_process("3 of 16")
    assert parse_process("3/16") == (3, 16)
    assert process_of({"RANK": "1", "WORLD_SIZE": "4"}) == (1, 4)
    assert process_of({"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}) == (2, 3)
    assert process_of({}) == (0, 1)
    text = (tmp_path / "all.xyz").read_text()
    (tmp_path / "cut.xyz").write_text(text[:-40])
    with pytest.raises(StructureError, match=r"cut\.xyz: record 2 .* cannot be read"):
        predict_shards(model, [tmp_path / "cut.xyz"], tmp_path / "c", shard_size=2, progress=False)
    assert not list((tmp_path / "c").glob("*.tmp"))
    assert [path.name for path in (tmp_path / "c").glob("part-*")] == ["part-00000.extxyz"]


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost_or_doubled(model: Path, tmp_path: Path) -> None:
    expected = frames(120)
    write(tmp_path / "all.xyz", expected)
    paths = [str(Path(atomslim.__file__).parents[1]), str(Path(__file__).parents[1])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("predictor.py")
    command = [sys.executable, str(script), str(model), str(tmp_path / "all.xyz"), str(tmp_path / "out")]
    moments = random.Random(0)
    for _ in range(7):
        process = subprocess.Popen(command, env=environ)
        parts = len(list((tmp_path / "out").glob("part-*"))) if (tmp_path / "out").is_dir() else 0
        while process.poll() is None and len(list((tmp_path / "out").glob("part-*"))) < parts + 2:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=environ, check=True)
    found = shards(tmp_path / "out")
    assert [atoms.info["record"] for atoms in found] == list(range(120))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-7)
