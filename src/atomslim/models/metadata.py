"""The metadata of a model file, beside its tensors."""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydantic
import torch
from pydantic import BaseModel, ConfigDict, SerializeAsAny, field_validator

from atomslim import __version__
from atomslim.arguments import first_problem
from atomslim.errors import CheckpointError, ConfigError
from atomslim.models.block_model import BlockModel
from atomslim.models.family import Family, family_of
from atomslim.models.registry import family
from atomslim.models.retask import replace_tasks
from atomslim.models.tasks import Task
from atomslim.parsing import parse_json

FORMAT_VERSION = 2
"""Raised by one whenever older files need a step of `UPGRADES` to be read."""


def _named_family(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 calls the family an architecture."""
    return {("family" if name == "architecture" else name): value for name, value in content.items()}


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _named_family}
"""Version → what turns its metadata into that of the next version, beside what the model's family does."""

OWN_ENTRY = "atomslim"
"""Where a checkpoint in a package's own format keeps the metadata of a model that was written from here."""

UNITS = {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å³"}


class Metadata(BaseModel):
    """Everything besides tensors that a model consists of, and where it comes from."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    format_version: int
    family: str
    config: SerializeAsAny[BaseModel]
    tasks: tuple[Task, ...]
    block_ids: tuple[int, ...]
    history: list[dict[str, Any]]
    units: dict[str, str]
    versions: dict[str, str]

    @field_validator("block_ids")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(low >= high for low, high in zip((0, *value), value, strict=False)):
            raise ValueError(f"block numbers {list(value)[:20]} are not ascending from 1 on")
        return value

    @classmethod
    def of(cls, model: BlockModel) -> "Metadata":
        """Return a model's metadata; raises ConfigError for one of no family."""
        of = family_of(model)
        return cls(
            format_version=FORMAT_VERSION,
            family=of.name,
            config=of.configuration(model),
            tasks=tuple(model.tasks.values()),
            block_ids=model.block_ids,
            history=model.history,
            units=UNITS,
            versions=versions(of),
        )

    @classmethod
    def parse(cls, text: object, where: str) -> "Metadata":
        """Parse a file's metadata; raises CheckpointError, with the file's name ``where``, if it cannot."""
        if not isinstance(text, str):
            raise CheckpointError(f"{where}: its metadata is not text; copy it again")
        try:
            content: Any = parse_json(text)
            version = content["format_version"]
            if version > FORMAT_VERSION:
                raise CheckpointError(_too_new(content, where))
            for step in range(version, FORMAT_VERSION):
                content = UPGRADES[step](content)
                content = _family_in(content, where).upgrade(content, step)
            return cls.model_validate(_typed(content, _family_in(content, where)))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            problem = first_problem(error)
            raise CheckpointError(f"{where}: its metadata is damaged: {problem}; copy it again") from error


def _family_in(content: Mapping[str, Any], where: str) -> Family:
    """Return the family that a file names; raises CheckpointError where there is none of this name here."""
    try:
        return family(content["family"])
    except ConfigError as error:
        raise CheckpointError(f"{where}: holds a model of an {error}; install the package that provides it") from error


def _typed(content: dict[str, Any], of: Family) -> dict[str, Any]:
    """Return the metadata with configuration and graphs as their family has them; raises ValueError if it cannot."""
    tasks = [
        task | {"graph": _validated(of.graph_settings, task["graph"], f"tasks.{index}.graph")}
        if isinstance(task, dict) and "graph" in task
        else task  # what is missing, `Metadata` says
        for index, task in enumerate(content["tasks"])
    ]
    config = _validated(of.config, content["config"], "config")
    return content | {"config": config, "tasks": tasks, "format_version": FORMAT_VERSION}


def _validated(kind: type[BaseModel], content: object, where: str) -> BaseModel:
    try:
        return kind.model_validate(content)
    except pydantic.ValidationError as error:
        raise ValueError(f"{where}.{first_problem(error)}") from error


def checksum(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(of: Family | None = None) -> dict[str, str]:
    """Return the versions of the programs that a file's numbers depend on, a family's package among them."""
    found = {"atomslim": __version__, "torch": torch.__version__}
    if of is not None and of.package is not None:
        found[of.package] = of.installed() or "?"
    return found


def _too_new(content: Mapping[str, Any], where: str) -> str:
    found = content.get("versions")
    writer = found.get("atomslim", "?") if isinstance(found, Mapping) else "?"
    return (
        f"{where}: written in format version {content['format_version']} by atomslim {writer}, but atomslim "
        f"{__version__} reads versions up to {FORMAT_VERSION}; upgrade atomslim"
    )


def restore(model: BlockModel, own: Metadata, where: str) -> None:
    """Take over tasks, block numbers and history that `OWN_ENTRY` of a checkpoint holds; ``where`` names its file.

    Raises CheckpointError if they are another model's.
    """
    if len(own.block_ids) != model.num_blocks:
        raise CheckpointError(f"{where}: its entry {OWN_ENTRY!r} is about another model; remove the entry")
    try:
        replace_tasks(model, own.tasks)
    except ConfigError as error:
        raise CheckpointError(f"{where}: its entry {OWN_ENTRY!r} is about another model: {error}") from error
    model.block_ids = own.block_ids
    model.history = own.history + model.history
