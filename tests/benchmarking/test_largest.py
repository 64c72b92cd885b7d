"""The largest cell that fits: the search for it, the limit it is found under, and amounts of memory as texts."""

import io
import pickle
import sys
from types import SimpleNamespace

import pytest
import torch

from atomslim.benchmarking.largest import TOO_LARGE, Cell, _run, _tried, largest_cell, require_free, search
from atomslim.benchmarking.passes import Job
from atomslim.benchmarking.structures import oxide
from atomslim.cli.settings import byte_count
from atomslim.errors import AtomslimError, ConfigError
from samples import DIRECT
from small_models import jmp


@pytest.mark.parametrize("bound", [8, 40, 64, 100, 1000, 12345])
def test_the_search_ends_within_a_tenth(bound: int) -> None:
    tried: list[int] = []

    def fitting(atoms: int) -> Cell | None:
        tried.append(atoms)
        return Cell(atoms, 10 * atoms, None) if atoms <= bound else None

    found = search(fitting)
    assert found is not None
    assert found.atoms <= bound <= max(1.1 * found.atoms, found.atoms + 8)
    assert len(tried) == len(set(tried))
    assert max(tried) <= max(2 * bound, 64)


def test_nothing_fits() -> None:
    assert search(lambda _atoms: None) is None


@pytest.mark.slow
def test_a_pass_gets_no_more_than_the_limit() -> None:
    job = Job(jmp(DIRECT, num_blocks=1).float(), "direct", "energy")
    found = _tried(job, 216, 10**9)
    assert found is not None
    assert found.atoms == 216
    assert found.edges > 216
    assert found.memory is not None
    assert 10**7 < found.memory < 10**9
    assert _tried(job, 216, found.memory // 2) is None


@pytest.mark.slow
def test_another_failure_is_said() -> None:
    with pytest.raises(AtomslimError, match=r"largest, 64 atoms: .*unknown task 'other'"):
        largest_cell(Job(jmp(DIRECT, num_blocks=0), "other", "energy"), 10**8)


@pytest.mark.parametrize(
    ("error", "too_large"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("the sizes of tensors do not match"), False),
    ],
)
def test_only_memory_makes_a_cell_too_large(error: Exception, too_large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise error

    job = Job(jmp(DIRECT, num_blocks=0), "direct", "energy")
    given = SimpleNamespace(buffer=io.BytesIO(pickle.dumps((job, oxide(8), 10**9, torch.get_num_threads()))))
    monkeypatch.setattr(sys, "stdin", given)
    monkeypatch.setattr("atomslim.benchmarking.largest.limit_memory", lambda *_: None)
    monkeypatch.setattr("atomslim.benchmarking.largest.keep_freed_memory", lambda: None)
    monkeypatch.setattr("atomslim.benchmarking.largest.peak_memory", failing)
    if too_large:
        assert _run() == TOO_LARGE
    else:
        with pytest.raises(RuntimeError, match="do not match"):
            _run()


def test_limits_that_cannot_be_kept_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (0, 2**60):
        with pytest.raises(ConfigError, match=f"largest {limit} bytes: .* bytes are free"):
            require_free(limit, torch.device("cpu"))
    monkeypatch.setattr("atomslim.benchmarking.largest.free_memory", lambda: None)
    with pytest.raises(ConfigError, match="does not limit the memory of a process"):
        require_free(1, torch.device("cpu"))


def test_amounts_of_memory() -> None:
    written = {"16GiB": 16 * 2**30, "500MB": 500 * 10**6, "8e9": 8 * 10**9, "1.5 kb": 1500, "100": 100, "7b": 7}
    assert {text: byte_count("--largest", text) for text in written} == written
    for text in ("", "much", "-1GB", "1XB", "GiB"):
        with pytest.raises(ConfigError, match=f"--largest {text}: write an amount of memory"):
            byte_count("--largest", text)
