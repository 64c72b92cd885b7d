import errno
import fcntl
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from atomslim.atoms import Sample
from atomslim.data import staging
from atomslim.data.container import Container, is_container
from atomslim.data.record import decode, encode
from atomslim.data.staging import Part, staging_folder, write_container
from atomslim.errors import ConfigError, DataError, StructureError
from data.made_samples import assert_same, molecule, several, slab

COUNT = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "made.samples"
    write_container(target, several(COUNT), {"dataset": "made"})
    return target


def any_floats(*shape: int) -> st.SearchStrategy[NDArray[np.float64]]:
    return arrays(np.float64, shape)  # NaN, infinities and negative zeros among them


@st.composite
def any_sample(draw: st.DrawFn) -> Sample:
    natoms = draw(st.integers(1, 7))
    targets = {
        "energy": any_floats(),
        "forces": any_floats(natoms, 3),
        "stress": any_floats(3, 3),
        "gap =": any_floats(),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(targets)), unique=True))
    return Sample(
        numbers=draw(arrays(np.int64, natoms, elements=st.integers(0, 255))),
        positions=draw(arrays(np.float64, (natoms, 3))),
        cell=draw(arrays(np.float64, (3, 3), elements=st.sampled_from([0.0, -0.0, 1.5]))),
        pbc=draw(arrays(np.bool_, 3)),
        tags=draw(arrays(np.int64, natoms, elements=st.integers(-128, 127))),
        fixed=draw(arrays(np.bool_, natoms)),
        targets={name: draw(targets[name]) for name in chosen},
        name=draw(st.text(max_size=20)),
        group=draw(st.text(max_size=20)),
    )


@given(any_sample())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_record_gives_back_every_bit(sample: Sample) -> None:
    record = encode(sample)
    assert len(record) % 8 == 0
    assert_same(decode(memoryview(record)), sample)


def test_a_container_gives_back_every_sample(path: Path) -> None:
    container = Container(path)
    assert len(container) == COUNT
    for found, sample in zip(container, several(COUNT), strict=True):
        assert_same(found, sample)
    assert_same(container[-1], list(several(COUNT))[-1])
    with pytest.raises(IndexError):
        container[COUNT]


def test_samples_may_be_changed_without_changing_the_file(path: Path) -> None:
    container = Container(path)
    container[3].positions[:] = 0
    container[3].targets["stress"][:] = 0
    assert_same(container[3], slab(3))


def test_the_index_knows_atoms_groups_targets_and_extra_columns(tmp_path: Path) -> None:
    samples = list(several(COUNT))
    container = write_container(
        tmp_path / "a.samples", samples, {"dataset": "x"}, extra={"edges": lambda s: len(s) / 2}
    )
    assert container.natoms.tolist() == [len(sample) for sample in samples]
    assert container.groups == [sample.group for sample in samples]
    assert container.targets == ("energy", "forces", "stress", "band_gap")
    assert container.index.extra["edges"].tolist() == [len(sample) / 2 for sample in samples]
    assert container.metadata["dataset"] == "x"


def test_the_same_samples_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = write_container(tmp_path / "again.samples", several(COUNT), {"dataset": "made"})
    assert again.path.read_bytes() == path.read_bytes()
    assert again.checksum == Container(path).checksum
    other = write_container(tmp_path / "other.samples", several(COUNT - 1), {"dataset": "made"})
    assert other.checksum != again.checksum


def test_a_container_can_be_pickled(path: Path) -> None:
    container = Container(path)
    assert_same(pickle.loads(pickle.dumps(container))[5], container[5])  # noqa: S301 -- our own


@pytest.mark.slow
def test_several_processes_read_a_container_at_once(path: Path) -> None:
    container = Container(path)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = list(pool.map(container.__getitem__, range(6)))
    for sample, number in zip(found, range(6), strict=True):
        assert_same(sample, container[number])


def test_random_access_is_quick(tmp_path: Path) -> None:
    container = write_container(tmp_path / "a.samples", (molecule(seed, 21) for seed in range(200)))
    order = np.random.default_rng(0).integers(0, 200, 4000).tolist()
    best = min(_seconds(container, order) for _ in range(5))
    assert len(order) / best > 20_000


def _seconds(container: Container, order: list[int]) -> float:
    """Time of the processor: other processes do not count."""
    start = time.process_time()
    for number in order:
        container[number]
    return time.process_time() - start


@pytest.mark.parametrize("field", ["record", "index", "head"])
def test_a_broken_byte_is_found_and_named(path: Path, field: str) -> None:
    content = bytearray(path.read_bytes())
    container = Container(path)
    offset = {"record": int(container._bounds[17]) + 40, "index": int(container._bounds[0]) - 9, "head": 25}[field]
    content[offset] ^= 1
    path.write_bytes(content)
    if field == "record":
        broken = Container(path)
        assert_same(broken[16], list(several(17))[16])
        with pytest.raises(DataError, match=r"made\.samples: record 17 .* broken .*prepare"):
            broken[17]
        with pytest.raises(DataError, match="record 17"):
            broken.verify()
    else:
        with pytest.raises(DataError, match=r"made\.samples: .*prepare"):
            Container(path)


