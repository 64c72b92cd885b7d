import json
import os
import random
import subprocess
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import atomslim
from atomslim.atoms import Sample
from atomslim.data import container, record, staging, workers
from atomslim.data.dataset import open_dataset
from atomslim.data.prepare import count_edges, prepare
from atomslim.data.registry import resolve
from atomslim.data.staging import rows_written, staging_folder
from atomslim.errors import ConfigError, DataError
from atomslim.inference.inputs import open_inputs
from data.made_samples import assert_same

SHARD = 4000
"""Structures in each of the shards that are killed over: enough for several commits, half a second apart."""


def frames(path: Path, count: int) -> Path:
    atoms = molecule("C6H6")
    structures = []
    for number in range(count):
        frame = atoms.copy()
        frame.rattle(0.05, seed=number)
        frame.calc = SinglePointCalculator(frame, energy=-75.0 - number / 7, forces=frame.positions / 3)
        structures.append(frame)
    write(path, structures, format="extxyz")
    return path


def shards(folder: Path, count: int, size: int) -> Path:
    """Write a folder of ASE-LMDB files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        with opened(folder / f"{number}.aselmdb") as file, file.begin(write=True) as transaction:
            for key in range(1, size + 1):
                transaction.put(str(key).encode(), zlib.compress(json.dumps(row(generator)).encode()))
    return folder


def opened(path: Path) -> Any:
    return lmdb.open(str(path), subdir=False, map_size=2**27, lock=False)


def row(generator: np.random.Generator) -> dict[str, Any]:
    def array(values: np.ndarray[Any, Any]) -> dict[str, Any]:
        return {"__ndarray__": [values.shape, str(values.dtype), values.ravel().tolist()]}

    natoms = int(generator.integers(2, 12))
    return {
        "numbers": array(generator.integers(1, 9, natoms)),
        "positions": array(generator.normal(size=(natoms, 3)) * 4),
        "cell": array(np.zeros((3, 3))),
        "pbc": array(np.zeros(3, dtype=bool)),
        "energy": float(-generator.random()),
        "forces": array(generator.normal(size=(natoms, 3))),
    }


def test_a_file_becomes_a_container(tmp_path: Path) -> None:
    source = resolve(str(frames(tmp_path / "a.extxyz", 20)))
    told: list[tuple[int, int | None]] = []
    done = prepare(source, tmp_path / "a.samples", advance=lambda *step: told.append(step))
    assert done.fresh == len(done.container) == 20
    assert told[-1] == (20, None)
    for found, sample in zip(done.container, source.read(), strict=True):
        assert_same(found, sample)
    assert done.container.metadata["source"] == [["a.extxyz", (tmp_path / "a.extxyz").stat().st_size]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.extxyz", "a.samples"]


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    file, output = frames(tmp_path / "a.extxyz", 5), tmp_path / "a.samples"
    prepare(resolve(str(file)), output)
    stamp = output.stat().st_mtime_ns
    assert prepare(resolve(str(file)), output).fresh == 0
    assert output.stat().st_mtime_ns == stamp
    assert prepare(resolve(str(file)), output, force=True).fresh == 5
    frames(file, 6)
    assert prepare(resolve(str(file)), output).fresh == 6
    assert prepare(resolve(str(file), options={"energy_unit": "kcal/mol"}), output).fresh == 6
    output.write_bytes(output.read_bytes()[:-5])
    assert prepare(resolve(str(file)), output).fresh == 6


def test_a_source_that_changed_while_it_was_interrupted_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, output = frames(tmp_path / "a.extxyz", 10), tmp_path / "a.samples"
    break_off(monkeypatch, after=4)
    with pytest.raises(KeyboardInterrupt):
        prepare(resolve(str(file)), output)
    assert rows_written(staging_folder(output), 0) == 4
    monkeypatch.undo()
    frames(file, 7)
    assert prepare(resolve(str(file)), output).fresh == 7


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, output = frames(tmp_path / "a.extxyz", 10), tmp_path / "a.samples"
    whole = prepare(resolve(str(file)), tmp_path / "whole.samples").container.path.read_bytes()
    break_off(monkeypatch, after=4)
    with pytest.raises(KeyboardInterrupt):
        prepare(resolve(str(file)), output)
    assert not output.exists()
    monkeypatch.undo()
    assert prepare(resolve(str(file)), output).fresh == 6
    assert output.read_bytes() == whole


def break_off(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    written: list[Sample] = []

    def encode(sample: Sample) -> bytes:
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(sample)
        return original(sample)

    original = record.encode
    monkeypatch.setattr(staging, "encode", encode)


def test_fewer_structures_than_the_file_says_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resolve(str(frames(tmp_path / "a.extxyz", 3)))
    monkeypatch.setattr(type(source), "count", lambda _: 4)
    with pytest.raises(DataError, match=r"a\.extxyz: says it holds 4 structures, 3 could be read"):
        prepare(source, tmp_path / "a.samples")
    assert not (tmp_path / "a.samples").exists()


def test_a_file_needs_an_output(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--output"):
        prepare(resolve(str(frames(tmp_path / "a.extxyz", 3))))


def test_edges_are_counted(tmp_path: Path) -> None:
    copper = Sample.from_ase(bulk("Cu", cubic=True), {})
    assert count_edges(copper, 2.6, 30) == 4 * 12
    assert count_edges(copper, 2.6, 5) == 4 * 5
    container = prepare(resolve(str(frames(tmp_path / "a.extxyz", 3))), tmp_path / "a.samples", edges=True).container
    assert container.index.extra["edges"].tolist() == [12 * 11] * 3


def test_progress_and_parts_of_several_shards(tmp_path: Path) -> None:
    source = resolve(f"aselmdb:{shards(tmp_path / 'shards', 3, 5)}")
    assert len(source.parts()) == 3
    told: list[tuple[int, int | None]] = []
    container = prepare(source, tmp_path / "a.samples", advance=lambda *step: told.append(step)).container
    assert told[-1] == (15, 15)
    for found, sample in zip(container, source.read(), strict=True):
        assert_same(found, sample)


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(tmp_path: Path) -> None:
    source = resolve(f"aselmdb:{shards(tmp_path / 'shards', 4, 30)}")
    alone = prepare(source, tmp_path / "alone.samples").container
    together = prepare(source, tmp_path / "together.samples", processes=2).container
    assert together.path.read_bytes() == alone.path.read_bytes()


@pytest.mark.slow
def test_an_error_in_one_process_ends_all(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards", 3, 30)
    with opened(folder / "1.aselmdb") as file, file.begin(write=True) as transaction:
        transaction.put(b"7", b"damaged")
    with pytest.raises(DataError, match=r"1\.aselmdb, record 7"):
        prepare(resolve(f"aselmdb:{folder}"), tmp_path / "a.samples", processes=2)
    assert not (tmp_path / "a.samples").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 3), (2, 2)])
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(processes: int, kills: int, tmp_path: Path) -> None:
    """SIGKILL at random moments after a commit, and once more where all is read and the parts are joined."""
    source, output = shards(tmp_path / "shards", 2, SHARD), tmp_path / "killed.samples"
    whole = prepare(resolve(f"aselmdb:{source}"), tmp_path / "whole.samples").container.path.read_bytes()
    script = str(Path(__file__).with_name("preparer.py"))
    line = [sys.executable, script, str(source), str(output), str(processes), str(kills), str(2 * SHARD)]
    environ = os.environ | {"PYTHONPATH": str(Path(atomslim.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=environ, stdout=subprocess.PIPE, check=True)
    progress = json.loads(done.stdout.splitlines()[-1])
    assert progress == sorted(progress)
    assert len(progress) == kills + 1
    assert not output.exists() or output.read_bytes() == whole
    prepare(resolve(f"aselmdb:{source}"), output)
    assert output.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.samples", "shards", "whole.samples"]


def test_a_killed_worker_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenProcessPool("a process ended abruptly")

    monkeypatch.setattr(workers, "as_completed", broken)
    monkeypatch.setattr(ProcessPoolExecutor, "submit", lambda *_: None)
    source = resolve(f"aselmdb:{shards(tmp_path / 'shards', 2, 2)}")
    with pytest.raises(Exception, match="fewer processes"):
        prepare(source, tmp_path / "a.samples", processes=2)


def relabelled(path: Path) -> None:
    """Change the last label of a file: same size, another time."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def test_an_edited_source_is_noticed(tmp_path: Path) -> None:
    file, output = frames(tmp_path / "a.extxyz", 5), tmp_path / "a.samples"
    prepare(resolve(str(file)), output)
    open_dataset(str(output))
    os.utime(file)
    open_dataset(str(output))  # written again, with the same contents
    relabelled(file)
    os.utime(file, (1, 1))  # a copy that keeps an earlier time
    for read in (open_dataset, lambda name: open_inputs([name])):
        with pytest.raises(DataError, match=r"was made from .*a\.extxyz, which has changed since: make it again"):
            read(str(output))
    assert prepare(resolve(str(file)), output).fresh == 5
    open_dataset(str(output))
    file.unlink()
    open_dataset(str(output))  # the source need not stay


