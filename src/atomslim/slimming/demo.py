"""The other story of `atomslim demo`: a fast student of an embedded model, for one molecule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ase.io import write

from atomslim.data.dataset import open_dataset
from atomslim.data.splits import evenly
from atomslim.files import atomic_write
from atomslim.slimming.slim import Slim, slim

TEACHER = "mini-smooth"

OPTIONS: dict[str, Any] = {
    "task": "molecules",
    "speedup": 1.3,
    "budget": "100s",
    "temperatures": (300.0,),
    "size": 100,
    "features": "distances",
    "rounds": 1,
    "runs": 4,
    "picoseconds": 0.5,
    "checks": ("forces", "symmetry", "smoothness"),
}
"""Two minutes with the validation."""

_FRAMES = 3


def slim_demo(folder: Path, tell: Callable[[str], None], **options: Any) -> Slim:
    """Make a student for paracetamol in a folder; run again, it goes on. ``options`` replace some of `OPTIONS`."""
    given = folder / "paracetamol.xyz"
    if not given.exists():
        data = open_dataset("mini:dynamics")
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(given) as temporary:
            frames = [data[place].to_ase() for place in evenly(len(data), _FRAMES)]
            write(temporary, [frame.copy() for frame in frames], format="extxyz")
    return slim(given, TEACHER, folder / "slim", tell=tell, **(OPTIONS | options))
