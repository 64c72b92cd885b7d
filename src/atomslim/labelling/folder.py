"""Folders that a command fills, and continues when it is started again with the same arguments."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atomslim.errors import ConfigError
from atomslim.files import LOCK, atomic_write, leftovers, locked, new_folder
from atomslim.parsing import parse_json


@contextmanager
def claimed(folder: Path, name: str, plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Lock a folder that is new, empty, or made by the same plan, and give the contents of its note `name`.

    Raises:
        ConfigError: it holds something else, was made from other inputs, or another process is using it.
        OSError: it is a file, or cannot be made.

    """
    with new_folder(folder), locked(folder) as held:
        if not held:
            raise ConfigError(f"{folder}: another process is using it: wait for it, or end it")
        note = _read(folder, name)
        differing = [key for key, value in _plain(plan).items() if note and note.get(key) != value]
        if differing:
            raise ConfigError(f"{folder}: holds the work of other {_what(differing[0], note, plan)}: name a new folder")
        yield note


def write_note(path: Path, content: Mapping[str, Any]) -> None:
    """Write a note."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _read(folder: Path, name: str) -> Mapping[str, Any]:
    path = folder / name
    others = {child for child in folder.iterdir() if child.name not in {LOCK, name}} - leftovers(folder).keys()
    if not path.is_file():
        if others:
            raise ConfigError(f"{folder}: holds something else ({min(others).name}): name a new folder")
        return {}
    try:
        found = parse_json(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: is not a note of this command: name a new folder")
    return found


def _plain(plan: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(plan))


def _what(key: str, note: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Say which part of a plan differs, and how if that is short."""
    before, now = note.get(key), _plain(plan)[key]
    if isinstance(before, dict) and isinstance(now, dict):
        inner = next(name for name in {**before, **now} if before.get(name) != now.get(name))
        return f"{key} ({inner} was {before.get(inner)}, is {now.get(inner)})"[:300]
    return f"{key} (was {before}, is {now})"[:300]
