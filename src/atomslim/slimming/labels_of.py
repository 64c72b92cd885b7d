"""Taking student, pools and labels from another run, to compare runs that differ in one thing."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atomslim.errors import ConfigError
from atomslim.parsing import parse_json
from atomslim.slimming.journal import NAME
from atomslim.slimming.work import Work

STAGES = ("teacher", "student", "held-out pool", "pool", "labels")
"""The stages that are reused, with the seconds they took."""

FILES = ("student.safetensors", "held-out.samples", "train.samples", "validation.samples", "test.samples")

FOLDERS = ("held-out pool", "pool", "held-out", "labelled")

_OF_BOTH = ("task", "forces", "width")
"""Options that must be the same to reuse the labels."""


def take(work: Work) -> None:
    """Copy from the run named by the option `labels_of`, unless that is done; raises ConfigError if it cannot.

    Their seconds count, so that the same budget leaves as much for training.
    """
    if not work.options.labels_of or "labels" in work.done:
        return
    other = Path(work.options.labels_of)
    stages = _stages(work, other)
    work.tell(f"student, pools and labels: those of {other}")
    work.work_folder.mkdir(exist_ok=True)
    for name in FOLDERS:
        if (other / "work" / name).is_dir():
            shutil.copytree(other / "work" / name, work.work_folder / name, dirs_exist_ok=True)
    for name in FILES:
        if (other / "work" / name).is_file():
            shutil.copyfile(other / "work" / name, work.work_folder / name)
    work.journal.done.update(stages)
    work.journal.write()


def _stages(work: Work, other: Path) -> dict[str, dict[str, Any]]:
    """Return the notes of another run's stages that are reused."""
    said = f"labels_of {other}"
    try:
        note = parse_json((other / NAME).read_bytes())
        stages = {name: dict(note["stages"][name]) for name in STAGES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{said}: is not the folder of a slim run that has its labels") from error
    for what, differs in _differences(work, note).items():
        if differs:
            raise ConfigError(f"{said}: has other {what}: give the same to both runs")
    if not all((other / "work" / name).exists() for name in ("train.samples", "pool", "labelled")):
        raise ConfigError(f"{said}: its folder work, which held the labels, is gone")
    if work.options.student:
        del stages["student"]
    return stages


def _differences(work: Work, note: Mapping[str, Any]) -> dict[str, bool]:
    plan, theirs = work.journal.plan, note.get("of", {})
    found = {"teacher": plan["teacher"] != note.get("teacher"), "structures": plan["inputs"] != note.get("inputs")}
    return found | {name: plan["of"][name] != theirs.get(name) for name in _OF_BOTH}
