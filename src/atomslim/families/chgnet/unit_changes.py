"""What single updates of bonds and of angles change in a pass through a CHGNet model."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from atomslim.models.family import Change

if TYPE_CHECKING:
    from atomslim.families.chgnet.model import CHGNet

_INDICES = {"bonds": 1, "angles": 2}
"""Indices of updated features among the arguments and results of a block."""


@contextmanager
def unit_changes(model: "CHGNet") -> Iterator[dict[str, list[Change]]]:
    """Note the features of bonds and angles before and after each update of the first pass."""
    found: dict[str, list[Change]] = {}
    with ExitStack() as hooks:
        for number, block in zip(model.block_ids, model.blocks, strict=True):
            hooks.callback(block.register_forward_hook(_noting(found, number)).remove)
        yield found


def _noting(found: dict[str, list[Change]], number: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def note(block: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        for kind, index in _INDICES.items():
            if getattr(block, kind) is not None:
                found.setdefault(f"{kind} {number}", [Change(given[index], made[index])])

    return note
