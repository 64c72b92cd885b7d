"""How many threads compute: counted from what the system says, and from the work."""

import os
from pathlib import Path

import pytest
import torch
from ase.build import molecule

from atomslim import threads
from atomslim.atoms import from_ase
from atomslim.models.block_model import BlockFeatures, ReadoutFeatures
from samples import DIRECT
from small_models import jmp


@pytest.fixture(autouse=True)
def _nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def system(folder: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, groups: str, files: dict[str, str]) -> None:
    """Let the process have an affinity, control groups, and what their files say."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(threads, "_SYSTEM", folder)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ("0::/job/step\n", {"sys/fs/cgroup/job/cpu.max": "200000 100000\n"}, 2),
        (
            "0::/job/step\n",
            {f"sys/fs/cgroup/{at}cpu.max": f"{n}00000 100000\n" for at, n in (("", 7), ("job/step/", 6))},
            6,
        ),
        (
            "4:memory:/a\n3:cpu,cpuacct:/job\n0::/\n",
            {"sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "400000", "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000"},
            4,
        ),
        (
            "3:cpu:/\n",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            8,
        ),
        ("3:cpuset:/\n", {"sys/fs/cgroup/cpuset/cpu.max": "100000 100000"}, 8),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "what\n"}, 8),
    ],
)
def test_processors_are_those_of_the_affinity_within_every_quota(
    groups: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system(tmp_path, monkeypatch, 8, groups, files)
    assert threads.usable_cpus() == expected


def test_an_affinity_below_the_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(tmp_path, monkeypatch, 2, "0::/\n", {"sys/fs/cgroup/cpu.max": "300000 100000\n"})
    assert threads.usable_cpus() == 2


def test_torch_is_limited_to_the_quota_unless_the_user_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(tmp_path, monkeypatch, 8, "0::/\n", {"sys/fs/cgroup/cpu.max": "300000 100000\n"})
    torch.set_num_threads(2)
    threads.limit_threads()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(6)
    threads.limit_threads()
    assert torch.get_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    torch.set_num_threads(6)
    threads.limit_threads()
    threads.shared_among(3)
    assert torch.get_num_threads() == 6


@pytest.mark.parametrize(("processes", "expected"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_processes_share_the_threads(
    processes: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system(tmp_path, monkeypatch, 4, "0::/\n", {})
    torch.set_num_threads(4)
    threads.shared_among(processes)
    assert torch.get_num_threads() == expected


def test_small_work_takes_one_thread_and_large_work_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    atoms = int(threads.WORTH / 1e6)
    assert [threads.fitting(model, many * atoms // 2, 4) for many in (0, 1, 2, 3, 4, 7, 8, 99)] == [
        1,
        1,
        1,
        1,
        2,
        3,
        4,
        4,
    ]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads.fitting(model, 1, 4) == 4


def test_a_prediction_gives_the_threads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = jmp(DIRECT, num_blocks=1)
    seen: list[int] = []
    read = model.read

    def noted(features: BlockFeatures) -> ReadoutFeatures:
        seen.append(torch.get_num_threads())
        return read(features)

    monkeypatch.setattr(model, "read", noted)
    torch.set_num_threads(3)
    model.predict(from_ase(molecule("H2O")))
    assert (seen, torch.get_num_threads()) == ([1], 3)
