"""CPU threads: as many as this process may actually use, and no more than the work justifies.

Torch's threads wait for each other by spinning. Where two of them share a processor with another job, one spins until
the other is scheduled, at every operation: a pass of 75 ms then takes seconds. Small work is therefore done by one
thread, which is no slower: most of its time goes to starting operations.

If ``OMP_NUM_THREADS`` is set, nothing here changes the number of threads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import nn

WORTH = 3e8
"""Weights times atoms that justify one more thread: about 100 atoms for a model of three million weights."""

_SYSTEM = Path("/")

_weights: "WeakKeyDictionary[nn.Module, int]" = WeakKeyDictionary()


def usable_cpus() -> int:
    """Count the processors that this process may use: its affinity mask, limited by the quota of its control groups."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas())]))


def limit_threads() -> None:
    """Let torch use no more threads than there are usable processors; torch itself ignores quotas."""
    import torch  # noqa: PLC0415 - `import atomslim` does without

    if not _chosen_by_user() and torch.get_num_threads() > (usable := usable_cpus()):
        torch.set_num_threads(usable)


def shared_among(processes: int) -> None:
    """Give this process its share of the threads, when ``processes`` of its kind run on this machine."""
    import torch  # noqa: PLC0415 - as above

    if not _chosen_by_user():
        torch.set_num_threads(max(1, min(torch.get_num_threads(), usable_cpus() // processes)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, whatever was set: for times that are compared."""
    import torch  # noqa: PLC0415 - as above

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def fitting_threads(model: "nn.Module", atoms: int) -> Iterator[None]:
    """Compute with as many threads as a pass of the model over so many atoms justifies, at most as many as before."""
    import torch  # noqa: PLC0415 - as above

    before = torch.get_num_threads()
    wanted = fitting(model, atoms, before)
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fitting(model: "nn.Module", atoms: int, most: int) -> int:
    """Return how many threads, up to a maximum, a pass justifies; the maximum on an accelerator."""
    if most == 1 or _chosen_by_user() or next(model.parameters()).device.type != "cpu":
        return most
    if model not in _weights:
        _weights[model] = sum(weight.numel() for weight in model.parameters())
    return min(most, max(1, int(_weights[model] * atoms / WORTH)))


def _chosen_by_user() -> bool:
    return "OMP_NUM_THREADS" in os.environ


def _quotas() -> Iterator[float]:
    """Give the limits, in processors, of the process's control groups and of those above them."""
    try:
        lines = (_SYSTEM / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = _SYSTEM / "sys/fs/cgroup" / ("cpu" if controllers else "")
        for part in (group, *map(str, Path(group).parents)):
            yield from _quota(mount / part.lstrip("/"))


def _quota(folder: Path) -> Iterator[float]:
    """Give the limit of one control group (version 2 or 1), if it has one."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((folder / name).read_text(encoding="ascii").strip() for name in names)
    except (OSError, ValueError):
        return
    if quota not in {"max", "-1"} and float(period) > 0:
        yield float(quota) / float(period)
