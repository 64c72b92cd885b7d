"""The machine that numbers were measured on, in words."""

import platform
from pathlib import Path

import torch


def machine(device: torch.device | None = None) -> str:
    """Name the processor or accelerator and the version of torch: times are meaningless without them."""
    if device is not None and device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f"{processor()}, {'1 thread' if threads == 1 else f'up to {threads} threads'}"
    return f"{name}, torch {torch.__version__}"


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (text.partition(":")[2].strip() for text in lines if text.startswith("model name"))
    return next(named, platform.processor() or "unknown processor")
