"""The other example of `atomslim demo`: a fast student of an embedded model, for one molecule."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ase.io import write

from atomslim.compress.prune import keep_blocks
from atomslim.data.dataset import open_dataset
from atomslim.data.splits import evenly
from atomslim.files import atomic_write
from atomslim.models.model_file import load, save
from atomslim.slimming.slim import Slim, slim

TEACHER = "mini-smooth"

BLOCKS, CALIBRATION = 2, 16
"""Blocks of the teacher that the student keeps, and molecules that its readout is fitted on in closed form."""

OPTIONS: dict[str, Any] = {
    "task": "molecules",
    "budget": "3min",
    "steps": 80,
    "temperatures": (300.0,),
    "size": 40,
    "features": "distances",
    "rounds": 0,
    "checks": ("forces", "symmetry", "smoothness"),
}
"""The student and its steps are fixed: on a busy machine, times would choose another one, with few steps."""

_FRAMES = 3


def slim_demo(folder: Path, tell: Callable[[str], None], **options: Any) -> Slim:
    """Make a student for paracetamol in a folder; run again, it continues. ``options`` replace some of `OPTIONS`."""
    given = folder / "paracetamol.xyz"
    if not given.exists():
        data = open_dataset("mini:dynamics")
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(given) as temporary:
            frames = [data[index].to_ase() for index in evenly(len(data), _FRAMES)]
            write(temporary, [frame.copy() for frame in frames], format="extxyz")
    student = folder / "student.safetensors"
    if not student.exists():
        fit: dict[str, Any] = {"realign": "least-squares-forces", "limit": CALIBRATION}
        save(keep_blocks(load(TEACHER), BLOCKS, calibration={"molecules": "mini:molecules"}, **fit), student)
    return slim(given, TEACHER, folder / "slim", tell=tell, **({"student": str(student)} | OPTIONS | options))
