"""CPU memory: keep what is freed, because asking the system for it again is slow."""

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next allocation instead of giving it back; say whether it does so now.

    Every layer allocates a few tens of MB. By default glibc maps and unmaps such blocks each time, and the system fills
    their pages with zeros again: on a virtual machine that takes longer than the arithmetic. The price is that the
    process keeps its peak memory. ``ATOMSLIM_KEEP_MEMORY=0`` in the environment leaves glibc alone.
    """
    if not sys.platform.startswith("linux") or os.environ.get("ATOMSLIM_KEEP_MEMORY") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def give_back_freed_memory() -> None:
    """Let glibc return free memory to the system, so that what follows can be measured."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def peak_memory(function: Callable[[], Any], device: "torch.device") -> int | None:
    """Return the bytes that a function adds at its peak, or None where the system does not say."""
    if device.type == "cuda":
        import torch  # noqa: PLC0415 - `import atomslim` does without

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return int(torch.cuda.max_memory_allocated(device)) - before
    if not sys.platform.startswith("linux") or not _reset_peak():
        return None
    before = _status("VmRSS")
    function()
    return max(_status("VmHWM") - before, 0)


def _reset_peak() -> bool:
    """Let the system forget this process's peak memory; say whether it did."""
    give_back_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    """Read one of the process's own numbers in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    import resource  # noqa: PLC0415 - only where there is /proc

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out: torch's allocator on the CPU raises a plain RuntimeError."""
    import torch  # noqa: PLC0415 - `import atomslim` does without

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def free_memory() -> int | None:
    """Return the bytes that this process can still take without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min([available, *_left_in_cgroup(), *_left_of_limit()])


def _left_of_limit() -> list[int]:
    """Return what a limit on the process's address space (ulimit -v) leaves, if there is one."""
    import resource  # noqa: PLC0415 - only where there is /proc

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return []
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return [max(limit - pages * resource.getpagesize(), 0)]


def _left_in_cgroup() -> list[int]:
    """Return what the limit of a container or of a job leaves, if there is one."""
    for limit, usage in _CGROUP_FILES:
        if Path(limit).is_file() and (text := Path(limit).read_text(encoding="ascii").strip()) != "max":
            return [int(text) - int(Path(usage).read_text(encoding="ascii"))]
    return []