def test_a_prepared_dataset_by_its_name_notices_it_too(tmp_path: Path) -> None:
    source = resolve("rmd17:ethanol", tmp_path)
    source.path.parent.mkdir(parents=True)
    atoms = molecule("CH3CH2OH")
    coords, energies = np.stack([atoms.positions] * 4), np.full(4, -155.0 * 627.509)
    np.savez(source.path, nuclear_charges=atoms.numbers, coords=coords, energies=energies, forces=np.ones((4, 9, 3)))
    prepare(source)
    open_dataset("rmd17:ethanol", tmp_path)
    relabelled(source.path)
    with pytest.raises(DataError, match="has changed since"):
        open_dataset("rmd17:ethanol", tmp_path)


def test_contents_of_large_files_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large"
    path.write_bytes(random.Random(0).randbytes(20 * container.BLOCK))
    whole = container.contents([path])
    monkeypatch.setattr(container, "WHOLE", 0)
    monkeypatch.setattr(container, "SAMPLED", 10 * container.BLOCK)
    sampled = container.contents([path])
    assert sampled == container.contents([path]) != whole
    relabelled(path)
    assert container.contents([path]) != sampled
    with path.open("ab") as file:
        file.write(b"more")
    assert container.contents([path]) != sampled


@pytest.mark.parametrize("force", [False, True])
def test_a_source_is_never_replaced(tmp_path: Path, force: bool) -> None:
    file = frames(tmp_path / "a.extxyz", 3)
    before = file.read_bytes()
    (tmp_path / "link.samples").symlink_to(file)
    os.link(file, tmp_path / "hard.samples")
    for name in ("link.samples", "hard.samples"):
        with pytest.raises(ConfigError, match="is the source of the container"):
            prepare(resolve(str(file)), tmp_path / name, force=force)
    with pytest.raises(ConfigError, match=r"a container ends in \.samples"):
        prepare(resolve(str(file)), file, force=force)
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_other_files_are_kept_without_force(tmp_path: Path) -> None:
    first, second = frames(tmp_path / "a.extxyz", 3), frames(tmp_path / "b.extxyz", 4)
    output = tmp_path / "data.samples"
    output.write_text("precious")
    with pytest.raises(ConfigError, match="already exists, and is no container"):
        prepare(resolve(str(first)), output)
    assert output.read_text() == "precious"
    assert prepare(resolve(str(first)), output, force=True).fresh == 3
    with pytest.raises(ConfigError, match=r"made from other files \(a\.extxyz\)"):
        prepare(resolve(str(second)), output)
    assert prepare(resolve(str(second)), output, force=True).fresh == 4


def test_files_where_a_container_would_grow_are_kept(tmp_path: Path) -> None:
    file = frames(tmp_path / "a.extxyz", 3)
    growing = staging_folder(tmp_path / "a.samples")
    growing.mkdir()
    (growing / "notes.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"holds notes\.txt: move it"):
        prepare(resolve(str(file)), tmp_path / "a.samples")
    assert (growing / "notes.txt").read_text() == "precious"


def test_what_was_left_beside_a_complete_container_goes(tmp_path: Path) -> None:
    file, output = frames(tmp_path / "a.extxyz", 3), tmp_path / "a.samples"
    prepare(resolve(str(file)), output)
    staging_folder(output).mkdir()
    (staging_folder(output) / "000000.records").write_bytes(b"left")
    assert prepare(resolve(str(file)), output).fresh == 0
    assert not staging_folder(output).exists()
