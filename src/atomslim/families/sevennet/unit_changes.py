"""What degrees of irreps contribute to a pass through a SevenNet model: states of atoms, and harmonics of edges."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from atomslim.families.sevennet.cut import degrees
from atomslim.families.sevennet.irreps import SCALAR
from atomslim.models.family import Change

if TYPE_CHECKING:
    from atomslim.families.sevennet.model import SevenNet


@contextmanager
def unit_changes(model: "SevenNet") -> Iterator[dict[str, list[Change]]]:
    """Note what the first pass has of each degree and of those above it."""
    found: dict[str, list[Change]] = {f"l {degree}": [] for degree in degrees(model)}
    noted: set[nn.Module] = set()

    def note(block: nn.Module, given: tuple[Any, ...], made: Any) -> None:
        if not noted:  # all blocks read the same harmonics
            for degree, harmonics in enumerate(given[2].harmonics):
                _add(found, degree, harmonics)
        if block not in noted:
            noted.add(block)
            for kind, x in made[1].items():
                _add(found, max(kind.l, int(kind != SCALAR)), x)  # odd scalars are made of vectors only

    with ExitStack() as hooks:
        for block in model.blocks:
            hooks.callback(block.register_forward_hook(note).remove)
        yield found


def _add(found: dict[str, list[Change]], degree: int, features: Tensor) -> None:
    if not features.requires_grad:  # harmonics, where nothing is a derivative
        return
    for lowest in range(1, degree + 1):
        if f"l {lowest}" in found:
            found[f"l {lowest}"].append(Change(None, features, turning=True))
