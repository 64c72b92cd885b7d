"""Where in a model the time of a pass goes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from atomslim.models.block_model import BlockModel

REST = "derivatives, rest"
"""Backward passes, and what is done outside the parts, such as index tables."""


def stage_seconds(model: BlockModel, run: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Run a pass once, and return the seconds spent in each kind of part.

    ``embedding`` (with the bases), ``blocks``, ``readout``, ``heads``, and the rest of the total. An accelerator
    is synchronised after each part, so that the total is slightly more than without.
    """
    seconds: dict[str, float] = defaultdict(float)
    with _watched(model, seconds, device):
        start = _now(device)
        run()
        total = _now(device) - start
    return {**seconds, REST: max(total - sum(seconds.values()), 0.0)}


@contextmanager
def _watched(model: BlockModel, seconds: dict[str, float], device: torch.device) -> Iterator[None]:
    started: dict[nn.Module, float] = {}
    hooks = []
    for part, modules in model.parts().items():
        stage = _stage(part)
        seconds[stage] += 0.0

        def begin(module: nn.Module, _inputs: Any) -> None:
            started[module] = _now(device)

        def end(module: nn.Module, _inputs: Any, _output: Any, stage: str = stage) -> None:
            seconds[stage] += _now(device) - started.pop(module)

        for module in modules:
            for one in _called(module):
                hooks += [one.register_forward_pre_hook(begin), one.register_forward_hook(end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _stage(part: str) -> str:
    """Return the kind of a part: all blocks are one stage, and so are all heads."""
    return {"block": "blocks", "head": "heads"}.get(part.split(maxsplit=1)[0], part)


def _called(module: nn.Module) -> Iterator[nn.Module]:
    """Give the module itself, or the contents of a container, which is never called."""
    if isinstance(module, nn.ModuleDict | nn.ModuleList):
        for child in module.children():
            yield from _called(child)
    else:
        yield module


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
