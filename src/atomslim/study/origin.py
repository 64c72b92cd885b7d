"""The identity of a study by content: its model and its data, so that it never mixes cells of two."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atomslim.data.container import Container, contents, source_files
from atomslim.data.registry import resolve
from atomslim.errors import AtomslimError, ConfigError
from atomslim.models.metadata import checksum
from atomslim.study.options import StudyOptions

NOTE = "origin.json"
"""File in a study's folder that identifies its model and data."""


def study_origin(options: StudyOptions, folder: Path) -> dict[str, Any]:
    """Return checksums of a study's model and data, including data of earlier cells.

    Raises ConfigError if the folder's cells have other inputs.
    """
    before = _noted(folder)
    now = {"models": _model(options), "data": dict(_data(options))}
    for kind, found in now.items():
        for name, value in found.items():
            if before.get(kind, {}).get(name, value) != value:
                what = "the model" if kind == "models" else f"the data {name}"
                raise ConfigError(
                    f"{folder}: holds cells with other inputs: {what} has changed since: give the same, or name "
                    "another folder"
                )
    return {kind: {**before.get(kind, {}), **found} for kind, found in now.items()}


def require_same_model(options: StudyOptions, folder: Path) -> None:
    """Raise ConfigError if the model's file is not the one that the study began with."""
    noted = _noted(folder).get("models", {})
    if noted and noted != _model(options):
        raise ConfigError(f"{options.model_path}: has changed since the study began: put the same model there")


def _noted(folder: Path) -> dict[str, Any]:
    path = folder / NOTE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _model(options: StudyOptions) -> dict[str, str]:
    path = options.model_path
    return {"model": checksum(path)} if path.is_file() else {}


def _data(options: StudyOptions) -> Iterator[tuple[str, str]]:
    """Give names and checksums of existing inputs; cells report missing ones."""
    named = [(name, task.options) for task in options.mix for name in (task.data, task.validation_data, task.test_data)]
    named += [
        (name, dict(part.finetune.get("options", {})))
        for part in options.downstream
        for name in (part.data, *(part.finetune.get(kind, "") for kind in ("validation_data", "test_data")))
    ]
    for name, reader in named:
        try:
            found = _content(name, reader) if name else None
        except (AtomslimError, OSError):
            continue
        if found is not None:
            yield name, found


def _content(name: str, options: dict[str, str]) -> str | None:
    """Return the checksum of a dataset's files; for a container, that of its source."""
    source = resolve(name, options=options)
    if source.container is not None:
        container = Container(source.container)
        return str(container.metadata.get("contents") or container.checksum)
    return contents(source_files(source.path)) if source.path.exists() else None
