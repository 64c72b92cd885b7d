"""Memory of the CPU: keep what is freed, because asking the system for it again is slow."""

import ctypes
import functools
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next allocation instead of giving it back; say whether it does so now.

    Every layer allocates a few tens of MB. By default glibc maps and unmaps such blocks each time, and the system fills
    their pages with zeros again: on a virtual machine that takes longer than the arithmetic. The price is that the
    process keeps its peak memory. Only speeds up. ``ATOMSLIM_KEEP_MEMORY=0`` in the environment leaves glibc alone.
    """
    if not sys.platform.startswith("linux") or os.environ.get("ATOMSLIM_KEEP_MEMORY") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def give_back_freed_memory() -> None:
    """Let glibc return what is free now to the system, so that what comes next can be measured."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