def test_a_truncated_container_says_which_records_are_missing(path: Path) -> None:
    bounds = Container(path)._bounds
    content = path.read_bytes()
    path.write_bytes(content[: int(bounds[40]) + 8])
    with pytest.raises(DataError, match=r"made\.samples: .*records 40 to 59 .* missing"):
        Container(path)


@pytest.mark.parametrize("size", [0, 10, 64, 100, 300])
def test_a_container_cut_off_early_is_refused(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=r"made\.samples: "):
        Container(path)
    assert is_container(path) == (size > 16)


def test_a_newer_version_is_refused(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[16] = 9
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="version 9"):
        Container(path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"numbers": [300] * 5}, "numbers"),
        ({"tags": [200] * 5}, "tags"),
        ({"name": "x" * 70_000}, "too long"),
        ({"targets": {"a;b": 1.0}}, "a;b"),
    ],
)
def test_what_a_record_cannot_hold_is_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(DataError, match=word):
        encode(molecule(**changes))  # type: ignore[arg-type]


def test_samples_of_wrong_shape_are_refused() -> None:
    with pytest.raises(StructureError, match="record 1: forces has the shape"):
        molecule(1, targets={"forces": np.zeros((4, 3))})


def test_no_samples_make_no_container(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no structures"):
        write_container(tmp_path / "empty.samples", [])
    assert not (tmp_path / "empty.samples").exists()


def broken_off(count: int) -> Iterator[Sample]:
    yield from several(count)
    raise DataError("file, record 30: broken")


def test_an_interrupted_writer_goes_on_where_it_was(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "resumed.samples"
    for stop in (20, 35):
        with pytest.raises(DataError, match="broken"):
            write_container(target, broken_off(stop), {"dataset": "made"}, resume=True)
        assert not target.exists()
        assert staging.rows_written(staging_folder(target), 0) == stop
    write_container(target, several(COUNT), {"dataset": "made"}, resume=True)
    assert target.read_bytes() == path.read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["made.samples", "resumed.samples"]


def test_another_plan_or_no_resume_begins_again(tmp_path: Path) -> None:
    target = tmp_path / "a.samples"
    for metadata, resume in (({"dataset": "other"}, True), ({"dataset": "made"}, False)):
        with pytest.raises(DataError):
            write_container(target, broken_off(20), {"dataset": "made"})
        container = write_container(target, several(10), metadata, resume=resume)
        assert len(container) == 10


@pytest.mark.parametrize("lost", [1, 24, 30])
def test_a_half_written_row_or_record_is_written_again(path: Path, tmp_path: Path, lost: int) -> None:
    target = tmp_path / "resumed.samples"
    with pytest.raises(DataError):
        write_container(target, broken_off(20), {"dataset": "made"})
    for file in staging.part_paths(staging_folder(target), 0):
        content = file.read_bytes()
        file.write_bytes(content[:-lost] if file.suffix == ".records" else content + b"x" * 5)
    write_container(target, several(COUNT), {"dataset": "made"}, resume=True)
    assert target.read_bytes() == path.read_bytes()


def test_damage_to_what_is_written_is_found_when_the_parts_are_joined(tmp_path: Path) -> None:
    target = tmp_path / "resumed.samples"
    with pytest.raises(DataError):
        write_container(target, broken_off(20), {})
    records = staging.part_paths(staging_folder(target), 0)[0]
    content = bytearray(records.read_bytes())
    content[60] ^= 1
    records.write_bytes(content)
    with pytest.raises(DataError, match=r"record 0 .* broken"):
        write_container(target, several(COUNT), {}, resume=True)
    assert not target.exists()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "a.samples"

    def meanwhile() -> Iterator[Sample]:
        yield molecule()
        with pytest.raises(ConfigError, match="another process"):
            write_container(target, [molecule()])

    write_container(target, meanwhile())


def test_an_old_container_stays_until_the_new_one_is_complete(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(DataError):
        write_container(path, broken_off(3), {})
    assert path.read_bytes() == before
    write_container(path, several(3), {})
    assert len(Container(path)) == 3


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(staging, "_write", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_container(tmp_path / "a.samples", several(3))
    assert error.value.errno == errno.ENOSPC
    assert "a.samples" in str(error.value.filename)
    monkeypatch.undo()
    assert len(write_container(tmp_path / "a.samples", several(3), resume=True)) == 3


def test_a_part_waits_until_its_former_writer_has_ended(tmp_path: Path) -> None:
    with Part(tmp_path, 0) as part:
        part.append(molecule())
    holder = (
        f"import fcntl, time; f = open({str(tmp_path / '000000.records')!r}); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(0.4)"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        start = time.perf_counter()
        with Part(tmp_path, 0) as part:
            assert time.perf_counter() - start > 0.2
            assert len(part) == 1
    with (tmp_path / "000000.records").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    shutil.rmtree(tmp_path)


def test_records_are_committed_while_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_PERIOD", 0.0)
    with Part(tmp_path, 0) as part:
        for sample in islice(several(9), 5):
            part.append(sample)
        assert staging.rows_written(tmp_path, 0) == 5
